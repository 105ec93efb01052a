# SPDX-License-Identifier: Apache-2.0
"""From anyone's checkpoint to the arrays of one of our models: the only road a weight takes.

``rename`` turns a publisher's names and layout into public names and Paddle's layout; ``fit`` makes the arrays those
of one model (another number of patches, of classes) or says in one line why they are not; ``load_weights`` does both
and sets the model. The first two know nothing of Paddle: arrays and shapes in, arrays out.
"""
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Dict, List, Mapping, Sequence, Tuple, Union

import numpy as np

from CaiT.errors import InputError
from CaiT.weights.load_report import LoadReport, brief
from CaiT.weights.readers import PADDLE, TORCH, Checkpoint, read_checkpoint
from CaiT.weights.resample import grid_side, resample
from CaiT.weights.sources import CheckpointSource, public_name, recognize, unwrap

if TYPE_CHECKING:
    from paddle import nn

Arrays = Dict[str, np.ndarray]
HEADS = ('head', 'head_dist')
_HEADER_HINT = f", unless its header says {{'format': 'pd'}} for Paddle's {PADDLE}"


def load_weights(model: 'nn.Layer', path: Union[str, os.PathLike], strict: bool = True,
                 whole: bool = False) -> LoadReport:
    """Set the weights of ``model`` from anyone's checkpoint and return what was done, for the caller to print.

    ``path`` may leave out the extension. Nothing is set unless everything fits; see ``fit`` for what fits and for
    ``strict``. With ``whole`` nothing may be left at initialization, which is for models that are about to answer: a
    random head would look like success. Raises InputError, one line, for a file that is damaged, hostile, unknown or of
    another model. Beside the model, memory holds the file's arrays once.
    """
    checkpoint = read_checkpoint(path)
    arrays, report = rename(checkpoint)
    parameters = model.state_dict()
    arrays = fit(arrays, {name: tuple(p.shape) for name, p in parameters.items()}, report, strict)
    if whole and report.initial:
        raise InputError(f'{report.path}: does not hold {report.initial[0]} for {model.num_classes} classes; give the '
                         'number of classes it was trained with (-num_classes) and its config (-cfg)')
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


def rename(checkpoint: Checkpoint) -> Tuple[Arrays, LoadReport]:
    """The arrays under public names in Paddle's layout (Linear [in, out]), and the report so far.

    ``checkpoint.arrays`` is emptied on the way, so that no array is held twice.
    """
    publisher, names = _names(checkpoint)
    report = LoadReport(checkpoint.path, checkpoint.format, publisher.name, publisher.layout or checkpoint.layout,
                  found=len(checkpoint.arrays))
    arrays: Arrays = {}
    for name, sources in names.items():
        report.renamed += [(source, name) for source in sources if source != name]
        parts = [checkpoint.arrays.pop(source) for source in sources]
        if len({part.shape for part in parts}) > 1 or (len(parts) > 1 and not parts[0].shape):
            raise InputError(f'{checkpoint.path}: {", ".join(sources)} differ in shape, expected three parts of {name}')
        # Only PyTorch's layout has parts to join: outputs are the first axis.
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if is_linear(name, array) and report.layout != PADDLE:
            array = array.T
            report.transposed.append(name)
        arrays[name] = array
    if publisher.no_attention_bias and any(name.startswith('blocks_token_only.') for name in arrays):
        for name in [name for name, a in arrays.items() if is_linear(name, a) and '.attn.' in name]:
            bias = name[:-len('weight')] + 'bias'
            if bias not in arrays:
                arrays[bias] = np.zeros(arrays[name].shape[1], arrays[name].dtype)
                report.zero_filled.append(bias)
    _check_layout(arrays, report)
    return arrays, report


def is_linear(name: str, array: np.ndarray) -> bool:
    """Whether an array is a Linear's weight, the only kind that Paddle and PyTorch lay out differently."""
    return name.endswith('.weight') and array.ndim == 2


def _names(checkpoint: Checkpoint) -> Tuple[CheckpointSource, Dict[str, List[str]]]:
    """The publisher, and for each public name the names in the file it is made of."""
    bare = {name: unwrap(name) for name in checkpoint.arrays}
    try:
        publisher = recognize(bare.values())
    except InputError as error:
        raise InputError(f'{checkpoint.path}: {error}') from None
    names: Dict[str, List[str]] = {}
    for source, name in bare.items():
        names.setdefault(public_name(publisher, name), []).append(source)
    for name, sources in names.items():
        words = [word for source in sources for word in publisher.joined if f'.{word}.' in source]
        if len(sources) > 1 and sorted(words) != sorted(publisher.joined):
            raise InputError(f'{checkpoint.path}: {", ".join(sources)} are all {name} here, expected one of them')
        if words:
            sources.sort(key=lambda source: [f'.{word}.' in source for word in publisher.joined], reverse=True)
    return publisher, names


def _check_layout(arrays: Arrays, report: LoadReport) -> None:
    """A Linear's bias is as long as its outputs: where the matrix is not square, that proves the layout."""
    for name, array in arrays.items():
        bias = arrays.get(name[:-len('weight')] + 'bias') if is_linear(name, array) else None
        if bias is not None and array.shape[0] != array.shape[1] and bias.shape == array.shape[:1]:
            other = TORCH if report.layout == PADDLE else PADDLE
            hint = _HEADER_HINT if report.format == 'safetensors' else ''
            raise InputError(f'{report.path}: {name} is laid out {other}, but {report.publisher} names in a '
                             f'{report.format} file mean {report.layout}{hint}')


