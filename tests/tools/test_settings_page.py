# SPDX-License-Identifier: Apache-2.0
"""docs/configuration.md: every setting with the default and the meaning that the code has."""
from __future__ import annotations

import re

import pytest

from CaiT import get_config
from CaiT.errors import InputError
from CaiT.settings import CHOICES
from CaiT.tools import settings_page
from tests.settings import leaves


def test_the_page_is_up_to_date():
    assert settings_page.main(['--check']) == 0


def test_every_setting_is_there_once():
    names = re.findall(r'^\| `([A-Z._0-9]+)` \|', '\n'.join(settings_page.tables()), re.M)
    assert sorted(names) == sorted(name for name, _ in leaves(get_config()))


@pytest.mark.parametrize('row', [
    '| `TRAIN.BASE_LR` | `0.0005` | 0 or more |  | learning rate for LR_BATCH images per update; scaled linearly with '
    'their number |',
    '| `TRAIN.OPTIMIZER.MOMENTUM` | `0.9` |  |  | of Momentum |',
    "| `TRAIN.DISTILL.TEACHER` | `''` |  |  | a registered name or one of paddle.vision.models |",
    '| `DATA.CROP_PCT` | of the model |  |  | side of the evaluation crop as a fraction of the resized short side |',
    "| `MODEL.DEPTH_TOKEN_ONLY` | of the model |  |  | blocks of CaiT's class-attention stage |",
    '| `AUG.RATIO` | `[0.75, 1.3333]` |  |  | width / height of the crop |',
    '| `SAVE_STEPS` | `0` | 0 or more |  | updates between two checkpoints inside an epoch, 0: at its end only |'])
def test_rows(row):
    assert row in settings_page.tables()


def test_values_and_flags():
    rows = '\n'.join(settings_page.tables())
    datasets = ', '.join(f'`{one}`' for one in CHOICES['DATA.DATASET'])
    assert f'| `DATA.DATASET` | `imagenet2012` | {datasets} | `-dataset` |' in rows
    assert '| `TRAIN.EMA_DECAY` | `0` | from 0 to 1 |  |' in rows
    assert '| `AMP` | `False` | `True`, `False` | `-amp` |' in rows


def test_a_setting_without_a_meaning_is_refused(monkeypatch):
    monkeypatch.setattr(settings_page, 'comments', lambda: {})
    with pytest.raises(InputError, match='DATA.DATASET has no comment'):
        settings_page.tables()


def test_another_page_is_reported_and_written(tmp_path, monkeypatch, capsys):
    page = tmp_path / 'configuration.md'
    page.write_text(settings_page.PAGE.read_text(encoding='utf-8').replace('`0.0005`', '`0.001`'), encoding='utf-8')
    monkeypatch.setattr(settings_page, 'PAGE', page)
    assert settings_page.main(['--check']) == 1 and 'holds other tables' in capsys.readouterr().out
    assert settings_page.main(['--write']) == 0 and settings_page.main(['--check']) == 0
    page.write_text('no markers', encoding='utf-8')
    with pytest.raises(InputError, match='expected one line'):
        settings_page.main(['--write'])
