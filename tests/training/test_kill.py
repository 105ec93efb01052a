# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed: the scripts in separate processes, with signals from outside."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from CaiT.tools import make_shards
from CaiT.training import checkpoint, jobs
from CaiT.training.logger import RunLogger
from tests.training.conftest import CAIT, SMALL

ROOT = Path(__file__).resolve().parents[2]
# Everything that draws random numbers, and everything that carries a state from step to step.
RANDOM = ['MODEL.DROP_PATH_RATE', '0.2', 'MODEL.DROP_RATE', '0.1', 'AUG.MIXUP', '0.8', 'AUG.CUTMIX', '1.0',
          'AUG.AUTO_AUGMENT', 'rand-m9-mstd0.5-inc1', 'AUG.ERASE_PROB', '0.25', 'AUG.REPEATS', '3',
          'TRAIN.EMA_DECAY', '0.9', 'TRAIN.LABEL_SMOOTHING', '0.1', 'TRAIN.ACCUM_ITER', '2', 'SAVE_STEPS', '1']
TIMES = ('data_time', 'batch_time', 'images_per_second', 'memory_mib', 'eta')


def command(stripes, folder, epochs=3, *opts):
    return [sys.executable, str(ROOT / 'CaiT/main_single_gpu.py'), '-data_path', str(stripes), '-num_classes', '3',
            '-batch_size', '3', '-epochs', str(epochs), '-output_dir', str(folder), '-resume', 'auto',
            '-opts', *CAIT, *SMALL, *RANDOM, 'DATA.NUM_WORKERS', '2', *opts]


def start(words, **options):
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, **options)


