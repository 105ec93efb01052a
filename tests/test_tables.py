# SPDX-License-Identifier: Apache-2.0
"""Tables of the documents fit into GitHub's column, so that they are read without a scroll bar."""
from __future__ import annotations

import re

import pytest

from tests.repository_copy import ROOT

COLUMN = 870  # pixels by the estimate below, which is up to a twentieth above a browser's 830
PADDING, CODE_PADDING, LETTER, CODE_LETTER = 27, 11, 8.3, 8.2  # pixels in GitHub's style
PATTERNS = ('*.md', 'docs/*.md', 'test_tipc/*.md', 'test_tipc/docs/*.md')
PAGES = sorted(path.relative_to(ROOT).as_posix() for pattern in PATTERNS for path in ROOT.glob(pattern))
TOO_WIDE = {'docs/migrating.md': 'commands side by side', 'docs/migrating_cn.md': 'commands side by side'}


def word_width(cell: str) -> float:
    """The longest part of a cell that a browser does not break, in pixels. It breaks at blanks and hyphens, and beside
    Chinese characters."""
    cell = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', cell).replace('**', '')
    parts = re.split(r'(`[^`]*`)', cell)
    code = [word for part in parts[1::2] for word in re.split(r'(?<=[-\s])', part[1:-1])]
    breaks = r'(?<=-)|\s+|(?<=[\u3000-\uffee])|(?=[\u3000-\uffee])'
    words = [word for part in parts[::2] for word in re.split(breaks, part)]
    return max([CODE_PADDING + CODE_LETTER * len(word.strip()) for word in code]
               + [LETTER * len(word) for word in words], default=0)


def width(table: str) -> float:
    """The least width of a table, in pixels."""
    rows = [re.split(r'(?<!\\)\|', line.strip().strip('|')) for line in table.splitlines()]
    return sum(max(map(word_width, column)) + PADDING for column in zip(rows[0], *rows[2:]))


def tables(text: str) -> list:
    text = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
    return re.findall(r'(?:^\|.*\n)+', text, re.M)


@pytest.mark.parametrize('page', [page for page in PAGES if page not in TOO_WIDE])
def test_tables_fit(page):
    found = {table.splitlines()[0]: width(table) for table in tables((ROOT / page).read_text(encoding='utf-8'))}
    assert {first: pixels for first, pixels in found.items() if pixels > COLUMN} == {}


def test_the_estimate():
    assert width('| a | b c-d |\n|---|---|\n| `xyz uv` | 12345 |\n') == pytest.approx(
        PADDING * 2 + CODE_PADDING + 3 * CODE_LETTER + 5 * LETTER)
    assert tables('x\n| a |\n|---|\n| b |\n\n```\n| c |\n```\n') == ['| a |\n|---|\n| b |\n']
