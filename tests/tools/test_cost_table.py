# SPDX-License-Identifier: Apache-2.0
"""The table "which model" of docs/models.md."""
from __future__ import annotations

import re

import pytest

from CaiT import list_models
from CaiT.tools import cost_table


def test_the_page_is_up_to_date():
    assert cost_table.main(['--check']) == 0, 'python -m CaiT.tools.cost_table --write'


@pytest.mark.parametrize('name, devices, expected', [
    ('deit_tiny_patch16_224', 1, 1253683200 * 6 * 1281167 * 300 / 30e12 / 86400),
    ('cait_s24_224', 8, 9.327e9 * 6 * 1.25 * 1281167 * 400 / 240e12 / 86400)])  # with recomputation
def test_days(name, devices, expected):
    assert cost_table.days(name, devices) == pytest.approx(expected, rel=1e-3)


def test_every_recipe_has_a_row_in_the_order_of_days():
    lines = cost_table.table()[2:]
    assert sorted(re.findall('`([^`]+)`', line)[0] for line in lines) == sorted(list_models())
    found = [float(re.search(r'([\d.]+) / [\d.]+ \|$', line).group(1)) for line in lines]
    assert found == sorted(found) and '| `cait_m36_224` | – | – | 400 | 11.7 | 79.1 / 9.9 |' in lines


def test_another_page_is_reported(tmp_path, monkeypatch, capsys):
    page = tmp_path / 'models.md'
    page.write_text(cost_table.PAGE.read_text(encoding='utf-8').replace('| 16.4 |', '| 1.0 |'), encoding='utf-8')
    monkeypatch.setattr(cost_table, 'PAGE', page)
    assert cost_table.main(['--check']) == 1 and 'holds another table' in capsys.readouterr().out
    assert cost_table.main(['--write']) == 0 and '| 16.4 |' in page.read_text(encoding='utf-8')
