# SPDX-License-Identifier: Apache-2.0
"""The benchmark: order of measurements, medians, ratios. Speed itself is not tested."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from CaiT.errors import InputError
from CaiT.tools import benchmark

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import chart  # noqa: E402


def result() -> dict:
    """Results that are twice as fast in the first of three windows."""
    rates = {'ours openvino fp32': 80.0, 'ours paddle bf16': 120.0, 'timm openvino fp32': 64.0,
             'timm openvino bf16': 96.0, 'timm PyTorch eager': 20.0, "papers' graph paddle fp32": 40.0}
    row = {'model': 'cait_xxs24_224', 'threads': 2, 'batch': 8,
           'limits': {'fp32': benchmark.throughput([200.0, 100.0, 100.0]),
                      'bf16': benchmark.throughput([320.0, 160.0, 160.0])},
           'absent': {'timm PyTorch compile': 'no compiler'},
           'rates': {name: benchmark.throughput([2 * value, value, value]) for name, value in rates.items()}}
    machine = {'cpu': 'a cpu', 'cores': 2, 'instructions': ['avx2']}
    return {'machine': machine, 'rounds': 5, 'seconds': 1.0, 'versions': {'torch': '2'}, 'rows': [row]}


def test_contenders_alternate_and_the_median_counts():
    order, speeds = [], {'a': iter([9, 1, 2, 30]), 'b': iter([9, 5, 5, 5])}

    def contender(name):
        def run(seconds):
            order.append(name)
            return next(speeds[name]), 1.0
        return run
    rates = benchmark.round_robin({'a': contender('a'), 'b': contender('b')}, 3, 0.1)
    assert order == ['a', 'b'] * 4  # the first turn warms up and is not counted
    assert rates['a'] == {'median': 2, 'best': 30, 'worst': 1, 'windows': [1, 2, 30]}
    assert rates['b']['median'] == 5 and benchmark.ratio(rates['a'], rates['b']) == 0.4  # of 0.2, 0.4 and 6


def test_a_window_counts_images(monkeypatch):
    times = iter(range(0, 100))
    monkeypatch.setattr('time.perf_counter', lambda: next(times))
    runs = []
    images, seconds = benchmark.window(lambda: runs.append(1), 8)(3.0)
    assert images == 8 * len(runs) == 24 and seconds == 4
    assert benchmark.window(lambda: runs.append(1), 8)(0.0)[0] == 8  # the warm-up really runs


def test_long_runs_get_fewer_rounds(monkeypatch):
    """Ten rounds of one second are requested; runs take a minute, so only three are measured."""
    now = [0.0]
    monkeypatch.setattr('time.perf_counter', lambda: now[0])

    def run(seconds):
        now[0] += 60
        return 60, 60.0
    assert benchmark.round_robin({'a': run}, 10, 1.0)['a'] == {'median': 1, 'best': 1, 'worst': 1,
                                                                 'windows': [1, 1, 1]}


def test_an_interrupted_run_is_resumed(tmp_path, capsys):
    path, header = str(tmp_path / 'r.json'), {'machine': {'cpu': 'a'}, 'rounds': 5, 'load average before': 0.1}
    first = benchmark.Results(path, header)
    first.add({'model': 'cait_xxs24_224', 'threads': 1, 'batch': 8})
    again = benchmark.Results(path, {**header, 'load average before': 2.0})
    assert again.rows == first.rows and again.header['load average before'] == 0.1
    args = SimpleNamespace(models=['cait_xxs24_224', 'vit_tiny_patch16_224'], threads=[1], batches=[1, 8], seconds=0.5)
    cells = benchmark.Cells(args, again)
    assert cells.all == {'cait_xxs24_224': [(1, 1)], 'vit_tiny_patch16_224': [(1, 1), (1, 8)]}
    assert 'measured already: 1' in capsys.readouterr().out
    with pytest.raises(InputError, match="its machine is {'cpu': 'a'}, here it is {'cpu': 'b'}"):
        benchmark.Results(path, {**header, 'machine': {'cpu': 'b'}})
    (tmp_path / 'r.json').write_text('[]', encoding='utf-8')
    with pytest.raises(InputError, match='not a file of this benchmark'):
        benchmark.Results(path, header)


def test_time_left_follows_the_work_left(tmp_path, monkeypatch):
    """Two cells of weights 1 and 3 (seconds 0): after the first has taken 60 s, three minutes are left."""
    now = [0.0]
    monkeypatch.setattr('time.perf_counter', lambda: now[0])
    args = SimpleNamespace(models=['vit_tiny_patch16_224'], threads=[1], batches=[1, 3], seconds=0.0)
    cells = benchmark.Cells(args, benchmark.Results(None, {}))
    now[0] = 60.0
    assert cells.finished('vit_tiny_patch16_224', 1, 1) == 'cells left: 1, 1.0 min taken, about 3 min to go'


@pytest.mark.parametrize('words, message', [
    (['-models', 'no_such_model'], 'no_such_model'), (['--rounds', '0'], '--rounds: found 0, expected a positive'),
    (['--batches', '8', '-1'], '--batches: found -1')])
def test_bad_flags_are_one_line(words, message, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['benchmark', *words])
    with pytest.raises(InputError, match=message):
        benchmark.parsed(benchmark.parser(None))


def test_ratios_in_the_table():
    text = '\n'.join(chart.markdown(result()))
    assert '| **ours openvino fp32** | 80.0 | 1.25 | 4.00 | 80 % |' in text
    assert '| **ours paddle bf16** | 120.0 | 1.25 | 6.00 | 75 % |' in text
    assert '| timm PyTorch eager | 20.0 | 0.31 | 1.00 | 20 % |' in text
    assert 'Absent: timm PyTorch compile (no compiler).' in text


def test_bf16_is_named_absent_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(benchmark.runtime, 'cpu_flags', lambda: {'avx2'})
    assert 'no AVX512-BF16' in benchmark.unavailable('paddle', 'bf16')
    assert benchmark.unavailable('paddle', 'fp32') is None


@pytest.mark.slow
def test_one_small_run(tmp_path):
    command = ['benchmarks/against_peers.py', '-models', 'vit_tiny_patch16_224', '--batches', '1', '--threads', '1',
               '--rounds', '1', '--seconds', '0.1', f'--out={tmp_path}/r']
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "absent: {'PyTorch and timm': '--peer-python was not given'}" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ['r.json', 'r.md', 'r.svg']
    again = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and 'measured already: 1' in again.stdout, again.stderr
