# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint of any supported source into a model.

``rename`` maps the names and layout of a checkpoint to public names and Paddle's layout; ``fit`` adapts the arrays to
one model (another number of patches or classes) or raises an InputError that says why they do not fit;
``load_weights`` does both and sets the model's parameters. ``rename`` and ``fit`` work on NumPy arrays without Paddle.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from CaiT.errors import InputError
from CaiT.files import PathLike
from CaiT.weights.load_report import LoadReport, brief
from CaiT.weights.readers import PADDLE, TORCH, Checkpoint, read_checkpoint
from CaiT.weights.resample import grid_side, resample
from CaiT.weights.sources import CheckpointSource, public_name, recognize, unwrap

if TYPE_CHECKING:
    from paddle import nn

Arrays = Dict[str, np.ndarray]
HEADS = ('head', 'head_dist')
_HEADER_HINT = f", unless its header says {{'format': 'pd'}} for Paddle's {PADDLE}"


def load_weights(model: 'nn.Layer', path: PathLike, strict: bool = True, require_all: bool = False) -> LoadReport:
    """Set the weights of ``model`` from a checkpoint of any supported source; returns a report for the caller to print.

    ``path`` may omit the extension. No parameter is set unless all arrays fit; see ``fit`` for what fits and for
    ``strict``. With ``require_all`` no parameter may stay at its initial value, which is for evaluation, prediction and
    export: with a randomly initialized head they would seem to work. Raises InputError for a file that is damaged,
    malicious, of an unknown format or of another model. Besides the model, the file's arrays are in memory once.
    """
    checkpoint = read_checkpoint(path)
    arrays, report = rename(checkpoint)
    parameters = model.state_dict()
    arrays = fit(arrays, {name: tuple(p.shape) for name, p in parameters.items()}, report, strict)
    if require_all and report.initial:
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

    Removes the arrays from ``checkpoint.arrays``, so that none is in memory twice.
    """
    source, names = _names(checkpoint)
    report = LoadReport(checkpoint.path, checkpoint.format, source.name, source.layout or checkpoint.layout,
                  found=len(checkpoint.arrays))
    arrays: Arrays = {}
    for name, keys in names.items():
        report.renamed += [(key, name) for key in keys if key != name]
        parts = [checkpoint.arrays.pop(key) for key in keys]
        if len({part.shape for part in parts}) > 1 or (len(parts) > 1 and not parts[0].shape):
            raise InputError(f'{checkpoint.path}: {", ".join(keys)} differ in shape, expected three parts of {name}')
        # Only sources in PyTorch's layout have parts to join, along the output axis, which is their first.
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if is_linear(name, array) and report.layout != PADDLE:
            array = array.T
            report.transposed.append(name)
        arrays[name] = array
    if source.no_attention_bias and any(name.startswith('blocks_token_only.') for name in arrays):
        for name in [name for name, a in arrays.items() if is_linear(name, a) and '.attn.' in name]:
            bias = name[:-len('weight')] + 'bias'
            if bias not in arrays:
                arrays[bias] = np.zeros(arrays[name].shape[1], arrays[name].dtype)
                report.zero_filled.append(bias)
    _check_layout(arrays, report)
    return arrays, report


def is_linear(name: str, array: np.ndarray) -> bool:
    """Whether an array is a Linear's weight, the only parameter whose layout differs between Paddle and PyTorch."""
    return name.endswith('.weight') and array.ndim == 2


def _names(checkpoint: Checkpoint) -> Tuple[CheckpointSource, Dict[str, List[str]]]:
    """The source, and {public name: the keys in the file that it is made of}."""
    unwrapped = {name: unwrap(name) for name in checkpoint.arrays}
    try:
        source = recognize(unwrapped.values())
    except InputError as error:
        raise InputError(f'{checkpoint.path}: {error}') from None
    names: Dict[str, List[str]] = {}
    for key, name in unwrapped.items():
        names.setdefault(public_name(source, name), []).append(key)
    for name, keys in names.items():
        words = [word for key in keys for word in source.joined if f'.{word}.' in key]
        if len(keys) > 1 and sorted(words) != sorted(source.joined):
            raise InputError(f'{checkpoint.path}: {", ".join(keys)} all stand for {name}, expected one of them')
        if words:
            keys.sort(key=lambda key: [f'.{word}.' in key for word in source.joined], reverse=True)
    return source, names


def _check_layout(arrays: Arrays, report: LoadReport) -> None:
    """Check the layout of all non-square Linear weights by their biases, whose length is the number of outputs."""
    for name, array in arrays.items():
        bias = arrays.get(name[:-len('weight')] + 'bias') if is_linear(name, array) else None
        if bias is not None and array.shape[0] != array.shape[1] and bias.shape == array.shape[:1]:
            other = TORCH if report.layout == PADDLE else PADDLE
            hint = _HEADER_HINT if report.format == 'safetensors' else ''
            raise InputError(f'{report.path}: {name} is laid out {other}, but {report.source} names in a '
                             f'{report.format} file mean {report.layout}{hint}')


