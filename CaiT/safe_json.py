# SPDX-License-Identifier: Apache-2.0
"""JSON from strangers: bounded in size, depth and the length of its numbers; one line says what is wrong."""
from __future__ import annotations

import json
import math
import re
from typing import Any, Dict, List, Set, Tuple

from CaiT.errors import InputError, shown
from CaiT.files import PathLike, read_text

MAX_BYTES = 16 << 20
MAX_DEPTH = 100
MAX_DIGITS = 100
_TOKEN = re.compile(r'\\.|["\[\]{}]', re.S)  # an escaped character, a quote, a bracket


def load_json(path: PathLike) -> Any:
    """The content of a JSON file; InputError when it is none or exceeds a limit. OSError stays one."""
    text = read_text(path, MAX_BYTES, 'JSON')
    try:
        return loads(text)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None


def loads(text: str, nan_as_null: bool = False) -> Any:
    """The value of a JSON text; InputError when it is none, is nested too deep, holds a number beyond float64 or a key
    twice. ``nan_as_null``: NaN and the infinities, which are not JSON but which Python writes, are None.
    """
    depth = deepest = 0
    in_string = False
    for token in _TOKEN.finditer(text):  # one by one: text that is no JSON must not take the square of its length
        kind = token.group()
        if kind == '"':
            in_string = not in_string
        elif not in_string and len(kind) == 1:
            depth += 1 if kind in '[{' else -1
            deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise InputError(f'JSON nested {deepest} deep, expected at most {MAX_DEPTH}')
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float, object_pairs_hook=_object,
                          parse_constant=_null if nan_as_null else _constant)
    except RecursionError:
        raise InputError('JSON nested too deep') from None
    except ValueError as error:
        raise InputError(f'not JSON: {error}') from None


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f'an integer of {len(digits)} digits')
    return int(digits)


def _float(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f'{digits[:20]} is too large')
    return float(digits)


def _constant(word: str) -> Any:
    raise ValueError(f'{word} is no number of JSON')


def _null(word: str) -> None:
    return None


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: Set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f'the key {shown(twice)} twice')
    return values
