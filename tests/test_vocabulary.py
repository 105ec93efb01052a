# SPDX-License-Identifier: Apache-2.0
"""The field's standard vocabulary in identifiers and documents: images, lr, evaluate, predict, American spelling.

Words that are also plain English or Python (read, take, times, total, local, weights, precision) are checked only
where they are unambiguous: as names of modules, functions or classes.
"""
from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted(path for folder in ('CaiT', 'tests', 'benchmarks', 'test_tipc') for path in (ROOT / folder).rglob('*.py'))
DOCUMENTS = sorted({*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('dataset/README.md'),
                    *ROOT.glob('test_tipc/**/*.md'), *ROOT.glob('benchmarks/**/*.md'), *ROOT.glob('notebooks/*.md'),
                    *ROOT.glob('txt/*.md')} - {ROOT / 'CHANGELOG.md'})

SPELLING = (r'\w*(normalis|quantis|optimis|initialis|recognis|minimis|posteris|solaris|serialis|organis|summaris)\w*'
            r'|\w*(colour|grey|behaviour|neighbour|favour|artefact)\w*|cent(re|res|red)')
# One word of an identifier (words are separated by underscores or capitals).
WORDS = re.compile(rf'pictures?|journal|publishers?|audits?|told|untouched|turned|house|rooms?|roads?|floors|doors?'
                   rf'|{SPELLING}')
# A whole identifier.
NAMES = re.compile(r'rate|share|shares|kept|drawn|draw|draws|clock|stopping|score|classify')
# A whole name of a module, function or class.
DEFINITIONS = re.compile(r'world|local|total|precision|clock|charts|curves|stopping|wanted|attends|asks|answers?|hears'
                         r'|listens|take|times')
TEXT = re.compile(rf'\b(pictures?|publishers?|data sets?|{SPELLING})\b', re.I)
# Names of files and formats that stay as they are, and names of other projects' interfaces.
NAME_EXCEPTIONS = {
    'CaiT/report/attention_sheet.py': {'Draw'},  # Pillow's
    'test_tipc/analyse_speed.py': {'analyse_speed'},  # called by this name in the TIPC chains
}
TEXT_EXCEPTIONS = ('`--pictures`', 'analyse_speed', '`pictures`')


def identifiers(tree: ast.AST) -> Iterator[Tuple[int, str, bool]]:
    """(line, name, whether it is a function or class that is defined there) of all identifiers of a module."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name, True
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, False
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id, False
        elif isinstance(node, ast.Attribute):
            yield node.end_lineno, node.attr, False
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.value.lineno, node.arg, False
        elif isinstance(node, ast.alias):
            yield node.lineno, (node.asname or node.name).rpartition('.')[2], False


def offends(name: str, is_definition: bool) -> bool:
    words = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower().split('_')
    return bool(NAMES.fullmatch(name.lower()) or is_definition and DEFINITIONS.fullmatch(name.lower())
                or any(WORDS.fullmatch(word) for word in words))


def code_offenders(path: Path) -> List[str]:
    relative = path.relative_to(ROOT).as_posix()
    names = [(1, path.stem, True), *identifiers(ast.parse(path.read_text(encoding='utf-8')))]
    allowed = NAME_EXCEPTIONS.get(relative, set())
    return sorted({f'{relative}:{line}: {name}' for line, name, is_definition in names
                   if name not in allowed and offends(name, is_definition)})


def document_offenders(path: Path) -> List[str]:
    found = []
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        for exception in TEXT_EXCEPTIONS:
            line = line.replace(exception, '')
        found += [f'{path.relative_to(ROOT).as_posix()}:{number}: {match.group()}' for match in TEXT.finditer(line)]
    return found


@pytest.mark.parametrize('path', CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_identifiers(path):
    assert not code_offenders(path), '\n' + '\n'.join(code_offenders(path))


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents(path):
    assert not document_offenders(path), '\n' + '\n'.join(document_offenders(path))


@pytest.mark.parametrize('name, is_definition, expected', [
    ('pictures_per_second', False, True), ('ClassPictures', False, True), ('rate', False, True), ('world', True, True),
    ('normalise', False, True), ('drop_path_rate', False, False), ('world_size', True, False), ('images', False, False),
    ('precision', False, False), ('precision', True, True), ('grayscale', True, False), ('centers', False, False)])
def test_the_rule_itself(name, is_definition, expected):
    assert offends(name, is_definition) == expected
