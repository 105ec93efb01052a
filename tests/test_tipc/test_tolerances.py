# SPDX-License-Identifier: Apache-2.0
"""What the certification chain takes for a prediction, and how far one may be from the dynamic model's."""
from __future__ import annotations

import subprocess

import pytest
from trees import ROOT


def call(*words: str) -> str:
    """Output of a function of inference.sh."""
    return subprocess.run(['bash', '-euc', 'source test_tipc/inference.sh; "$@"', '-', *words], cwd=ROOT, text=True,
                          check=True, stdout=subprocess.PIPE).stdout


@pytest.mark.parametrize('precision, flags', [
    ('fp32', '--atol=1e-6 --rtol=1e-3'), ('fp16', '--atol=2e-2 --rtol=0'), ('bf16', '--atol=2e-2 --rtol=0'),
    ('int8', '--atol=0.1 --rtol=0 --fraction=0.98')])
def test_tolerances(precision, flags):
    assert call('tolerance', precision) == f' {flags}'


@pytest.mark.parametrize('line, is_good', [
    ('image_name: a, class_id: 3, prob: 0.7500', True), ('image_name: a, class_id: 12, prob: 1.0000', True),
    ('image_name: a, class_id: 3, prob: nan', False), ('image_name: a, class_id: 3, prob: 2.0000', False),
    ('image_name: a, class_id: -1, prob: 0.7500', False), ('image_name: a, class_id: , prob: 0.7500', False),
    ('image_name: a, class_id: 3, prob: 0.75 (high)', False), ('no prediction', False)])
def test_what_a_prediction_is(tmp_path, line, is_good):
    log = tmp_path / 'log'
    log.write_text(f'image_name: z, class_id: 1, prob: 0.5000\n{line}\n' if 'class' in line else f'{line}\n')
    assert (call('classified', str(log)) == '') is is_good
