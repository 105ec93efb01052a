# SPDX-License-Identifier: Apache-2.0
"""Batches of a dataset as Paddle tensors, read by worker processes or in the main one."""
from __future__ import annotations

import atexit
import contextlib
import ctypes
import mmap
import os
import re
import signal
import sys
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import paddle

from CaiT.errors import InputError

LEAVING = 0.1  # seconds for which a pass waits for Paddle's thread at its end
# (images [B, C, H, W], labels [B], generator) -> (images, soft targets [B, classes]): CaiT.data.mixing.Mixing
Mix = Callable[[np.ndarray, np.ndarray, np.random.Generator], Tuple[np.ndarray, np.ndarray]]


def build_loader(dataset: Sequence, sampler: Any, num_workers: int, use_shared_memory: bool,
                 mixing: Optional[Mix] = None) -> Loader:
    """An iterable of (images float32 [B, 3, S, S], labels int64 [B]), one pass over ``sampler`` each time.

    With ``mixing`` the second is float32 [B, classes]; it runs where the images are read, with a generator seeded
    from the draw of the batch's first image, so it depends on (seed, epoch, position) like everything else.
    ``num_workers`` 0 reads in the main process. An image that cannot be read raises InputError in this process.
    """
    return Loader(dataset, sampler, num_workers, use_shared_memory, mixing)


class Loader:
    """See ``build_loader``; ``len()`` is the number of batches of a whole pass."""

    def __init__(self, dataset: Sequence, sampler: Any, num_workers: int, use_shared_memory: bool,
                 mixing: Optional[Mix] = None) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.num_workers = num_workers
        cv2.setNumThreads(0)  # this process reads, or its forked workers inherit the setting
        self._ending = mmap.mmap(-1, 1)  # one byte shared with the workers
        atexit.register(self._end)
        self._batches = paddle.io.DataLoader(
            _Guarded(dataset), batch_sampler=sampler, collate_fn=_Collate(mixing), num_workers=num_workers,
            use_shared_memory=use_shared_memory and num_workers > 0, return_list=True,
            worker_init_fn=self._prepare_worker)

    def __len__(self) -> int:
        return len(self.sampler)

    def _end(self) -> None:
        self._ending[0] = 1

    def _prepare_worker(self, worker: int) -> None:
        """OpenCV's own threads would compete with the other workers and with the model.

        Schedulers send SIGTERM to every process of a job, and a worker that dies of it takes the trainer along before
        that has saved. So workers leave it alone, until this process ends and terminates them. When it is killed, the
        kernel kills them: Paddle's own watch over the parent never runs, its wait for work has no time limit.
        """
        cv2.setNumThreads(0)
        if sys.platform == 'linux':
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if self._ending[0] else None)

    def __iter__(self) -> Iterator[Tuple[paddle.Tensor, paddle.Tensor]]:
        with worker_failures():
            batches = iter(self._batches)
            for images, labels in batches:
                if images.ndim == 1:  # not images: the text of an InputError
                    raise InputError(images.numpy().tobytes().decode('utf-8'))
                yield images, labels
            # Paddle leaves a thread behind that is about to end: a lock that it holds while the next pass forks its
            # workers would stay locked in them for ever. Sometimes it waits for a batch for 5 s more, locking nothing.
            thread = getattr(batches, '_thread', None)
            if thread is not None:
                thread.join(LEAVING)


@contextlib.contextmanager
def worker_failures() -> Iterator[None]:
    """Turn the death of a data worker into an InputError; also a decorator, ``@worker_failures()``.

    Paddle raises it out of a signal handler: in the main process, wherever that happens to be.
    """
    try:
        yield
    except (SystemError, OSError) as error:  # OSError: Paddle's wrapping of what a backward pass of ours raises
        if not re.search('DataLoader|data reader', str(error)):  # Paddle's two ways to say it
            raise
        raise InputError('a data worker died (any reason it gave is above); when /dev/shm or the memory is small, '
                         'use -opts DATA.USE_SHARED_MEMORY False or -num_workers 0') from error


class _Guarded(paddle.io.Dataset):
    """The dataset with errors as values: raised in a worker, Paddle buries them in pages of traceback."""

    def __init__(self, dataset: Sequence) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        try:
            return (*self.dataset[key], key[1] if isinstance(key, tuple) else 0)
        except InputError as error:
            return str(error)


class _Collate:
    """Samples (image, label, draw) to one batch; the first failed sample's message, as bytes, when there is one."""

    def __init__(self, mixing: Optional[Mix]) -> None:
        self.mixing = mixing

    def __call__(self, samples: List[Any]) -> List[np.ndarray]:
        for sample in samples:
            if isinstance(sample, str):
                return [np.frombuffer(sample.encode('utf-8'), np.uint8), np.zeros(1, np.int64)]
        images = np.stack([image for image, _, _ in samples])
        labels = np.asarray([label for _, label, _ in samples], np.int64)
        if self.mixing is not None:
            rng = np.random.Generator(np.random.PCG64([samples[0][2], len(samples)]))
            images, labels = self.mixing(images, labels, rng)
        return [images, labels]
