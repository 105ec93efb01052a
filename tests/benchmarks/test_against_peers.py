# SPDX-License-Identifier: Apache-2.0
"""The benchmark: turns are taken, medians count, the table's ratios are right. Speed itself is not tested."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from CaiT.tools import benchmark

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import chart  # noqa: E402


def result() -> dict:
    rates = {'ours openvino fp32': 80.0, 'ours paddle bf16': 120.0, 'timm openvino fp32': 64.0,
             'timm openvino bf16': 96.0, 'timm PyTorch eager': 20.0, "papers' graph paddle fp32": 40.0}
    row = {'model': 'cait_xxs24_224', 'threads': 2, 'batch': 8, 'limits': {'fp32': 100.0, 'bf16': 160.0},
           'absent': {'timm PyTorch compile': 'no compiler'},
           'rates': {name: {'median': value, 'best': value, 'worst': value} for name, value in rates.items()}}
    machine = {'cpu': 'a cpu', 'cores': 2, 'instructions': ['avx2']}
    return {'machine': machine, 'rounds': 5, 'seconds': 1.0, 'versions': {'torch': '2'}, 'rows': [row]}


def test_contenders_take_turns_and_the_median_counts():
    order, speeds = [], {'a': iter([9, 1, 2, 30]), 'b': iter([9, 5, 5, 5])}

    def contender(name):
        def run(seconds):
            order.append(name)
            return next(speeds[name]), 1.0
        return run
    rates = benchmark.round_robin({'a': contender('a'), 'b': contender('b')}, 3, 0.1)
    assert order == ['a', 'b'] * 4  # the first turn warms up and is not counted
    assert rates['a'] == {'median': 2, 'best': 30, 'worst': 1} and rates['b']['median'] == 5


def test_a_window_counts_pictures(monkeypatch):
    clock = iter(range(0, 100))
    monkeypatch.setattr('time.perf_counter', lambda: next(clock))
    runs = []
    pictures, seconds = benchmark.window(lambda: runs.append(1), 8)(3.0)
    assert pictures == 8 * len(runs) == 16 and seconds == 4


def test_ratios_in_the_table():
    text = '\n'.join(chart.markdown(result()))
    assert '| **ours openvino fp32** | 80.0 | 1.25 | 4.00 | 80 % |' in text
    assert '| **ours paddle bf16** | 120.0 | 1.25 | 6.00 | 75 % |' in text
    assert '| timm PyTorch eager | 20.0 | 0.31 | 1.00 | 20 % |' in text
    assert 'Absent: timm PyTorch compile (no compiler).' in text


def test_chart_is_drawn(tmp_path):
    pytest.importorskip('matplotlib')
    chart.draw(result(), str(tmp_path / 'c.png'))
    assert (tmp_path / 'c.png').read_bytes().startswith(b'\x89PNG') and (tmp_path / 'c.png').stat().st_size > 10000


def test_bf16_is_named_absent_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(benchmark.runtime, 'cpu_flags', lambda: {'avx2'})
    assert 'no AVX512-BF16' in benchmark.missing('paddle', 'bf16') and benchmark.missing('paddle', 'fp32') is None


@pytest.mark.slow
def test_one_small_run(tmp_path):
    command = ['benchmarks/against_peers.py', '-models', 'vit_tiny_patch16_224', '--batches', '1', '--rounds', '1',
               '--seconds', '0.1', f'--out={tmp_path}/r']
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and 'absent: PyTorch and timm' in done.stdout, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ['r.json', 'r.md', 'r.png']
