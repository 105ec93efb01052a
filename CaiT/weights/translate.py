# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint of any supported source into a model.

``rename`` turns a source's names and layout into public names and Paddle's layout; ``fit`` makes the arrays those
of one model (another number of patches, of classes) or says in one line why they are not; ``load_weights`` does both
and sets the model. The first two know nothing of Paddle: arrays and shapes in, arrays out.
"""
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

import numpy as np

from CaiT.errors import InputError
from CaiT.files import PathLike
from CaiT.weights import data_configs
from CaiT.weights.fit import Arrays, check_finite, fit, is_linear
from CaiT.weights.load_report import LoadReport
from CaiT.weights.readers import Checkpoint, read_checkpoint
from CaiT.weights.sources import PADDLE, PUBLIC, TORCH, CheckpointSource, find_models, not_ours, public_name, unwrap

if TYPE_CHECKING:
    from paddle import nn

_HEADER_HINT = f", unless its header says {{'format': 'pd'}} for Paddle's {PADDLE}"
# Counters that wrappers leave among the weights (torch.optim.swa_utils.AveragedModel, timm's ModelEma).
COUNTERS = ('n_averaged', 'num_updates', 'decay')


def load_weights(model: 'nn.Layer', path: PathLike, strict: bool = True, require_all: bool = False,
                 use_ema: bool = False, key: str = '', new_head: Optional[bool] = None) -> LoadReport:
    """Set the weights of ``model`` from a checkpoint of any supported source; returns a report for the caller to print.

    ``path`` may omit the extension. No parameter is set unless all arrays fit and every number is finite; see ``fit``
    for what fits and for ``strict``. With ``require_all`` no parameter may stay at its initial value, which is for
    evaluation, prediction and export: with a randomly initialized head they would seem to work. ``use_ema`` and ``key``
    choose among several models in the file (``containers.select``). ``new_head``: whether a file without a classifier
    may leave the model's at its initial value; None: unless the model has ImageNet's 1000 classes, which say nothing of
    fine-tuning. Raises InputError for a file that is damaged, malicious, of an unknown format or of another model.
    Besides the model, the file's arrays are in memory once.
    """
    checkpoint = read_checkpoint(path, use_ema, key)
    arrays, report = rename(checkpoint, getattr(model, 'family', ''))
    parameters = model.state_dict()
    new_head = model.num_classes != 1000 if new_head is None else new_head
    asked = getattr(model, 'default_cfg', {}).get('architecture', '')
    arrays = fit(arrays, {name: tuple(p.shape) for name, p in parameters.items()}, report, strict, new_head, asked)
    if require_all and report.initial:
        raise InputError(f'{report.path}: does not hold {report.initial[0]} for {model.num_classes} classes; give the '
                         'number of classes it was trained with (-num_classes) and its config (-cfg)')
    check_finite(arrays, report.path)
    for name in list(arrays):
        parameter, array = parameters[name], arrays.pop(name)
        kind = str(parameter.dtype).split('.')[-1]  # 'paddle.float32'
        if array.dtype.name != kind:
            report.converted.append((name, f'{array.dtype.name} to {kind}'))
        value = np.ascontiguousarray(array, np.float32)
        if kind != 'float32':  # NumPy has no bfloat16
            from paddle import to_tensor
            value = to_tensor(value).astype(parameter.dtype)
        parameter.set_value(value)
    return report


def rename(checkpoint: Checkpoint, family: str = '') -> Tuple[Arrays, LoadReport]:
    """The arrays under public names in Paddle's layout (Linear [in, out]), and the report so far.

    ``family`` ('cait', 'deit', 'vit') is of the model that they are for, where it is known: its data config depends on
    it. ``checkpoint.arrays`` is emptied on the way, so that no array is held twice.
    """
    source, prefix, names, dropped = _names(checkpoint)
    layout = checkpoint.layout if checkpoint.says_layout else source.layout or checkpoint.layout
    report = LoadReport(checkpoint.path, checkpoint.format, source.name, layout,
                        found=len(checkpoint.arrays), dropped=dropped, notes=list(checkpoint.notes))
    arrays: Arrays = {}
    for name, parts_of in names.items():
        report.renamed += [(part, name) for part in parts_of if part != name]
        parts = [checkpoint.arrays.pop(part) for part in parts_of]
        if len({part.shape for part in parts}) > 1 or (len(parts) > 1 and not parts[0].shape):
            raise InputError(f'{checkpoint.path}: {", ".join(parts_of)} differ in shape, expected three parts of '
                             f'{name}')
        joined = parts[0]
        if len(parts) > 1:  # outputs are the first axis of a bias and of a weight in PyTorch's layout
            joined = np.concatenate(parts, axis=0 if report.layout == TORCH else -1)
        if is_linear(name, joined) and report.layout != PADDLE:
            joined = joined.T
            report.transposed.append(name)
        arrays[name] = joined
        if checkpoint.bfloat16.intersection(parts_of):
            report.converted.append((name, 'bfloat16 to float32'))
    checkpoint.arrays.clear()
    if source.no_attention_bias and any(name.startswith('blocks_token_only.') for name in arrays):
        for name in [name for name, a in arrays.items() if is_linear(name, a) and '.attn.' in name]:
            bias = name[:-len('weight')] + 'bias'
            if bias not in arrays:
                arrays[bias] = np.zeros(arrays[name].shape[1], arrays[name].dtype)
                report.zero_filled.append(bias)
    _check_layout(arrays, report)
    report.data, report.data_source = _data_config(arrays, checkpoint, source, prefix, family)
    return arrays, report


def _data_config(arrays: Arrays, checkpoint: Checkpoint, source: CheckpointSource, prefix: str, family: str) -> tuple:
    """(data config, where it is from) of a file, see ``data_configs.find``. What its names say of the family counts
    more than ``family``, that of the model."""
    if any(name.startswith('blocks_token_only.') for name in arrays):
        family = 'cait'
    elif prefix in ('vit.', 'deit.'):
        family = prefix[:-1]
    elif 'dist_token' in arrays:
        family = 'deit'
    elif not family and source.name in ('MindCV', 'Hugging Face transformers', 'DINO', 'MAE'):
        family = 'vit'
    name, size = source.name, 0
    if name == 'timm' and checkpoint.key.split('.')[0] in ('teacher', 'student'):
        name = 'DINO'
    embedding, kernel = arrays.get('pos_embed'), arrays.get('patch_embed.proj.weight')
    if embedding is not None and kernel is not None and embedding.ndim == 3 and kernel.ndim == 4:
        size = int(embedding.shape[1] ** 0.5) * kernel.shape[-1]  # of the class token's row the root drops the rest
    return data_configs.find(checkpoint.path, name, family, size, checkpoint.metadata)


def _names(checkpoint: Checkpoint) -> Tuple[CheckpointSource, str, Dict[str, List[str]], List[str]]:
    """The source; the prefix of all names; for each public name the names in the file it is made of; other names.

    The last are what a source keeps beside its model, counters, and, where the model's names have a prefix, arrays
    without it (a loss, a metric) unless they are called like weights of ours (a head outside the backbone).
    """
    bare = {name: unwrap(name) for name in checkpoint.arrays}
    models = find_models(bare.values())
    if not models:
        raise InputError(f'{checkpoint.path}: {not_ours(list(bare.values()))}')
    prefix, source = next(iter(models.items()))
    names: Dict[str, List[str]] = {}
    dropped: List[str] = []
    for original, name in bare.items():
        inside = name.startswith(prefix)
        name = public_name(source, name[len(prefix):] if inside else name)
        unused = bool(source.unused and re.search(source.unused, name))
        if unused or name in COUNTERS or not inside and not PUBLIC.match(name):
            dropped.append(original)
        else:
            names.setdefault(name, []).append(original)
    for name, parts in names.items():
        words = [word for part in parts for word in source.joined if f'.{word}.' in part]
        if len(parts) > 1 and sorted(words) != sorted(source.joined):
            raise InputError(f'{checkpoint.path}: {", ".join(parts)} all stand for {name}, expected one of them')
        if words:
            parts.sort(key=lambda part: [f'.{word}.' in part for word in source.joined], reverse=True)
    return source, prefix, names, dropped


def _check_layout(arrays: Arrays, report: LoadReport) -> None:
    """A Linear's bias is as long as its outputs: where the matrix is not square, that proves the layout."""
    for name, array in arrays.items():
        bias = arrays.get(name[:-len('weight')] + 'bias') if is_linear(name, array) else None
        if bias is not None and array.shape[0] != array.shape[1] and bias.shape == array.shape[:1]:
            other = TORCH if report.layout == PADDLE else PADDLE
            hint = _HEADER_HINT if report.format == 'safetensors' else ''
            raise InputError(f'{report.path}: {name} is laid out {other}, but {report.source} names in a '
                             f'{report.format} file mean {report.layout}{hint}')
