# SPDX-License-Identifier: Apache-2.0
"""Label maps: the names of the classes, from the files people have.

Ids in a file are obeyed or refused, never passed over: a name in the wrong place is a wrong answer in silence.
"""
from __future__ import annotations

import ast
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from CaiT import safe_json
from CaiT.data.text import is_line, quoted, read_lines
from CaiT.errors import InputError
from CaiT.files import PathLike

MAX_LITERAL = 1_000_000  # characters of Python text, whose tree takes hundreds of times their memory
MAX_LINE = 1000  # characters of a class; the patterns below try every split of a line
_NUMBER = r'-?\d+(?:\.\d+)?'
_WNID = re.compile(r'(n\d{8})(?:[\s,:;=]+(.*))?')
_ID_FIRST = re.compile(rf'["\']?({_NUMBER})["\']?(?:\s*[:,;=|)\t]\s*|\.\s+|\s+)(.+)')
_ID_LAST = re.compile(rf'(.+?)(?:\s*[:,;=|\t]\s*|\s+)["\']?({_NUMBER})["\']?,?')
_REMEDY = 'expected ids from 0 up, each once, or names without numbers (a JSON list holds any names)'


class Class(NamedTuple):
    """A class of a label map: its WordNet id ('' without) and its name."""

    wnid: str
    name: str


def read_label_map(path: PathLike, num_classes: Optional[int]) -> List[str]:
    """The ``num_classes`` class names in the order of their ids, None: as many as there are; see ``read_classes`` for
    what is understood."""
    names = [one.name for one in read_classes(path)]
    if num_classes is not None and len(names) != num_classes:
        raise InputError(f'label map {quoted(path)}: found {len(names)} names, expected {num_classes}, the classes of '
                         'the head')
    return names


def read_classes(path: PathLike) -> List[Class]:
    """The classes of a label map in the order of their ids.

    Understands JSON and Python text: a list of names, {"0": name}, {"0": [wnid, name]}, {name: 0}, {wnid: name} and
    Hugging Face's id2label; text of one class per line: ``name``, ``0 name`` (also with a colon, comma, …; zeros in
    front), ``name 0``, ``n01440764 name``. Lines with ids may stand in any order; ids must be 0, 1, … and wnids must
    rise, as ids of ImageNet do. Raises InputError naming the file, what was found and what was expected.
    """
    where = f'label map {quoted(path)}'
    classes = _classes(path, where)
    odd = next((one.name for one in classes if not is_line(one.name)), None)
    if odd is not None:
        raise InputError(f'{where}: found the name {ascii(odd)[:60]}, expected one line of text')
    return classes


def _classes(path: PathLike, where: str) -> List[Class]:
    lines = [line for _, line in read_lines(path)]
    if os.fspath(path).lower().endswith('.json') or (lines and lines[0].startswith(('{', '['))):
        return _from_value(_literal('\n'.join(lines), where), where)
    longest = max(map(len, lines), default=0)
    if longest > MAX_LINE:
        raise InputError(f'{where}: found a line of {longest:,} characters, expected at most {MAX_LINE:,}')
    return classes_of_lines(lines, where)


def classes_of_lines(lines: Sequence[str], where: str) -> List[Class]:
    """The classes of a text with one class per line; ``where`` begins the message of an InputError."""
    wnids = [_WNID.fullmatch(line) for line in lines]
    if lines and all(wnids):
        names = [match[2] or match[1] for match in wnids]
        return _rising([Class(match[1], name) for match, name in zip(wnids, _numbered(names, where) or names)], where)
    return [Class('', name) for name in _numbered(lines, where) or lines]


def name_lines(names: Sequence[str]) -> List[str]:
    """A label map of these names: one per line, numbered where names alone would be read as numbered ("10 figs")."""
    try:
        if [one.name for one in classes_of_lines(names, 'names')] == list(names):
            return list(names)
    except InputError:
        pass
    return [f'{index} {name}' for index, name in enumerate(names)]


