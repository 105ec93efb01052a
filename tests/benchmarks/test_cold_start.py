# SPDX-License-Identifier: Apache-2.0
"""Ratios of the cold-start benchmark. Speed itself is not tested."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import cold_start  # noqa: E402


def test_ratios_are_of_the_same_round():
    """The machine is twice as slow in the second round: the ratio does not depend on it."""
    found = cold_start.rows({'import paddle': [1.0, 2.0, 1.0], 'bare onnxruntime': [0.5, 1.0, 0.4],
                             'ours paddle': [1.25, 2.5, 1.5], 'ours openvino': [0.4, 0.8, 0.4]})
    assert found['ours paddle']['above import paddle'] == 0.5 and found['ours paddle']['seconds'] == 1.5
    assert found['ours openvino']['ratio to bare'] == 0.8 and found['ours openvino']['best'] == 0.4
    assert found['import paddle']['above import paddle'] == 0 and found['bare onnxruntime']['ratio to bare'] == 1


def test_order_alternates_and_the_first_round_is_a_warm_up():
    order = []

    def start(name):
        return lambda: order.append(name) or '7'
    seconds = cold_start.measure({name: start(name) for name in ('import paddle', 'a')}, 2, lambda: order.append('|'))
    assert order == ['|', 'a', 'import paddle', '|', 'import paddle', 'a', '|', 'a', 'import paddle']
    assert [len(found) for found in seconds.values()] == [2, 2]


def test_different_predictions_are_an_error():
    with pytest.raises(InputError, match='several predicted classes'):
        cold_start.measure({'import paddle': lambda: '', 'a': lambda: '1', 'b': lambda: '2'}, 1, lambda: None)


def test_a_process_that_fails_is_one_line(tmp_path):
    with pytest.raises(InputError, match='ended with status 3: no'):
        cold_start.process([sys.executable, '-c', 'import os; os.write(2, b"no"); os._exit(3)'], str(tmp_path))


@pytest.mark.slow
def test_one_small_run(tmp_path):
    command = ['benchmarks/cold_start.py', '--model', 'vit_tiny_patch16_224', '--rounds', '1', f'--output={tmp_path}/r']
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    starts = json.loads((tmp_path / 'r').read_text(encoding='utf-8'))['starts']
    assert 'ours paddle' in starts and all(0 < row['seconds'] < 60 for row in starts.values())
