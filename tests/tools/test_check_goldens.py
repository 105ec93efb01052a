# SPDX-License-Identifier: Apache-2.0
"""check_goldens: its table, its exit status, and invalid folders."""
from __future__ import annotations

import shutil

import pytest

from CaiT.errors import InputError
from CaiT.tools import check_goldens, goldens

NAME = 'deit_tiny_patch16_224'


def test_table_and_status(capsys):
    """Of equal numbers; of others: test_thresholds."""
    assert check_goldens.main(['-models', NAME]) == 0
    head, row, last = capsys.readouterr().out.splitlines()
    assert row.split()[:3] == [NAME, '5717416', '1253683200'] and row.endswith('  ok') and last == 'all equal'


def test_another_count_fails(tmp_path, capsys):
    """A manifest with one parameter more; without a golden file nothing is built."""
    text = (goldens.FOLDER / 'MANIFEST.json').read_text(encoding='utf-8')
    (tmp_path / 'names').mkdir()
    shutil.copy(goldens.FOLDER / 'names' / f'{NAME}.json', tmp_path / 'names')
    (tmp_path / 'MANIFEST.json').write_text(text.replace('5717416', '5717417'), encoding='utf-8')
    assert check_goldens.main(['-goldens', str(tmp_path), '-models', NAME]) == 1
    assert 'parameters: 5717416, reference 5717417' in capsys.readouterr().out


def test_faults(tmp_path):
    with pytest.raises(InputError, match='-models resnet50: has no entry in .*MANIFEST.json'):
        check_goldens.main(['-models', 'resnet50'])
    with pytest.raises(InputError, match='golden file .*MANIFEST.json: no such file; a clone of the repository'):
        check_goldens.main(['-goldens', str(tmp_path)])
