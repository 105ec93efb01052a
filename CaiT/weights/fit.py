# SPDX-License-Identifier: Apache-2.0
"""Arrays under public names made those of one model, or one line that says why they are not. Without Paddle."""
from __future__ import annotations

from typing import Dict, List, Mapping, Sequence, Tuple

import numpy as np

from CaiT.errors import InputError
from CaiT.weights.load_report import LoadReport, brief
from CaiT.weights.other_model import difference, is_cait, is_same_network
from CaiT.weights.resample import grid_side, resample
from CaiT.weights.sources import probably

Arrays = Dict[str, np.ndarray]
HEADS = ('head', 'head_dist')


def is_linear(name: str, array: np.ndarray) -> bool:
    """Whether an array is a Linear's weight, the only kind that Paddle and PyTorch lay out differently."""
    return name.endswith('.weight') and array.ndim == 2


def fit(arrays: Arrays, shapes: Mapping[str, Sequence[int]], report: LoadReport, strict: bool = True,
        new_head: bool = False, name: str = '') -> Arrays:
    """The normalized arrays that a model with these parameter shapes takes; ``report`` is completed.

    ``name`` is the model's registered name, for messages.

    Heads for another number of classes are dropped on purpose; with ``new_head`` a file without a classifier leaves the
    model's at its initialization. Position embeddings are resampled for another number of patches. Beyond that, what
    the model misses or does not know is an InputError; with ``strict=False`` it stays at its initialization or is
    dropped. A shape that differs is an InputError always.
    """
    arrays = dict(arrays)
    found = {key: array.shape for key, array in arrays.items()}
    _drop_heads(arrays, shapes, report)
    headless = not any(name.startswith(tuple(f'{head}.' for head in HEADS)) for name in arrays)
    if headless and new_head and not report.initial:
        _leave_heads(shapes, report)
    missing = [name for name in shapes if name not in arrays and name not in report.initial]
    unexpected = [name for name in arrays if name not in shapes]
    if strict and (missing or unexpected):
        raise InputError(f'{report.path}: is not of this model: ' + _mismatch(missing, unexpected, found, shapes, name))
    stored = {name: arrays[name] for name in shapes if name in arrays}
    if not stored:
        raise InputError(f'{report.path}: has no array of this model')
    report.initial += missing
    report.dropped += unexpected
    if 'pos_embed' in stored:
        stored['pos_embed'] = _position_rows(stored['pos_embed'], _prefix(arrays), tuple(shapes['pos_embed']),
                                             _prefix(shapes), report)
    _check_shapes(stored, shapes, report, found, name)
    report.converted = [pair for pair in report.converted if pair[0] in stored]
    report.loaded = len(stored) - len([name for name in report.zero_filled if name in stored])
    return stored


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


def _leave_heads(shapes: Mapping[str, Sequence[int]], report: LoadReport) -> None:
    """A file without a classifier (a backbone, pre-training) leaves the model's at its initialization."""
    heads = [f'{head}.{kind}' for head in HEADS for kind in ('weight', 'bias') if f'{head}.{kind}' in shapes]
    if heads:
        report.notes.append(f'the file has no classifier: the one for {shapes[heads[0]][-1]} classes is new')
        report.initial += heads


def _mismatch(missing: List[str], unexpected: List[str], found: Mapping[str, Sequence[int]],
              wanted: Mapping[str, Sequence[int]], model: str) -> str:
    # Of a CaiT's names nothing is guessed: it has parts that others have too. Of a file for another network all tell.
    guess = '' if is_cait(found) else probably(unexpected if is_same_network(found, wanted) else found)[2:]
    other = '' if guess else difference(found, wanted, model)
    parts = [other] if other else []
    for title, names in (('lacks', missing), ('has in excess', unexpected)):
        if names:
            short = brief(names)
            parts.append(f'it {title} {len(names)} arrays ({", ".join(short[:3])}{", …" if len(short) > 3 else ""})')
    for names, text in ((missing, 'the model is distilled, the file is not'),
                        (unexpected, 'the file is distilled, the model is not')):
        if 'dist_token' in names:
            parts.append(text)
    if missing and all(name.startswith(tuple(f'{head}.' for head in HEADS)) for name in missing):
        parts.append('a file without a classifier is for fine-tuning: say for how many classes (-num_classes)')
    if guess:
        parts.append(guess)
    # Of another network the rest would make a model that computes nothing meaningful.
    takes_rest = not guess and is_cait(found) == is_cait(wanted)
    hint = ' (for training and eval, -opts MODEL.STRICT False takes the rest)' if takes_rest else ''
    return '; '.join(parts) + hint


def _prefix(names: Mapping[str, object]) -> int:
    """Rows of the position embedding that are no patch: CaiT none, others the class and the distillation token's."""
    if any(name.startswith('blocks_token_only.') for name in names):
        return 0
    return 1 + ('dist_token' in names)


def _position_rows(found: np.ndarray, found_prefix: int, wanted: Tuple[int, ...], wanted_prefix: int,
                   report: LoadReport) -> np.ndarray:
    """The position embedding [1, prefix + patches, C] for the model's shape ``wanted``.

    Patch rows are resampled, prefix rows stored. Where the file has no distillation row (not strict), it is zeros.
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


def _check_shapes(arrays: Arrays, shapes: Mapping[str, Sequence[int]], report: LoadReport,
                  found: Mapping[str, Sequence[int]], model: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind != 'f':
            raise InputError(f'{report.path}: {name} holds {array.dtype}, expected floating-point numbers')
    wrong = [name for name, array in arrays.items() if array.shape != tuple(shapes[name])]
    if not wrong:
        return
    name = wrong[0]
    text = f'{report.path}: {name} is {list(arrays[name].shape)}, the model needs {list(shapes[name])}'
    kernel = 'patch_embed.proj.weight'
    shape, wanted = arrays[name].shape, tuple(shapes[name])
    if name == kernel and len(shape) == len(wanted) == 4 and shape[1] != wanted[1] and shape[::2] == wanted[::2]:
        text += f': weights for images of {shape[1]} channels, a model for {wanted[1]} (MODEL.IN_CHANNELS)'
    elif name == kernel and len(wrong) == 1:
        text += ': weights of another patch size cannot be adapted'
    elif is_linear(name, arrays[name]) and arrays[name].shape[::-1] == tuple(shapes[name]):
        text += f': the Linear weights are not laid out {report.layout}, the layout of {report.source} checkpoints'
    if len(wrong) > 1:
        text += f' (and {len(wrong) - 1} more)'
    other = difference(found, shapes, model)
    raise InputError(text + (f'; {other}' if other else ''))


def check_finite(arrays: Arrays, path: str) -> None:
    """InputError for the first array that holds NaN or infinity as float32: a diverged run, an overflow."""
    with np.errstate(over='ignore'):
        bad = [name for name, array in arrays.items()
               if array.dtype.kind == 'f' and not np.isfinite(np.asarray(array, np.float32)).all()]
        array = np.asarray(arrays[bad[0]], np.float32) if bad else None
    if bad:
        count = array.size - int(np.isfinite(array).sum())
        kind = 'NaN' if np.isnan(array).any() else 'Inf'
        raise InputError(f'{path}: {bad[0]} holds {kind} ({count} of {array.size} numbers are not finite'
                         + (f', and so in {len(bad) - 1} more arrays' if len(bad) > 1 else '')
                         + '); expected finite weights: go back to a checkpoint before the training diverged')
