# SPDX-License-Identifier: Apache-2.0
"""Batches do not depend on the number of workers; errors in workers are one line."""
from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import time
import weakref
from threading import Thread

import numpy as np
import pytest
from PIL import Image

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


def test_workers_shared_memory_and_resuming_change_nothing(folder):
    mixing = Mixing(0.8, 1.0, 5, 5, mode='elem')
    plain = train_batches(folder, 0, True, mixing=mixing)
    assert [images.shape for images, _ in plain] == [(5, 3, 16, 16)] * 4
    assert all(targets.shape == (5, 5) and targets.dtype == np.float32 for _, targets in plain)
    assert same(plain, train_batches(folder, 2, True, mixing=mixing))
    assert same(plain[2:], train_batches(folder, 1, False, start=2, mixing=mixing))
    assert not same(plain, train_batches(folder, 0, True))


@pytest.mark.parametrize('seconds', [0.03, 5.0])
def test_an_epoch_waits_for_paddles_thread_with_a_timeout(folder, seconds):
    """The next epoch forks its workers: locks that another thread holds then stay locked in them."""
    class Batches(list):
        def __iter__(self):
            self._thread = Thread(target=time.sleep, args=(seconds,), daemon=True)
            self._thread.start()
            return Pass(self)

    class Pass:
        def __init__(self, batches):
            self._thread, self.left = batches._thread, list.__iter__(batches)

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.left)
    loader = build_loader(range(4), EvalSampler(4, 2), 0, False)
    loader._batches = Batches([(np.zeros((2, 3, 4, 4)), np.zeros(2))] * 2)
    begun = time.monotonic()
    assert len(list(loader)) == 2
    assert loader._batches._thread.is_alive() == (seconds > 1) and time.monotonic() - begun < 2


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
import os, signal, sys
import numpy as np
from CaiT import errors
from CaiT.data.loader import build_loader, worker_failures
from CaiT.data.sampler import EvalSampler

class Data:
    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 7:
            if sys.argv[1] == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
            raise errors.InputError('list.txt, line 8: image x')
        return np.zeros((3, 4, 4), np.float32), np.int64(0)

@worker_failures()  # as the jobs do: the signal may come while a batch is being used
def main():
    for images, labels in build_loader(Data(), EvalSampler(12, 2), 2, True):
        print(len(images))

errors.run(main)
"""


@pytest.mark.parametrize('how,message', [('raise', 'error: list.txt, line 8: image x'),
                                         ('kill', 'error: a data worker died')])
def test_errors_in_workers_end_the_program_with_one_line(tmp_path, how, message):
    (tmp_path / 'script.py').write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'PYTHONWARNINGS': 'ignore',
                   'OMP_NUM_THREADS': '1'}  # with more, Paddle prints two lines of warnings
    result = subprocess.run([sys.executable, str(tmp_path / 'script.py'), how], capture_output=True, text=True,
                            timeout=120, check=False, env=environment)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2, result.stderr
    assert sum(line.startswith(message) for line in lines) == 1, result.stderr
    if how == 'raise':
        assert len(lines) == 1, result.stderr