def _numbered(lines: Sequence[str], where: str) -> Optional[List[str]]:
    """The names of lines that all carry an id, in its order; None when they do not. InputError for ids with gaps."""
    for pattern, id_group, name_group in ((_ID_FIRST, 1, 2), (_ID_LAST, 2, 1)):
        matches = [pattern.fullmatch(line) for line in lines]
        if not lines or not all(matches):
            continue
        names = [_plain(match[name_group]) for match in matches]
        if len(lines) > 1 and len(set(names)) == 1:  # '0 degrees', '90 degrees': the number is the name
            continue
        return _by_id([(match[id_group], name) for match, name in zip(matches, names)], where)
    return None


def _by_id(pairs: Sequence[Tuple[Any, Any]], where: str) -> List[Any]:
    """The values of (id, value) pairs in the order of the ids, which must be 0, 1, …"""
    values: Dict[int, Any] = {}
    for word, value in pairs:
        if not re.fullmatch(r'\d{1,9}', str(word)):
            raise InputError(f'{where}: found {word!r} as a class id, {_REMEDY}')
        if int(word) in values:
            raise InputError(f'{where}: found class id {int(word)} twice, {_REMEDY}')
        values[int(word)] = value
    missing = next((k for k in range(len(values)) if k not in values), None)
    if missing is not None:
        raise InputError(f'{where}: found ids from {min(values)} to {max(values)} for {len(values)} classes and no '
                         f'{missing}, {_REMEDY}')
    return [values[k] for k in range(len(values))]


def _rising(classes: List[Class], where: str) -> List[Class]:
    for first, second in zip(classes, classes[1:]):
        if first.wnid >= second.wnid:
            raise InputError(f'{where}: found {second.wnid} after {first.wnid}, expected rising WordNet ids, whose '
                             'order is that of the class ids; with ids of your own, number the lines from 0')
    return classes


def _from_value(value: Any, where: str) -> List[Class]:
    """The classes of a list or dictionary as ``read_classes`` describes them."""
    if isinstance(value, dict) and isinstance(value.get('id2label'), dict):  # Hugging Face's config.json
        value = value['id2label']
    if isinstance(value, dict) and value:
        if all(type(one) is int for one in value.values()):  # torchvision's class_to_idx
            return [Class('', str(name)) for name in _by_id([(k, name) for name, k in value.items()], where)]
        if all(isinstance(key, str) and re.fullmatch(r'n\d{8}', key) for key in value):
            return _rising([Class(key, _one(one, where).name) for key, one in value.items()], where)
        return _checked([_one(one, where) for one in _by_id(list(value.items()), where)], where)
    if isinstance(value, list):
        return _checked([_one(one, where) for one in value], where)
    raise InputError(f'{where}: found {type(value).__name__}, expected a list of names or {{"0": name, …}}')


def _checked(classes: List[Class], where: str) -> List[Class]:
    return _rising(classes, where) if classes and all(one.wnid for one in classes) else classes


def _one(value: Any, where: str) -> Class:
    """A class from a name or a [wnid, name] pair."""
    if isinstance(value, str):
        return Class('', value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(word, str) for word in value):
        wnid = value[0] if re.fullmatch(r'n\d{8}', value[0]) else ''
        return Class(wnid, value[-1])
    raise InputError(f'{where}: found {str(value)[:60]!r}, expected a class name')


def _plain(name: str) -> str:
    """A name without a comma behind it and quotes around it."""
    name = name.rstrip(',').strip() or name
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in '"\'' else name


def _literal(text: str, where: str) -> Any:
    try:
        return safe_json.loads(text)
    except InputError as error:
        reason = str(error)
    try:
        if len(text) <= MAX_LITERAL:
            return _python_value(text)
    except InputError as error:
        reason = str(error)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass  # it is no Python either: what was wrong with the JSON is said
    raise InputError(f'{where}: {reason}')


def _python_value(text: str) -> Any:
    tree = ast.parse(text, mode='eval')
    for node in ast.walk(tree):
        keys = [key.value for key in node.keys if isinstance(key, ast.Constant)] if isinstance(node, ast.Dict) else []
        if len(set(keys)) < len(keys):
            raise InputError('found a key twice')
    return ast.literal_eval(tree)