def finish(words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout
    return done.stdout


def wait_for(process, path, seconds=120):
    """Until ``path`` exists (True), or the process has ended (False)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    raise AssertionError(f'{path} did not appear in {seconds} s')


def children(process):
    """Process ids of its data workers."""
    listed = subprocess.run(['pgrep', '-P', str(process.pid)], stdout=subprocess.PIPE, text=True)
    return [int(word) for word in listed.stdout.split()]


def result(folder):
    """What must not depend on kills: the final and the best state, and the records except times."""
    last, best = (checkpoint.read(folder / f'{tag}.pdstate') for tag in ('last', 'best'))
    records = [{key: value for key, value in record.items() if key not in TIMES}
               for record in RunLogger(folder, 'x').records()]
    return last, best, records


def assert_same_run(one, two):
    for mine, theirs in zip(one[:2], two[:2]):
        for part in ('model', 'ema', 'optimizer'):
            assert mine[part].keys() == theirs[part].keys()
            for name in mine[part]:
                assert np.array_equal(mine[part][name], theirs[part][name]), (part, name)
        assert mine['progress'] == theirs['progress']
    assert json.dumps(one[2]) == json.dumps(two[2])


@pytest.fixture(scope='module')
def whole(stripes, tmp_path_factory):
    """The result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    finish(command(stripes, folder))
    return result(folder)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bits(stripes, whole, tmp_path):
    """SIGKILL again and again, at moments spread over the run (start-up, steps, writing, evaluation), then to the end.

    After the first kill there is a state from inside an epoch; each later run gets a little further before its own.
    """
    folder, kills, inside, readers = tmp_path / 'run', 0, 0, []
    for delay in (0.0, 0.3, 0.05):
        process = start(command(stripes, folder))
        saved = folder / 'last.pdstate'
        mark = saved.stat().st_mtime_ns if saved.exists() else None
        while process.poll() is None and not (saved.exists() and saved.stat().st_mtime_ns != mark):
            time.sleep(0.005)  # until this run has written a state of its own
        time.sleep(delay)
        readers += children(process)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(60)
        process.stdout.close()
        inside += checkpoint.read(saved)['progress']['step'] > 0
    assert kills >= 2 and inside >= 1
    output = finish(command(stripes, folder))
    assert f'resumed from {folder}/last.pdstate: epoch ' in output
    assert_same_run(result(folder), whole)
    assert not list(folder.glob('.*.tmp'))
    assert readers and not any(Path(f'/proc/{pid}').exists() for pid in readers)


@pytest.mark.slow
@pytest.mark.parametrize('kind, shuffle', [
    ('tar', 'full'), ('tar', 'block:5'), pytest.param('parquet', 'full', marks=pytest.mark.needs_pyarrow),
    pytest.param('parquet', 'block:5', marks=pytest.mark.needs_pyarrow)])
def test_killed_on_shards_it_ends_with_the_bits_of_the_lists(stripes, whole, tmp_path, kind, shuffle):
    """Shards of 7 images in the order of the lists, in both orders of reading; killed inside an epoch."""
    if kind == 'parquet':
        pytest.importorskip('pyarrow')
    make_shards.main([str(stripes), str(tmp_path / 'shards'), '--images', '7', '--keep-order', '--format', kind])
    expected, order = whole, ('DATA.SHUFFLE', shuffle)
    if shuffle != 'full':
        finish(command(stripes, tmp_path / 'lists', 3, *order))
        expected = result(tmp_path / 'lists')
        assert not np.array_equal(*(one[0]['model']['head.weight'] for one in (expected, whole)))  # another order
    folder = tmp_path / 'run'
    words = command(tmp_path / 'shards', folder, 3, *order)
    words[2:2] = ['-dataset', kind]
    process = start(words)
    assert wait_for(process, folder / 'last.pdstate')
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert 0 < checkpoint.read(folder / 'last.pdstate')['progress']['step'] < 8
    assert 'resumed from' in finish(words)
    assert_same_run(result(folder), expected)


@pytest.mark.parametrize('group, name, status', [
    (False, 'SIGTERM', 143), pytest.param(True, 'SIGINT', 130, marks=pytest.mark.slow),
    pytest.param(False, 'SIGHUP', 129, marks=pytest.mark.slow),
    pytest.param(True, 'SIGTERM', 143, marks=pytest.mark.slow),
    pytest.param(False, 'SIGINT', 130, marks=pytest.mark.slow),
    pytest.param(True, 'SIGHUP', 129, marks=pytest.mark.slow)])
def test_a_signal_saves_and_leaves(stripes, whole, tmp_path, group, name, status):
    """To the process alone (kill) or to its workers as well (a scheduler, a terminal): a line, and the same bits."""
    folder = tmp_path / 'run'
    process = start(command(stripes, folder), start_new_session=True,
                    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # the suite may run under nohup
    assert wait_for(process, folder / 'last.pdstate')
    (os.killpg if group else os.kill)(process.pid, signal.Signals[name])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert f'go on with -resume {folder}' in output.splitlines()[-1] and f'stopped by {name} at epoch' in output
    assert 'Traceback' not in output and not (folder / '.lock').exists()
    finish(command(stripes, folder))
    assert_same_run(result(folder), whole)


@pytest.mark.slow
def test_a_signal_that_is_ignored_stays_ignored(stripes, tmp_path):
    """As under nohup."""
    folder = tmp_path / 'run'
    process = start(command(stripes, folder, 2), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert wait_for(process, folder / 'last.pdstate')
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0 and checkpoint.read(folder / 'last.pdstate')['progress']['epoch'] == 3


def test_a_second_interrupt_leaves_at_once():
    """Whatever the first one waits for."""
    from CaiT.training.preemption import PreemptionSignal
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), PreemptionSignal() as preemption:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert preemption.name == 'SIGTERM' and preemption.any_rank()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_signals_are_left_alone():
    from CaiT.training.preemption import PreemptionSignal
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter():
        with PreemptionSignal():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.slow
@pytest.mark.parametrize('shell', ['"$@" | head -n 1', '"$@" > /dev/full', '"$@" >&-', '"$@" 2>&- >&-'],
                         ids=['head', 'full', 'closed', 'both closed'])
def test_standard_output_that_is_gone_does_not_end_training(stripes, tmp_path, shell):
    folder = tmp_path / 'run'
    done = subprocess.run(['bash', '-c', f'set -o pipefail; {shell}', '-', *command(stripes, folder, 1)], cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr and 'Exception ignored' not in done.stderr
    assert len(done.stdout.splitlines()) <= 1
    assert (folder / 'log_train.txt').read_text().splitlines()[-1].endswith(('best.pdparams', 'curves.png', 'run.html'))


def test_a_worker_that_dies_is_one_line(stripes, tmp_path):
    """Out of memory, or /dev/shm full: the trainer reports it at any point."""
    folder = tmp_path / 'run'
    process = start(command(stripes, folder, 50))
    assert wait_for(process, folder / 'last.pdstate')
    victims = []
    while not victims and process.poll() is None:
        victims = children(process)
    os.kill(victims[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert 'error: a data worker died' in output.splitlines()[-1]


def test_an_incomplete_state_is_never_resumed(config, trained):
    """A crash while writing leaves a temporary file, which is not read and is removed."""
    half = trained / '.last.pdstate.x1y2z3.tmp'
    half.write_bytes((trained / 'last.pdstate').read_bytes()[:1000])
    (trained / 'log.jsonl').write_text((trained / 'log.jsonl').read_text() + '{"epoch": 2, "train_lo')
    jobs.train(config('TRAIN.EMA_DECAY', 0.5, epochs=3, output_dir=str(trained), resume='auto'))
    assert not half.exists()
    assert [record['epoch'] for record in RunLogger(trained, 'x').records()] == [1, 2, 3]
