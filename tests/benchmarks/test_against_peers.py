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

import against_peers  # noqa: E402
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
    assert '| **ours openvino fp32** | 80.0 | 1.25 | 1.25 | 4.00 | 80 % |' in text
    assert '| **ours paddle bf16** | 120.0 | 1.25 | 1.25 | 6.00 | 75 % |' in text
    assert '| timm PyTorch eager | 20.0 | 0.31 | 0.31 | 1.00 | 20 % |' in text
    assert 'Absent: timm PyTorch compile (no compiler).' in text


@pytest.mark.parametrize('speeds, line, row', [
    ({'ours openvino fp32': 120, 'ours openvino 1 stream fp32': 100, 'timm openvino fp32': 80,
      'timm openvino 2 streams fp32': 96}, 'fp32: best against best 1.25, one stream against one 1.25.',
     '| **ours openvino fp32** | 120.0 | 1.25 |  |'),
    ({'ours openvino int8': 90, 'ours paddle fp32': 70, 'timm onnxruntime int8': 60,
      'timm openvino 2 streams int8': 75}, 'int8: best against best 1.20, one stream against one 1.50.',
     '| **ours openvino int8** | 90.0 | 1.20 | 1.50 |'),
    ({'ours openvino fp32': 110, 'ours openvino 1 stream fp32': 50, 'ours paddle uint8 fp32': 500,
      'ours paddle fp32': 60, 'timm PyTorch compile': 100},
     'fp32: best against best 1.10, one stream against one 0.60.', '| **ours paddle fp32** | 60.0 | 0.60 | 0.60 |')],
    ids=['both with several', 'the peer with several', 'other engine; raw images do not count'])
def test_one_stream_is_compared_with_one_and_best_with_best(speeds, line, row):
    rates = {name: benchmark.throughput([speed]) for name, speed in speeds.items()}
    assert chart.best_against_best(rates) == [line]
    table = chart.markdown({**result(), 'rows': [{**result()['rows'][0], 'rates': rates, 'limits': {}}]})
    assert [one for one in table if one.startswith(row)]


def test_dropped_windows_count_for_nothing(monkeypatch):
    """The second window of a and the first of b: their ratio is that of the third."""
    one, other = benchmark.throughput([10.0, None, 30.0]), benchmark.throughput([None, 4.0, 15.0])
    assert one == {'median': 20.0, 'best': 30.0, 'worst': 10.0, 'windows': [10.0, None, 30.0]}
    assert benchmark.ratio(one, other) == 2.0
    assert benchmark.ratio(benchmark.throughput([8.0, None]), benchmark.throughput([None, 4.0])) == 2.0


class Probes:
    """In place of QuietWindows: runs the windows."""

    def __init__(self):
        self.probes = []

    def run(self, window):
        self.probes.append(len(self.probes))
        return window()


@pytest.mark.parametrize('slow, windows', [
    (lambda number: False, {'a': [1, 1], 'b': [2, 2]}),
    (lambda number: number == 1, {'a': [1, 1, 1], 'b': [None, 2, 2]}),  # again, at most twice as often
    (lambda number: number % 2 == 0 and number < 6, {'a': [None, None, None, 1], 'b': [2, 2, 2, 2]})])
def test_windows_of_a_slow_machine_are_dropped(monkeypatch, slow, windows):
    monkeypatch.setattr(against_peers, 'QuietWindows', Probes)
    monkeypatch.setattr(against_peers, 'slow_windows', lambda probes: [slow(one) for one in probes])
    monkeypatch.setattr(benchmark, 'PAUSE', 0)
    contenders = {'a': lambda seconds: (1, 1.0), 'b': lambda seconds: (2, 1.0)}
    found = against_peers.quiet_round_robin(contenders, 2, 0.1)
    assert {name: speed['windows'] for name, speed in found.items()} == windows
    assert found['a']['median'] == 1 and found['b']['median'] == 2


def test_a_machine_that_is_always_slow_is_an_error(monkeypatch):
    monkeypatch.setattr(against_peers, 'QuietWindows', Probes)
    monkeypatch.setattr(against_peers, 'slow_windows', lambda probes: [True for _ in probes])
    monkeypatch.setattr(benchmark, 'PAUSE', 0)
    with pytest.raises(InputError, match='a: the machine was slow in all 2 windows; measure on an idle machine'):
        against_peers.quiet_round_robin({'a': lambda seconds: (1, 1.0)}, 1, 0.1)


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