def fit(arrays: Arrays, shapes: Mapping[str, Sequence[int]], report: LoadReport, strict: bool = True) -> Arrays:
    """The normalized arrays that a model with these parameter shapes takes; ``report`` is completed.

    Heads for another number of classes are dropped on purpose, position embeddings are resampled for another number of
    patches. Beyond that, what the model misses or does not know is an InputError; with ``strict=False`` it stays at its
    initialization or is dropped. A shape that differs is an InputError always.
    """
    arrays = dict(arrays)
    _drop_heads(arrays, shapes, report)
    missing = [name for name in shapes if name not in arrays and name not in report.initial]
    unexpected = [name for name in arrays if name not in shapes]
    if strict and (missing or unexpected):
        raise InputError(f'{report.path}: is not of this model: ' + _misfit(missing, unexpected))
    kept = {name: arrays[name] for name in shapes if name in arrays}
    if not kept:
        raise InputError(f'{report.path}: has no array of this model')
    report.initial += missing
    report.dropped += unexpected
    if 'pos_embed' in kept:
        kept['pos_embed'] = _position_rows(kept['pos_embed'], _prefix(arrays), tuple(shapes['pos_embed']),
                                           _prefix(shapes), report)
    _check_shapes(kept, shapes, report)
    report.loaded = len(kept) - len([name for name in report.zero_filled if name in kept])
    return kept


def _drop_heads(arrays: Arrays, shapes: Mapping[str, Sequence[int]], report: LoadReport) -> None:
    """Take all heads out of ``arrays`` when one of them is for another number of classes than the model's."""
    found = {head: arrays[name] for head in HEADS for name in [f'{head}.weight']
             if name in arrays and is_linear(name, arrays[name])}
    wanted = {head: shapes[f'{head}.weight'] for head in HEADS if f'{head}.weight' in shapes}
    classes = sorted({array.shape[-1] for array in found.values()})
    if not found or (wanted and all(found[head].shape[-1] == wanted[head][-1] for head in found if head in wanted)):
        return
    report.notes.append(f'the file is for {" and ".join(map(str, classes))} classes, the model for '
                       + (str(next(iter(wanted.values()))[-1]) if wanted else 'none (it has no head)'))
    for name in [f'{head}.{kind}' for head in HEADS for kind in ('weight', 'bias')]:
        if name in arrays:
            report.dropped.append(name)
            del arrays[name]
        if name in shapes:
            report.initial.append(name)


def _misfit(missing: List[str], unexpected: List[str]) -> str:
    parts = []
    for title, names in (('lacks', missing), ('has in excess', unexpected)):
        if names:
            short = brief(names)
            parts.append(f'it {title} {len(names)} arrays ({", ".join(short[:3])}{", …" if len(short) > 3 else ""})')
    for names, text in ((missing, 'the model is distilled, the file is not'),
                        (unexpected, 'the file is distilled, the model is not')):
        if 'dist_token' in names:
            parts.append(text)
    return '; '.join(parts) + ' (for training and eval, -opts MODEL.STRICT False takes the rest)'


def _prefix(names: Mapping[str, object]) -> int:
    """Rows of the position embedding that are no patch: CaiT none, others the class and the distillation token's."""
    if any(name.startswith('blocks_token_only.') for name in names):
        return 0
    return 1 + ('dist_token' in names)


def _position_rows(found: np.ndarray, found_prefix: int, wanted: Tuple[int, ...], wanted_prefix: int,
                   report: LoadReport) -> np.ndarray:
    """The position embedding [1, prefix + patches, C] for the model's shape ``wanted``.

    Patch rows are resampled, prefix rows kept. Where the file has no distillation row (not strict), it is zeros.
    """
    if found.shape == wanted or found.ndim != 3 or found.shape[::2] != wanted[::2]:
        return found  # nothing to do, or a difference that the check of shapes reports
    try:
        old = grid_side(found.shape[1] - found_prefix, "the file's pos_embed")
        new = grid_side(wanted[1] - wanted_prefix, "the model's pos_embed")
    except InputError as error:
        raise InputError(f'{report.path}: {error}') from None
    prefix = np.zeros((1, wanted_prefix, wanted[2]), found.dtype)
    common = min(found_prefix, wanted_prefix)
    prefix[:, :common] = found[:, :common]
    if common < wanted_prefix:
        report.zero_filled.append(f'pos_embed row {common}')
    if common < found_prefix:
        report.dropped.append(f'pos_embed row {common}')
    patches = found[:, found_prefix:]
    if old != new:
        patches = resample(patches, new)
        report.resampled.append(f'pos_embed {old}x{old} -> {new}x{new} patches')
    return np.concatenate([prefix, patches], axis=1)


def _check_shapes(arrays: Arrays, shapes: Mapping[str, Sequence[int]], report: LoadReport) -> None:
    for name, array in arrays.items():
        if array.dtype.kind != 'f':
            raise InputError(f'{report.path}: {name} holds {array.dtype}, expected floating-point numbers')
    wrong = [name for name, array in arrays.items() if array.shape != tuple(shapes[name])]
    if not wrong:
        return
    name = wrong[0]
    text = f'{report.path}: {name} is {list(arrays[name].shape)}, the model needs {list(shapes[name])}'
    kernel = 'patch_embed.proj.weight'
    if wrong[0] == kernel and len(wrong) == 1:
        text += ': weights of another patch size fit no model but their own'
    elif is_linear(name, arrays[name]) and arrays[name].shape[::-1] == tuple(shapes[name]):
        text += f': the Linears are not laid out {report.layout}, as {report.publisher} names have it'
    raise InputError(text + (f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''))
