# SPDX-License-Identifier: Apache-2.0
"""The table of models: up to date in the documents, correct rows, invalid markers."""
from __future__ import annotations

import pytest

from CaiT import list_models
from CaiT.errors import InputError
from CaiT.tools import model_table


@pytest.fixture(scope='module')
def lines() -> list:
    return model_table.table()


def test_documents_hold_the_table_of_the_code():
    sizes = {path.name: len(models) for path, models in model_table.documents().items()}
    assert sizes == {'README.md': 8, 'README_cn.md': 8, 'models.md': 0}
    for path, models in model_table.documents().items():
        assert model_table.page(path, models) == path.read_text(encoding='utf-8'), (
            f'{path}: python -m CaiT.tools.model_table --write')


def test_rows(lines):
    assert len(lines) == 2 + len(list_models()) and {line.count('|') for line in lines} == {lines[0].count('|')}
    assert '| `cait_xxs24_224` | 11,956,264 | 2.523 | 224, 1.0 | 78.40 / 94.33 | yes | timm |' in lines
    assert '| `deit_small_patch16_224` | 22,050,664 | 4.599 | 224, 0.9 | 79.86 / 95.06 | no | timm |' in lines
    assert '| `cait_s36_224` | 68,220,712 | 13.902 | 224, 1.0 | 82.11 / 95.84 | no | MindCV |' in lines
    assert '| `cait_m36_224` | 270,929,512 | 53.367 | 224, 1.0 | – | – | – |' in lines
    tiny = next(line for line in lines if 'vit_tiny' in line)
    assert tiny.endswith('| 224, 0.9 | 75.45 / 92.86; measured here: 71.81 on 454 images of ten of its classes | '
                         'no | timm, in21k |')


def test_chinese(lines):
    chinese = model_table.translated(lines)
    assert chinese[0].startswith('| 模型 | 参数量 |') and len(chinese) == len(lines)
    assert '| `deit_small_patch16_224` | 22,050,664 | 4.599 | 224, 0.9 | 79.86 / 95.06 | 否 | timm |' in chinese
    assert not [word for word in ('measured', 'yes', ' no ', 'published') if word in '\n'.join(chinese)]


def test_write_and_check(tmp_path, monkeypatch, capsys):
    document = tmp_path / 'README.md'
    monkeypatch.setattr(model_table, 'ROOT', tmp_path)
    monkeypatch.setattr(model_table, 'table', lambda models=(): ['| a |', '|---|', *models[:1]])
    document.write_text('before\n<!-- model-table:start -->\nold\n<!-- model-table:end -->\nafter\n')
    (tmp_path / 'README_cn.md').write_text('no markers')
    assert model_table.main(['--check']) == 1 and 'README.md: holds another table' in capsys.readouterr().out
    assert model_table.main(['--write']) == 0 and model_table.main(['--check']) == 0
    assert document.read_text() == ('before\n<!-- model-table:start -->\n| a |\n|---|\ncait_xxs24_224\n'
                                    '<!-- model-table:end -->\nafter\n')
    assert (tmp_path / 'README_cn.md').read_text() == 'no markers'
    assert model_table.main([]) == 0 and capsys.readouterr().out == '| a |\n|---|\n'
    with pytest.raises(InputError, match='--write and --check: found both'):
        model_table.main(['--write', '--check'])


@pytest.mark.parametrize('text', ['', model_table.START, model_table.END + model_table.START, 2 * model_table.START])
def test_markers_in_disorder(text):
    with pytest.raises(InputError, match='a.md: expected one line <!-- model-table:start -->'):
        model_table.embed(text, [], 'a.md')
