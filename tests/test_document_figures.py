# SPDX-License-Identifier: Apache-2.0
"""Every measured figure of the documents is the one in its result file: tests/document_figures.py and its table."""
from __future__ import annotations

import re

import pytest

from tests import document_figures
from tests.document_figures import PAGES, ROOT, Line, differences, lines, untraced

HOW = 'python tests/document_figures.py tells more, --write mends'


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


def test_the_documents_say_what_the_results_say():
    assert [(line.page, found, expected) for line, found, expected in differences()] == [], HOW


@pytest.mark.parametrize('page', PAGES)
def test_every_figure_has_a_source(page):
    assert untraced(page, text_of(page)) == [], HOW


@pytest.mark.parametrize('page', PAGES)
def test_a_table_that_a_test_compares_is_in_that_test(page):
    for file in re.findall(r'<!-- compared by (\S+) -->', text_of(page)):
        assert page in (ROOT / file).read_text(encoding='utf-8')


def test_tables_that_a_test_compares_are_left_to_it():
    table = '<!-- compared by tests/x.py -->\n| 1.5 |\n|--|\n| 2.5 |\n\n3.5\n\n| 4.5 |\n'
    assert untraced('p.md', table) == ['p.md:6: 3.5', 'p.md:8: 4.5']


@pytest.mark.parametrize('line', [line for line in lines() if line.file == '-'], ids=lambda line: line.text[:30])
def test_what_is_not_traced_has_a_reason(line):
    assert len(line.values) > 3


@pytest.mark.parametrize('page, old, new, said', [
    ('docs/speed.md', '| `import paddle` alone | 1.58', '| `import paddle` alone | 1.85', '1.85'),
    ('docs/results.md', '| digits_cait | 3 | 98.50 ±', '| digits_cait | 3 | 99.15 ±', '99.15'),
    ('README_cn.md', '98.50 ±', '98.51 ±', '98.51')])
def test_a_changed_page_is_found(page, old, new, said, tmp_path, monkeypatch):
    copied = [line for line in lines() if line.page == page]
    (tmp_path / page).parent.mkdir(exist_ok=True)
    (tmp_path / page).write_text(text_of(page).replace(old, new), encoding='utf-8')
    assert new in (tmp_path / page).read_text(encoding='utf-8')
    expected = {line: line.figures() for line in copied}
    monkeypatch.setattr(document_figures, 'ROOT', tmp_path)
    monkeypatch.setattr(document_figures, 'lines', lambda: copied)
    monkeypatch.setattr(Line, 'figures', lambda line: expected[line])
    assert [said in found[0] for _, found, _ in differences()] == [True]


def test_a_changed_result_is_found_and_written(tmp_path, monkeypatch, capsys):
    (tmp_path / 'page.md').write_text('Speed:\n1.29x, `2.5` and 3.5.\n', encoding='utf-8')
    (tmp_path / 'result.json').write_text('{"ratio": 1.358}', encoding='utf-8')
    row = 'page.md\tSpeed: {:.2f}x\tresult.json\td["ratio"]\n'
    (tmp_path / 'table.tsv').write_text(f'# comment\n{row}', encoding='utf-8')
    for name, value in (('ROOT', tmp_path), ('TABLE', tmp_path / 'table.tsv'), ('PAGES', ('page.md',))):
        monkeypatch.setattr(document_figures, name, value)
    assert document_figures.main([]) == 1
    assert capsys.readouterr().out == ('page.md: Speed: {:.2f}x: found 1.29, expected 1.36\n'
                                       'page.md:2: 3.5: no line of table.tsv\n')
    assert document_figures.main(['--write']) == 1 and list(differences()) == []
    assert (tmp_path / 'page.md').read_text(encoding='utf-8') == 'Speed:\n1.36x, `2.5` and 3.5.\n'


def test_a_row_of_a_table_is_not_one_that_ends_in_the_same_cells(tmp_path, monkeypatch):
    short, long = (Line(1, 'p.md', f'{row} timm | {{:.1f}} |', 'f', '') for row in ('| 16 |', '| deit | 16 |'))
    page = '| 16 | timm | 1.5 |\n| deit | 16 | timm | 2.5 |\n| 8 | x | 9.5 |\n'
    assert short.found(page) == [('1.5',)] and long.found(page) == [('2.5',)]
    monkeypatch.setattr(Line, 'figures', lambda line: ('7.5',))
    assert short.mended(page) == page.replace('1.5', '7.5')
    assert Line(1, 'p.md', '{:.1f} | y', 'f', '').found('| 3.5 | y') == [('3.5',)]  # inside a row: as ever


@pytest.mark.parametrize('text, figures', [
    ('| new row | 12.5 |', ['12.5']),
    ('| seen | 12.5 | 2026-11-26 | `python a.py` |\n| 1.5 |', ['1.5']), ('| seen | 12.5 | 2026-11-26 |', ['12.5']),
    ('<!-- x-table:start -->\n| 1.5 |\n<!-- x-table:end -->\n2.5', ['2.5']), ('`a\n1.5` 2.5 `3.5`', ['2.5']),
    ('oneDNN 3.6, Paddle 3.0 to 3.3 and 4.5', []), ('in 3.6', ['3.6']), ('412 of 454 and 97 %', ['412 of 454', '97 %']),
    ('2,451 MB in 15 ms', ['2,451', '15 ms']),
    ('see [page](a/1.5.md), `0.5`, Paddle 3.3.1', []), ('```bash\nx 1.5\n```', []), ('up to 1e-05', ['1e-05'])])
def test_what_counts_as_a_figure(text, figures):
    assert [found.partition(': ')[2] for found in untraced('none.md', text)] == figures
