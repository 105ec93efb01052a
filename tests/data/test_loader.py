# SPDX-License-Identifier: Apache-2.0
"""Batches do not depend on the number of workers; errors in workers are one line."""
from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from CaiT.data import loader
from CaiT.data.datasets import build_dataset
from CaiT.data.loader import build_loader, worker_failures
from CaiT.data.mixing import Mixing
from CaiT.data.sampler import EvalSampler, TrainSampler
from CaiT.data.train_transforms import TrainOptions, train_transform
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.errors import InputError, WorkerError

DATA = DataConfig(16, 1.0, 'bicubic', (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPTIONS = TrainOptions(auto_augment='rand-m9-mstd0.5-inc1', erase_prob=0.5)


@pytest.fixture
def folder(tmp_path, pattern):
    """24 images, 5 classes."""
    (tmp_path / 'train').mkdir()
    for index in range(24):
        Image.fromarray(pattern(30, 24) + np.uint8(index)).save(tmp_path / f'train/{index}.png')
    text = ''.join(f'train/{index}.png {index % 5}\n' for index in range(24))
    for name in ('train_list.txt', 'val_list.txt'):
        (tmp_path / name).write_text(text)
    return tmp_path


def train_batches(folder, workers: int, shared: bool, start: int = 0, mixing=None) -> list:
    data = build_dataset('imagenet2012', str(folder), 'train', train_transform(DATA, OPTIONS), 5)
    sampler = TrainSampler(len(data), 5, seed=1, repeats=3)
    sampler.set_epoch(2, start)
    return [(images.numpy(), labels.numpy()) for images, labels in
            build_loader(data, sampler, workers, shared, mixing)]


def same(first: list, second: list) -> bool:
    return len(first) == len(second) and all(np.array_equal(a, b) for x, y in zip(first, second) for a, b in zip(x, y))


def test_workers_are_forked_when_the_readers_of_others_have_nothing_to_do(folder, monkeypatch):
    """Else a worker may wait for ever for a lock of Paddle: tests/faults/forks.py."""
    first, second = (build_loader(range(8), EvalSampler(8, 4), 1, True) for _ in range(2))
    first.start()
    reader = first._idle[0]._read
    monkeypatch.setattr(reader, '_rcvd_idx', -10 ** 9)
    monkeypatch.setattr(loader, 'MOST', 0.3)
    begin = time.monotonic()
    second.start()
    assert time.monotonic() - begin > 0.3
    monkeypatch.setattr(loader, 'MOST', 60)
    monkeypatch.setattr(reader, '_rcvd_idx', reader._send_idx)
    waited, sleep = [], time.sleep
    monkeypatch.setattr(loader.time, 'sleep', lambda seconds: (waited.append(seconds), sleep(seconds)))
    build_loader(range(8), EvalSampler(8, 4), 1, True).start()
    assert loader.SETTLE in waited


def test_workers_shared_memory_and_resuming_change_nothing(folder):
    mixing = Mixing(0.8, 1.0, 5, 5, mode='elem')
    plain = train_batches(folder, 0, True, mixing=mixing)
    assert [images.shape for images, _ in plain] == [(5, 3, 16, 16)] * 4
    assert all(targets.shape == (5, 5) and targets.dtype == np.float32 for _, targets in plain)
    assert same(plain, train_batches(folder, 2, True, mixing=mixing))
    assert same(plain[2:], train_batches(folder, 1, False, start=2, mixing=mixing))
    assert not same(plain, train_batches(folder, 0, True))


def test_workers_do_not_need_what_other_threads_lock(folder, monkeypatch):
    """OpenCV is in use before the first worker is forked; where there is none it is not looked at."""
    calls = []
    monkeypatch.setattr('CaiT.data.loader.initialize_opencv', lambda: calls.append(1))
    train_batches(folder, 0, True)
    assert not calls
    train_batches(folder, 1, True)
    assert calls


def test_kept_workers_give_the_batches_of_new_ones(folder):
    """Epochs in any order, from any step, one that fails between them."""
    mixing = Mixing(0.8, 1.0, 5, 5, mode='elem')
    data = build_dataset('imagenet2012', str(folder), 'train', train_transform(DATA, OPTIONS), 5)
    sampler = TrainSampler(len(data), 5, seed=1, repeats=3)

    def batches(loader, epoch, step) -> list:
        sampler.set_epoch(epoch, step)
        return [(images.numpy(), labels.numpy()) for images, labels in loader]

    loader = build_loader(data, sampler, 2, True, mixing)
    for epoch, step, count in ((1, 0, 4), (2, 3, 1), (3, 4, 0), (3, 0, 4), (1, 2, 2)):
        found = batches(loader, epoch, step)
        assert len(found) == count and same(found, batches(build_loader(data, sampler, 0, False, mixing), epoch, step))
    content = (folder / 'train/17.png').read_bytes()
    (folder / 'train/17.png').write_bytes(b'')
    with pytest.raises(InputError, match='17.png: cannot be decoded'):
        batches(loader, 2, 0)
    (folder / 'train/17.png').write_bytes(content)
    assert same(batches(loader, 4, 0), batches(build_loader(data, sampler, 0, False, mixing), 4, 0))


class Workers:
    """A dataset whose labels are the process ids of the workers."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple:
        return np.full((3, 4, 4), index, np.float32), np.int64(os.getpid())


def epoch_of(loader) -> tuple:
    """(indices of the images, process ids) of one epoch."""
    batches = [(images.numpy()[:, 0, 0, 0], labels.numpy()) for images, labels in loader]
    indices, pids = (np.concatenate(part).astype(int).tolist() for part in zip(*batches))
    return indices, set(pids)


def runs(pid: int) -> bool:
    """Whether a process is there, and not just waiting for its parent to ask for its status."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: set) -> bool:
    """Whether the processes end, within seconds."""
    end = time.monotonic() + 10
    while any(map(runs, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(runs, pids))


@pytest.mark.parametrize('how', ['close', 'garbage'])
@pytest.mark.parametrize('workers, shared', [(2, True), (1, False)])
def test_workers_stay_until_the_loader_is_closed(workers, shared, how):
    loader = build_loader(Workers(), EvalSampler(12, 2), workers, shared)
    loader.start()
    first, again = epoch_of(loader), epoch_of(loader)
    assert first[0] == again[0] == list(range(12))
    assert first[1] == again[1] and len(first[1]) == workers and os.getpid() not in first[1]
    if how == 'garbage':
        del loader
        gc.collect()
        assert gone(first[1])
        return
    loader.close()
    loader.close()
    assert gone(first[1])
    indices, others = epoch_of(loader)
    assert indices == list(range(12)) and not others & first[1]
    loader.close()


def test_an_epoch_that_is_left_or_inside_of_another():
    """Neither leaves a batch behind for the next epoch, or takes one of the other."""
    loader = build_loader(Workers(), EvalSampler(12, 2), 2, False)
    loader.start()
    left = {worker.pid for worker in loader._idle[0]._read._workers}
    for images, _ in loader:
        assert images.numpy()[:, 0, 0, 0].tolist() == [0, 1]
        break
    assert len(left) == 2 and gone(left)
    outer = []
    for images, _ in loader:
        outer += images.numpy()[:, 0, 0, 0].tolist()
        if len(outer) == 4:
            inner, pids = epoch_of(loader)
    assert outer == inner == epoch_of(loader)[0] == list(range(12))
    assert gone(pids - epoch_of(loader)[1])  # one set of workers stays
    loader.close()


@pytest.mark.parametrize('seconds', [0.03, 5.0])
def test_close_waits_for_paddles_thread_with_a_timeout(seconds):
    """Workers that are forked later inherit the locks that another thread holds: they stay locked in them."""
    loader = build_loader(Workers(), EvalSampler(12, 2), 1, False)
    loader.start()
    read = loader._idle[0]._read
    read._thread = thread = Thread(target=time.sleep, args=(seconds,), daemon=True)
    thread.start()
    begun = time.monotonic()
    loader.close()
    assert thread.is_alive() == (seconds > 1) and time.monotonic() - begun < 2


@pytest.mark.parametrize('workers', [0, 1])
def test_a_loader_can_be_garbage_collected(folder, workers):
    data = build_dataset('imagenet2012', str(folder), 'val', eval_transform(DATA), 5)
    loader = build_loader(data, EvalSampler(len(data), 10), workers, False)
    assert len(list(loader)) == 3
    reference = weakref.ref(loader)
    del loader
    gc.collect()
    assert reference() is None


def test_labels_and_last_batch(folder):
    data = build_dataset('imagenet2012', str(folder), 'val', eval_transform(DATA), 5)
    loader = build_loader(data, EvalSampler(len(data), 10), 0, False)
    for _ in range(2):  # a loader can be iterated again
        batches = list(loader)
        assert len(loader) == 3 and [len(images) for images, _ in batches] == [10, 10, 4]
        labels = np.concatenate([labels.numpy() for _, labels in batches])
        assert labels.dtype == np.int64 and labels.tolist() == [index % 5 for index in range(24)]
    np.testing.assert_array_equal(batches[2][0].numpy()[3], data[23][0])


@pytest.mark.parametrize('workers', [0, 2])
def test_a_broken_image_is_the_same_error_from_any_process(folder, workers):
    (folder / 'train/17.png').write_bytes(b'')
    data = build_dataset('imagenet2012', str(folder), 'val', eval_transform(DATA), 5)
    seen = 0
    with pytest.raises(InputError, match='val_list.txt, line 18: image .*17.png: cannot be decoded') as error:
        for images, _ in build_loader(data, EvalSampler(len(data), 4), workers, True):
            seen += len(images)
    assert seen == 16 and '\n' not in str(error.value)


@pytest.mark.parametrize('error, reason', [(errno.EMFILE, 'Too many open files'),
                                           (errno.EAGAIN, 'Resource temporarily unavailable')])
def test_more_workers_than_the_system_starts(folder, monkeypatch, error, reason):
    """It was a traceback, and the program waited for the workers that had been started."""
    start, started = multiprocessing.Process.start, []

    def start_two(process):
        if len(started) == 2:
            raise OSError(error, os.strerror(error))
        started.append(process)
        start(process)
    monkeypatch.setattr(multiprocessing.Process, 'start', start_two)
    with pytest.raises(InputError, match=re.escape(
            f'DATA.NUM_WORKERS: found 3, more processes than this system starts ({reason}); expected fewer')):
        train_batches(folder, 3, True)
    for process in started:
        process.join(10)
        assert process.exitcode == -signal.SIGKILL


def test_too_little_memory_for_a_batch_says_what_to_change():
    class Data(list):
        def __getitem__(self, index):
            raise MemoryError

    with pytest.raises(InputError, match='^not enough memory for a batch of images; try a smaller -batch_size or fewer '
                                         '-num_workers$'):
        list(build_loader(Data([0]), EvalSampler(1, 1), 0, True))


@pytest.mark.parametrize('error, is_a_worker', [
    (SystemError('DataLoader process (pid 7) exited unexpectedly'), True),
    (OSError('(External) the data reader thread raised an exception'), True),
    (OSError(28, 'No space left on device'), False), (SystemError('bad argument'), False)])
def test_the_two_messages_of_a_worker_that_died(error, is_a_worker):
    with pytest.raises(WorkerError if is_a_worker else type(error)) as caught, worker_failures():
        raise error
    assert isinstance(caught.value, WorkerError) == is_a_worker


SCRIPT = """
import os, signal, sys, time
import numpy as np
from CaiT import errors
from CaiT.data.loader import build_loader, worker_failures
from CaiT.data.sampler import EvalSampler

how, epoch = sys.argv[1], int(sys.argv[2])

class Data:
    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 7 and os.path.exists('fail'):
            if how == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
            raise errors.InputError('list.txt, line 8: image x')
        return np.zeros((3, 4, 4), np.float32), np.int64(os.getpid())

@worker_failures()  # as the jobs do: the signal may come while a batch is being used
def main():
    loader = build_loader(Data(), EvalSampler(12, 2), 2, True)
    for number in range(1, 4):
        pids = set()
        if number == epoch and how in ('raise', 'kill'):
            open('fail', 'w').close()
        for images, labels in loader:
            pids |= set(labels.numpy().tolist())
        print(number, *pids, flush=True)
        if how == 'idle' and number == epoch:
            os.kill(pids.pop(), signal.SIGKILL)
            time.sleep(60)
        if how == 'sleep' and number == epoch:
            time.sleep(60)

errors.run(main)
"""


def start(tmp_path, *words: str) -> subprocess.Popen:
    (tmp_path / 'script.py').write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'PYTHONWARNINGS': 'ignore',
                   'OMP_NUM_THREADS': '1'}  # with more, Paddle prints two lines of warnings
    return subprocess.Popen([sys.executable, str(tmp_path / 'script.py'), *words], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)


@pytest.mark.parametrize('how, epoch, message', [
    ('raise', 1, 'error: list.txt, line 8: image x'), ('kill', 1, 'error: a data worker died'),
    ('kill', 3, 'error: a data worker died'), ('idle', 2, 'error: a data worker died')])
def test_errors_in_workers_end_the_program_with_one_line(tmp_path, how, epoch, message):
    """In the first epoch, in one with kept workers, or while they wait between two epochs."""
    process = start(tmp_path, how, str(epoch))
    output, errors = process.communicate(timeout=120)
    lines = [line for line in errors.splitlines() if line.strip()]
    assert process.returncode == 2, errors
    assert sum(line.startswith(message) for line in lines) == 1, errors
    assert len(output.splitlines()) == (epoch if how == 'idle' else epoch - 1)
    if how == 'raise':
        assert len(lines) == 1, errors
    assert gone({int(word) for line in output.splitlines() for word in line.split()[1:]})


@pytest.mark.parametrize('how, name', [('end', None), ('sleep', 'SIGTERM'), ('sleep', 'SIGKILL')])
def test_no_worker_outlives_the_program(tmp_path, how, name):
    """Which ends with workers that wait for an epoch, by itself or killed."""
    process = start(tmp_path, how, '0' if how == 'end' else '2')
    lines = [process.stdout.readline() for _ in range(2)]
    pids = {int(word) for line in lines for word in line.split()[1:]}
    if name:
        assert len(pids) == 2 and all(map(runs, pids))
        process.send_signal(signal.Signals[name])
    process.communicate(timeout=60)
    assert process.returncode == (-signal.Signals[name] if name else 0) and gone(pids)
