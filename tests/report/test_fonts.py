# SPDX-License-Identifier: Apache-2.0
"""Text in images: a font that has its characters, or words that can be drawn."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from CaiT.report import attention_sheet, fonts
from CaiT.report.attention_maps import Explanation


@pytest.fixture
def only(monkeypatch):
    """only(*files): no other fonts are on this machine but Pillow's own."""
    def restrict(*files):
        monkeypatch.setattr(fonts, 'FILES', files)
        fonts._file_for.cache_clear()
    yield restrict
    fonts._file_for.cache_clear()


@pytest.mark.parametrize('text, shown', [('cat 100%', 'cat 100%'), ('café', 'caf?'), ('东方.png', '??.png')])
def test_without_a_font(only, text, shown):
    only('nowhere.ttf')
    assert fonts.can_draw(text) == text.isascii() and attention_sheet.drawable(text) == shown
    assert fonts.font_for(text, 14).getname() == ('Aileron', 'Regular')


def test_a_font_of_the_machine(only):
    matplotlib = pytest.importorskip('matplotlib')
    only('nowhere.ttf', f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf')
    assert fonts.can_draw('café ½ — ж') and fonts.font_for('café', 14).getname()[0] == 'DejaVu Sans'
    assert fonts.font_for('cat', 14).getname()[0] == 'Aileron' and not fonts.can_draw('东方')


def test_class_numbers_where_names_cannot_be_drawn(only):
    only()
    assert attention_sheet.drawable_names(['cat', 'dog']) == (['cat', 'dog'], '')
    shown, line = attention_sheet.drawable_names(['cat', '东方白鹳'])
    assert shown == ['cat', 'class 1'] and line.startswith("class names: no font with the characters of '东方白鹳' is ")


@pytest.mark.parametrize('path, shown', [('a/caf\udce9.png', "$'a/caf\\xe9.png'"),
                                         ('two\nlines.png', "$'two\\nlines.png'"),
                                         ('a b.png', 'a b.png')])
def test_paths_in_titles(path, shown):
    one = Explanation(np.array([[0.25, 0.75]]), np.array([1]), np.ones((1, 1, 1, 5)), None, np.ones((1, 5)), 1)
    title = attention_sheet.title_of(path, one, 0, ['x', 'y'])
    assert title == [shown.replace('\\n', '\\x0a'), 'top-2: y 75.0%, x 25.0%']
    rows = attention_sheet.rows_of(one, 0, 'n' * 500)  # a long name stays inside the image
    assert attention_sheet.sheet(Image.new('RGB', (9, 9)), title, rows, 2.0).width == 2 * 14 + 3 * 230
