# SPDX-License-Identifier: Apache-2.0
"""The layers of a configuration: YAML files with BASE, flags and KEY VALUE pairs, merged with their types checked."""
from __future__ import annotations

import ast
import difflib
import math
import reprlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

from yacs.config import CfgNode

from CaiT.errors import InputError, shown
from CaiT.safe_yaml import load_yaml

MAX_BASES = 20      # files in a row that name each other as BASE
MAX_LITERAL = 1000  # characters of a value that are read as a Python literal


def read_files(path: Path, above: tuple = ()) -> List[tuple]:
    """[(file name, its values)] of ``path`` and, before it, of the files its BASE names (relative to it)."""
    if '\0' in str(path):
        raise InputError(f'config file {shown(str(path))}: no such file')
    if path.resolve() in above:
        raise InputError(f'{path}: BASE leads back to this file')
    if len(above) >= MAX_BASES:
        raise InputError(f'{path}: more than {MAX_BASES} BASE files in a row')
    try:
        values = load_yaml(path)
    except OSError as error:
        raise InputError(f'config file {path}: {error.strerror}') from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f'{path}: found {type(values).__name__}, expected KEY: value lines')
    bases = values.pop('BASE', [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InputError(f'{path}: BASE: found {brief(bases)}, expected a file name or a list of them')
    layers = [layer for base in bases for layer in read_files(path.parent / base, (*above, path.resolve()))]
    return [*layers, (str(path), values)]


def nested(dotted: Mapping[str, Any], source: str) -> tuple:
    """{'A.B': 1} to {'A': {'B': 1}}, the form of a YAML file."""
    values: Dict[str, Any] = {}
    for key, value in dotted.items():
        *sections, leaf = key.split('.')
        level = values
        for section in sections:
            level = level.setdefault(section, {})
            if not isinstance(level, dict):
                raise InputError(f'{source}: {section}: found {brief(level)} and, beside it, {key}')
        level[leaf] = value
    return source, values


def merge(node: CfgNode, values: Mapping[str, Any], source: str, prefix: str = '') -> None:
    """Put ``values`` into ``node``; InputError for a key it does not have or a value of another type."""
    for key, value in values.items():
        name = f'{prefix}{key}'
        if key not in node:
            near = difflib.get_close_matches(str(key), list(node), n=2) or sorted(node)
            raise InputError(f'{source}: unknown key {shown(name)}, expected {" or ".join(near)}')
        if isinstance(node[key], CfgNode):
            if not isinstance(value, Mapping):
                raise InputError(f'{source}: {name}: found {brief(value)}, expected keys {", ".join(node[key])}')
            merge(node[key], value, source, f'{name}.')
        else:
            node[key] = coerce(value, node[key], f'{source}: {name}')


def coerce(value: Any, default: Any, where: str) -> Any:
    """``value`` in the type of ``default``; text is read as a Python literal where the type is not text."""
    kind = type(default)
    found = value
    if isinstance(value, str) and kind is not str and len(value) <= MAX_LITERAL:
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    if type(found) is int and abs(found) >= 2 ** 63 or type(found) is float and not math.isfinite(found):
        raise InputError(f'{where}: found {brief(value)}, expected a finite number below 2**63')
    if kind is float and type(found) in (int, float):
        return float(found)
    if kind is tuple and isinstance(found, (tuple, list)) and len(found) == len(default):
        return tuple(coerce(one, like, where) for one, like in zip(found, default))
    if kind is list and isinstance(found, (tuple, list)):
        return [coerce(one, default[0] if default else '', where) for one in found]
    if kind is tuple or type(found) is not kind:
        size = f' of {len(default)}' if kind is tuple else ''
        raise InputError(f'{where}: found {brief(value)}, expected {kind.__name__}{size}')
    return found


def brief(value: Any) -> str:
    """A value for a message, short whatever it holds: reprlib looks at a few items of a few levels only."""
    return shown(reprlib.repr(value))


def keys(values: Mapping[str, Any], prefix: str = '') -> Iterator[str]:
    """The dotted names of all leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from keys(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}'
