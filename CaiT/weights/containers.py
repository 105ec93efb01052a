# SPDX-License-Identifier: Apache-2.0
"""Which of a file's arrays are the model: the state dict among optimizer, arguments, averages and second models."""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from CaiT.errors import InputError, shown
from CaiT.weights.bfloat16 import Bfloat16
from CaiT.weights.sources import find_models, probably, unwrap
from CaiT.weights.torch_pth import Tensor

MAX_LEVELS = 4  # of dicts within dicts in which weights are looked for
# Keys of the model itself, the usual ones first; they decide between several and where no name is known.
KEYS = ('state_dict', 'model', 'model_state_dict', 'module', 'net', 'network', 'params', 'weights')
_AVERAGE = re.compile(r'(^|[._])(ema|averaged?)([._]|$)')
CHOICE = '-opts MODEL.CHECKPOINT_KEY'


@dataclass
class StateDict:
    """The arrays of one model in a file. ``key`` is where they are ('model_ema', 'teacher.backbone'), '' for the file
    itself, ``beside`` names what else is in their dict."""
    key: str
    arrays: Dict[str, Any]
    beside: List[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        return shown(self.key) or 'the file itself'

    @property
    def shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Of the arrays, by the last part of the name, without what differs between two copies of a model."""
        prefix = next(iter(find_models(map(unwrap, self.arrays))), '')
        return {unwrap(name)[len(prefix):]: tuple(_bare(array).shape) for name, array in self.arrays.items()
                if unwrap(name).startswith(prefix)}


def select(content: Any, use_ema: bool = False, key: str = '') -> Tuple[StateDict, List[str]]:
    """The state dict that is meant and notes on what else there was.

    ``use_ema`` takes the moving average instead of the weights; ``key`` names one of several, or where the only one is.
    InputError when there is none, or when only the user can tell which.
    """
    models = list(_models(content))
    if key:
        named = [model for model in models if model.key == key or model.key.startswith(f'{key}.')]
        if len(named) == 1:
            return named[0], []
        raise InputError(f'{CHOICE} {key}: found {_listed(models) or _keys(content)}, expected one of them')
    averages = [model for model in models if _is_average(model, models)]
    if use_ema:
        if len(averages) == 1:
            return averages[0], [f'the average of the weights (EMA, {averages[0].label}) is loaded']
        raise InputError('MODEL.USE_EMA: the file holds ' + (
            f'several averages ({_listed(averages)}); choose one: {CHOICE} NAME' if averages else
            f'no average of the weights, found {_listed(models) or _keys(content)}'))
    if not models:
        return _by_key(content), []
    students = [model for model in models if 'student' in model.key.split('.')]
    if students and len(averages) == 1:
        return averages[0], [f'the file holds {students[0].label} and {averages[0].label}: {averages[0].label}, the '
                             f'average of the other (EMA), is loaded; {CHOICE} {students[0].label} takes the other']
    if students and len(models) > len(students):
        raise InputError(f'holds several models ({_listed(models)}); choose one: {CHOICE} NAME')
    raw = sorted((model for model in models if model not in averages), key=_rank)
    chosen = (raw or averages)[0]
    notes = []
    if averages and raw:
        notes.append(f'the file holds {chosen.label} and its average (EMA, {averages[0].label}): {chosen.label} is '
                     'loaded; -opts MODEL.USE_EMA True takes the average')
    elif averages:
        notes.append(f'the file holds only the average of the weights (EMA, {chosen.label}): it is loaded')
    if len(raw) > 1:
        notes.append(f'the file holds several models ({_listed(raw)}): {chosen.label} is loaded; {CHOICE} NAME takes '
                     'another')
    if chosen.beside:
        notes.append(f'beside the arrays, not read: {", ".join(map(shown, chosen.beside[:5]))}'
                     + (', …' if len(chosen.beside) > 5 else ''))
    return chosen, notes


def is_array(value: Any) -> bool:
    """Whether a value is an array of numbers, or one with Paddle's internal name before it."""
    value = _bare(value)
    return isinstance(value, (Tensor, Bfloat16)) or isinstance(value, np.ndarray) and value.dtype.kind in 'biufc'


def _bare(value: Any) -> Any:
    return value[1] if isinstance(value, tuple) and len(value) == 2 else value


def _models(content: Any) -> Iterator[StateDict]:
    """Every state dict whose names are of a known source, from the outermost dict inwards."""
    level, seen = [('', content)], set()
    for _ in range(MAX_LEVELS):
        inner = []
        for path, node in level:
            if not isinstance(node, dict) or id(node) in seen:
                continue
            seen.add(id(node))
            yield from _models_of(path, {name: value for name, value in node.items() if isinstance(name, str)})
            inner += [(f'{path}.{name}' if path else name, value) for name, value in node.items()
                      if isinstance(value, dict) and isinstance(name, str) and not name.endswith('@@')]
        level = inner


def _models_of(path: str, node: Dict[str, Any]) -> Iterator[StateDict]:
    """The models among the arrays of one dict; where there are several, each has a prefix of its own."""
    arrays = {name: value for name, value in node.items() if is_array(value)}
    prefixes = list(find_models(map(unwrap, arrays)))
    beside = [name for name, value in node.items() if name not in arrays and not name.endswith('@@')]
    if len(prefixes) == 1:
        yield StateDict(path, arrays, beside)
    else:
        for prefix in prefixes:
            # the longest of the prefixes that a name has: 'ema.' is not also ''
            own = {name: value for name, value in arrays.items() if prefix == max(
                (p for p in prefixes if unwrap(name).startswith(p)), key=len, default=None)}
            yield StateDict('.'.join(part for part in (path, prefix.rstrip('.')) if part), own)


def _is_average(model: StateDict, models: List[StateDict]) -> bool:
    """Whether a key says so, or it is the teacher of a student of equal shapes, as in self-distillation (DINO)."""
    if _AVERAGE.search(model.key):
        return True
    students = [other for other in models if 'student' in other.key.split('.')]
    return 'teacher' in model.key.split('.') and any(model.shapes == other.shapes for other in students)


def _rank(model: StateDict) -> Tuple[int, int]:
    """Order among several: the usual keys first, then as they stand in the file."""
    parts = model.key.split('.')
    return len(parts) if model.key else 0, next((i for i, key in enumerate(KEYS) if key in parts), len(KEYS))


def _by_key(content: Any) -> StateDict:
    """Where no name is known: the dict behind the usual keys. InputError when that holds no arrays."""
    path: List[str] = []
    while isinstance(content, dict) and len(path) < MAX_LEVELS:
        inner = next((key for key in KEYS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = content[inner]
        path.append(inner)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f'holds {_kind(content)}, expected a dict of names and arrays')
    content = {name: value for name, value in content.items() if not name.endswith('@@')}
    others = [name for name, value in content.items() if not is_array(value)]
    arrays = {name: value for name, value in content.items() if name not in others}
    if others and not arrays:
        raise InputError(f'{shown(others[0])!r} holds {_kind(content[others[0]])}, expected an array of numbers; '
                         f'found {_keys(content)}{probably(content)}')
    return StateDict('.'.join(path), arrays, others)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f'an array of {value.dtype.name}'
    name = getattr(value, 'name', None) or type(value).__name__
    return f'{"an" if name[0] in "aeiou" else "a"} {name}'


def _listed(models: List[StateDict]) -> str:
    return ', '.join(model.label for model in models[:6])


def _keys(content: Any) -> str:
    """The keys of a dict, for a message."""
    if not isinstance(content, dict):
        return _kind(content)
    names = [shown(name) if isinstance(name, str) else shown(str(type(name).__name__)) for name in list(content)[:6]]
    return f'the keys {", ".join(names)}{", …" if len(content) > 6 else ""}'