def fit(arrays: Arrays, shapes: Mapping[str, Sequence[int]], report: LoadReport, strict: bool = True) -> Arrays:
    """The renamed arrays adapted to a model with these parameter ``shapes``; completes ``report``.

    Heads for another number of classes are dropped and position embeddings resampled for another number of patches.
    Any other missing or unexpected array is an InputError; with ``strict=False`` missing parameters keep their initial
    values and unexpected arrays are dropped. Any other difference in shape is always an InputError.
    """
    arrays = dict(arrays)
    _drop_heads(arrays, shapes, report)
    missing = [name for name in shapes if name not in arrays and name not in report.initial]
    unexpected = [name for name in arrays if name not in shapes]
    if strict and (missing or unexpected):
        raise InputError(f'{report.path}: is not of this model: ' + _mismatch(missing, unexpected))
    fitted = {name: arrays[name] for name in shapes if name in arrays}
    if not fitted:
        raise InputError(f'{report.path}: has no array of this model')
    report.initial += missing
    report.dropped += unexpected
    if 'pos_embed' in fitted:
        fitted['pos_embed'] = _fit_pos_embed(fitted['pos_embed'], _num_prefix_rows(arrays), tuple(shapes['pos_embed']),
                                             _num_prefix_rows(shapes), report)
    _check_shapes(fitted, shapes, report)
    report.loaded = len(fitted) - len([name for name in report.zero_filled if name in fitted])
    return fitted


def _drop_heads(arrays: Arrays, shapes: Mapping[str, Sequence[int]], report: LoadReport) -> None:
    """Remove all heads from ``arrays`` when one of them has another number of classes than the model."""
    found = {head: arrays[name] for head in HEADS for name in [f'{head}.weight']
             if name in arrays and is_linear(name, arrays[name])}
    expected = {head: shapes[f'{head}.weight'] for head in HEADS if f'{head}.weight' in shapes}
    classes = sorted({array.shape[-1] for array in found.values()})
    common = [head for head in found if head in expected]
    if not found or (expected and all(found[head].shape[-1] == expected[head][-1] for head in common)):
        return
    report.notes.append(f'the file is for {" and ".join(map(str, classes))} classes, the model for '
                       + (str(next(iter(expected.values()))[-1]) if expected else 'none (it has no head)'))
    for name in [f'{head}.{kind}' for head in HEADS for kind in ('weight', 'bias')]:
        if name in arrays:
            report.dropped.append(name)
            del arrays[name]
        if name in shapes:
            report.initial.append(name)


def _mismatch(missing: List[str], unexpected: List[str]) -> str:
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


def _num_prefix_rows(names: Mapping[str, object]) -> int:
    """Rows of the position embedding before the patch rows, of the class and distillation tokens; 0 for CaiT."""
    if any(name.startswith('blocks_token_only.') for name in names):
        return 0
    return 1 + ('dist_token' in names)


def _fit_pos_embed(found: np.ndarray, found_prefix: int, shape: Tuple[int, ...], prefix: int,
                   report: LoadReport) -> np.ndarray:
    """The position embedding [1, prefix + patches, C] resampled to ``shape``.

    Patch rows are resampled, prefix rows copied. A distillation row that the file lacks (not strict) is zeros.
    """
    if found.shape == shape or found.ndim != 3 or found.shape[::2] != shape[::2]:
        return found  # nothing to do, or a difference that _check_shapes reports
    try:
        old = grid_side(found.shape[1] - found_prefix, "the file's pos_embed")
        new = grid_side(shape[1] - prefix, "the model's pos_embed")
    except InputError as error:
        raise InputError(f'{report.path}: {error}') from None
    prefix_rows = np.zeros((1, prefix, shape[2]), found.dtype)
    common = min(found_prefix, prefix)
    prefix_rows[:, :common] = found[:, :common]
    if common < prefix:
        report.zero_filled.append(f'pos_embed row {common}')
    if common < found_prefix:
        report.dropped.append(f'pos_embed row {common}')
    patch_rows = found[:, found_prefix:]
    if old != new:
        patch_rows = resample(patch_rows, new)
        report.resampled.append(f'pos_embed {old}x{old} -> {new}x{new} patches')
    return np.concatenate([prefix_rows, patch_rows], axis=1)


def _check_shapes(arrays: Arrays, shapes: Mapping[str, Sequence[int]], report: LoadReport) -> None:
    for name, array in arrays.items():
        if array.dtype.kind != 'f':
            raise InputError(f'{report.path}: {name} holds {array.dtype}, expected floating-point numbers')
    wrong = [name for name, array in arrays.items() if array.shape != tuple(shapes[name])]
    if not wrong:
        return
    name = wrong[0]
    text = f'{report.path}: {name} is {list(arrays[name].shape)}, the model needs {list(shapes[name])}'
    if name == 'patch_embed.proj.weight' and len(wrong) == 1:
        text += ': weights of another patch size cannot be adapted'
    elif is_linear(name, arrays[name]) and arrays[name].shape[::-1] == tuple(shapes[name]):
        text += f': the Linear weights are not laid out {report.layout}, the layout of {report.source} checkpoints'
    raise InputError(text + (f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''))
