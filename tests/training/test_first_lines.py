# SPDX-License-Identifier: Apache-2.0
"""The first lines of a job, and how often a short epoch reports."""
from __future__ import annotations

import pytest

from CaiT.config import get_config
from CaiT.training import jobs
from CaiT.training.meter import report_freq


def test_the_screen_shows_what_differs_and_the_log_everything(config, tmp_path, capsys):
    chosen = config('TRAIN.EMA_DECAY', 0.5, output_dir=str(tmp_path), seed=3)
    jobs._open_logger(chosen, tmp_path, 'eval')
    printed, log = capsys.readouterr().out, (tmp_path / 'log_eval.txt').read_text(encoding='utf-8')
    assert f'config ({tmp_path}/config_eval.yaml), without what is the default:\n  MODEL.NAME: cait\n' in printed
    assert '\n  SEED: 3\n' in printed and '\n  TRAIN.EMA_DECAY: 0.5\n' in printed and '\n  DEVICE: cpu\n' in printed
    for default in ('GRAD_CLIP', 'VALIDATE_FREQ', 'LR_SCHEDULE', 'COLOR_JITTER'):
        assert default not in printed and default in log
    assert chosen.dump().rstrip() in log and 'runtime: ' in printed


@pytest.mark.parametrize('steps, expected', [(1, 1), (9, 1), (24, 2), (180, 18), (1000, 100), (5000, 100)])
def test_a_short_epoch_reports_ten_times(steps, expected):
    assert report_freq(get_config(), steps) == expected
    assert report_freq(get_config(opts=['REPORT_FREQ', '50']), steps) == 50  # what is set is kept
