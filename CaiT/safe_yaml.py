# SPDX-License-Identifier: Apache-2.0
"""YAML from strangers: bounded in size, depth and what its aliases expand to; one line says what is wrong."""
from __future__ import annotations

from typing import Any, Dict

import yaml

from CaiT.errors import InputError, shown
from CaiT.files import PathLike, read_text

MAX_BYTES = 256 << 10
MAX_DEPTH = 30
MAX_NODES = 20_000        # values, those behind an alias counted each time
MAX_INTEGER = 2 ** 63


def load_yaml(path: PathLike) -> Any:
    """The content of a YAML file; InputError when it is none or exceeds a limit, naming the file. OSError stays one."""
    text = read_text(path, MAX_BYTES, 'YAML')
    try:
        return loads(text)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None


def loads(text: str) -> Any:
    """The value of a YAML text; InputError when it is none or exceeds a limit."""
    if len(text) > MAX_BYTES:
        raise InputError(f'found {len(text):,} characters of YAML, expected at most {MAX_BYTES:,}')
    try:
        _check_events(text)
        value = _construct(yaml.SafeLoader(text))
    except yaml.YAMLError as error:
        raise InputError(f'not YAML: {shown(" ".join(str(error).split()), 200)}') from None
    except (ValueError, OverflowError, TypeError, RecursionError, AttributeError, LookupError) as error:
        raise InputError(f'not YAML: {shown(str(error).split(chr(10))[0], 200)}') from None  # of a constructor
    _check_integers(value)
    return value


def _construct(loader: yaml.SafeLoader) -> Any:
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, 0)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_events(text: str) -> None:
    """Depth and number of nodes, before anything recursive looks at them."""
    depth = nodes = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise InputError(f'YAML nested more than {MAX_DEPTH} deep or of more than {MAX_NODES:,} values')


def _count(node: yaml.Node, known: Dict[int, int], depth: int) -> int:
    """How many values a node is when its aliases are expanded."""
    if depth > MAX_DEPTH:
        raise InputError(f'YAML nested more than {MAX_DEPTH} deep, or an alias that leads back to itself')
    if id(node) not in known:
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        known[id(node)] = 1 + sum(_count(child, known, depth + 1) for child in children)
    if known[id(node)] > MAX_NODES:
        raise InputError(f'YAML whose aliases expand to more than {MAX_NODES:,} values')
    return known[id(node)]


def _check_integers(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_integers(key)
            _check_integers(inner)
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            _check_integers(inner)
    elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise InputError(f'an integer of {value.bit_length()} bits, expected at most 63')
