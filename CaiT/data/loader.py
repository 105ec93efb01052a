# SPDX-License-Identifier: Apache-2.0
"""Batches of a dataset as Paddle tensors, loaded by worker processes or in the main process."""
from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import re
import time
import traceback
import weakref
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import paddle

from CaiT.data.decode import initialize_opencv
from CaiT.data.worker_init import WorkerInit, exit_flag
from CaiT.errors import PROCESS_ERRNOS, InputError, WorkerError

SETTLE, MOST = 0.02, 5.0  # seconds, see _wait_for_other_readers
JOIN_TIMEOUT = 0.1  # seconds to wait for Paddle's reader thread at the end of the workers
# (images [B, C, H, W], labels [B], generator) -> (images, soft targets [B, classes]): CaiT.data.mixing.Mixing
Mix = Callable[[np.ndarray, np.ndarray, np.random.Generator], Tuple[np.ndarray, np.ndarray]]


def build_loader(dataset: Sequence, sampler: Any, num_workers: int, use_shared_memory: bool,
                 mixing: Optional[Mix] = None) -> Loader:
    """An iterable of (images float32 [B, 3, S, S], labels int64 [B]), one epoch of ``sampler`` per iteration.

    With ``mixing``, or several labels per image, the second is float32 [B, classes]. Mixing runs in the workers, with a
    generator seeded from the sample seed of the batch's first image, so that it too depends on (seed, epoch, position)
    alone. ``num_workers`` 0 loads in the main process. An image that cannot be read raises InputError in this process,
    any other error of dataset, sampler or mixing RuntimeError with its traceback. Sets OpenCV's number of threads in
    this process to 0 (see Loader).
    """
    return Loader(dataset, sampler, num_workers, use_shared_memory, mixing)


class Loader:
    """See ``build_loader``; ``len()`` is the number of batches of a whole epoch, ``notes`` are lines for the log.

    With ``num_workers`` > 0 the first iteration, or ``start()``, starts Paddle's worker processes by the platform's
    default start method (fork on Linux). They stay for the next epochs, until ``close()`` or until the loader is
    garbage; after an epoch that was not read to its end others are started. The order of an epoch is the sampler's at
    the time when the iteration begins.

    Process-wide effects: the constructor calls ``cv2.setNumThreads(0)``, because OpenCV's threads would compete with
    the workers and the model, and forked workers inherit the setting; the first Loader of a process registers an exit
    handler.
    """

    def __init__(self, dataset: Sequence, sampler: Any, num_workers: int, use_shared_memory: bool,
                 mixing: Optional[Mix] = None) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.num_workers = num_workers
        self.notes: List[str] = list(getattr(dataset, 'notes', []))
        cv2.setNumThreads(0)
        self._options = dict(dataset=_ErrorsAsValues(dataset), collate_fn=_Collate(mixing), num_workers=num_workers,
                             use_shared_memory=use_shared_memory and num_workers > 0, return_list=True,
                             worker_init_fn=WorkerInit(exit_flag()))
        self._idle: List[_Batches] = []  # workers between two epochs: one set at most
        # At exit multiprocessing ends the workers; asking them for more then would wait forever.
        weakref.finalize(self, _close, self._idle).atexit = False

    def __len__(self) -> int:
        return len(self.sampler)

    def start(self) -> None:
        """Start the workers before the first epoch. A forked worker keeps the memory that this process has now."""
        if self.num_workers and not self._idle:
            initialize_opencv()
            self._idle.append(_Batches(self.sampler, self._options))

    def close(self) -> None:
        """End the workers that wait for an epoch. The loader can be used again."""
        _close(self._idle)

    def __iter__(self) -> Iterator[Tuple[paddle.Tensor, paddle.Tensor]]:
        with worker_failures():
            self.start()
            # Nobody else reads from these workers meanwhile: an iteration inside of this one starts others.
            batches = self._idle.pop() if self._idle else _Batches(self.sampler, self._options)
            try:
                yield from batches.epoch()
            except BaseException:  # also when the reader leaves the epoch
                batches.leave()
                raise
            _close(self._idle)
            self._idle.append(batches)
            if not self.num_workers:
                self.close()


def _close(idle: List[_Batches]) -> None:
    while idle:
        idle.pop().close()


class _Batches:
    """The batches of epoch after epoch, with workers that are started by the constructor.

    Paddle's own ``persistent_workers`` is not used: it sleeps at least half a second before each epoch, and after an
    epoch that was not read to its end the next one fails (IndexError) or waits forever: ``_reset`` in Paddle 3.3.1's
    ``io/dataloader/dataloader_iter.py`` forgets batches that its reader still holds. Here Paddle sees one endless
    epoch. Between two of ours, the workers pass on pauses in place of batches, as many as Paddle asks for in advance.
    """

    def __init__(self, sampler: Any, options: Dict[str, Any]) -> None:
        self._order = _Order(sampler)
        self._has_workers, others = options['num_workers'] > 0, multiprocessing.active_children()
        if self._has_workers:
            _wait_for_other_readers()
        try:
            self._read = iter(paddle.io.DataLoader(batch_sampler=self._order, **options))
        except OSError as error:
            if error.errno not in PROCESS_ERRNOS:
                raise
            for worker in set(multiprocessing.active_children()) - set(others):
                worker.kill()  # SIGTERM may come before a worker can tell what it means, and exit waits for workers
            raise InputError(f'DATA.NUM_WORKERS: found {options["num_workers"]}, more processes than this system '
                             f'starts ({error.strerror}); expected fewer') from None
        _readers.add(self._read)

    def epoch(self) -> Iterator[Tuple[paddle.Tensor, paddle.Tensor]]:
        """The batches of one epoch of the sampler."""
        self._order.epoch += 1
        for images, labels in self._read:
            if images.ndim > 1:
                yield images, labels
                continue
            kind, content = int(labels[0]), images.numpy().tobytes()  # not images, see _Message
            if kind != _PAUSE:
                message = content.decode('utf-8', 'surrogateescape')
                raise InputError(message) if kind == _INPUT_ERROR else RuntimeError(message)
            if int(content) == self._order.epoch:
                return  # otherwise a pause before this epoch

    def leave(self) -> None:
        """Have the workers end after the batches that they are loading, without waiting for it."""
        if self._has_workers:
            self._read._try_shutdown_all(0)

    def close(self) -> None:
        """End the workers, between two epochs."""
        if self._has_workers:
            self._read._try_shutdown_all()  # reading to the end would wait forever for a worker that has died
        else:
            self._order.closed = True
            for _ in self._read:
                pass
        # Paddle's reader thread may not have ended yet. If it holds a lock when other workers are forked, the lock
        # stays locked in them forever. Sometimes it waits for a batch for 5 s more, but without a lock.
        if self._read._thread is not None:
            self._read._thread.join(JOIN_TIMEOUT)


_readers: weakref.WeakSet = weakref.WeakSet()  # Paddle's iterators of this process


def _wait_for_other_readers() -> None:
    """Until the threads of Paddle that read for other loaders of this process have nothing to do, for workers are about
    to be forked. Such a thread takes a lock of the process when it first touches memory (``ThreadDataRegistry`` in
    Paddle 3.3.1); a worker that is forked at that moment has the lock taken for ever, and waits for it at its first
    batch. They have nothing to do once they hold all the batches that they ask for in advance."""
    end = time.monotonic() + MOST
    for read in list(_readers):
        while _awaits_batches(read) and time.monotonic() < end:
            time.sleep(0.001)
    if len(_readers):
        time.sleep(SETTLE)  # what is received is passed on by threads that cannot be asked


def _awaits_batches(read: Any) -> bool:
    """Whether workers were asked for batches that are not there yet; without workers there is nothing to ask."""
    return hasattr(read, '_send_idx') and not read._shutdown and read._rcvd_idx < read._send_idx


@contextlib.contextmanager
def worker_failures() -> Iterator[None]:
    """Turn the death of a data worker into a WorkerError; also a decorator, ``@worker_failures()``.

    Paddle raises from a signal handler, so the exception can appear anywhere in the main process.
    """
    try:
        yield
    except (SystemError, OSError) as error:  # OSError: how Paddle wraps an exception during a PyLayer's backward pass
        if not re.search('DataLoader|data reader', str(error)):  # the two wordings of Paddle's message
            raise
        raise WorkerError('a data worker died (any reason it gave is above); when /dev/shm or the memory is small, '
                          'use -opts DATA.USE_SHARED_MEMORY False or -num_workers 0') from error


_INPUT_ERROR, _OTHER_ERROR, _PAUSE = 0, 1, 2


class _Message(NamedTuple):
    """What takes the place of a batch: an error, or the pause after the epoch of that number."""
    kind: int
    text: str

    def batch(self) -> List[np.ndarray]:
        """The text as bytes [N], and the kind [1]."""
        return [np.frombuffer(self.text.encode('utf-8', 'surrogateescape'), np.uint8), np.array([self.kind], np.int64)]


def _failure(error: BaseException) -> _Message:
    """An error as a value. Paddle would add a long traceback to one raised in a worker; one raised in the thread that
    loads without workers would leave the main thread waiting forever."""
    if isinstance(error, MemoryError):
        return _Message(_INPUT_ERROR, 'not enough memory for a batch of images; try a smaller -batch_size or fewer '
                                      '-num_workers')
    if isinstance(error, InputError):
        return _Message(_INPUT_ERROR, str(error))
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return _Message(_OTHER_ERROR, 'loading the data failed:\n' + ''.join(lines))


class _ErrorsAsValues(paddle.io.Dataset):
    """The dataset, returning errors as values."""

    def __init__(self, dataset: Sequence) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, _Message):
            return key
        try:
            return (*self.dataset[key], key[1] if isinstance(key, tuple) else 0)
        except (Exception, SystemExit) as error:
            return _failure(error)


class _Order:
    """The sampler's epochs, one behind the other: before each, pauses until ``epoch`` is its number; the first is 1.

    An error becomes the last batch of an epoch.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.epoch, self.closed = sampler, 0, False

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[List[Any]]:
        for done in itertools.count():
            while self.epoch == done and not self.closed:
                yield [_Message(_PAUSE, str(done))]
            if self.closed:
                return
            try:
                yield from self.sampler
            except Exception as error:
                yield [_failure(error)]


class _Collate:
    """Samples (image, label, sample seed) to one batch; instead of it the first message, if there is one."""

    def __init__(self, mixing: Optional[Mix]) -> None:
        self.mixing = mixing

    def __call__(self, samples: List[Any]) -> List[np.ndarray]:
        for sample in samples:
            if isinstance(sample, _Message):
                return sample.batch()
        try:
            return self._stack(samples)
        except (Exception, SystemExit) as error:
            return _failure(error).batch()

    def _stack(self, samples: List[Any]) -> List[np.ndarray]:
        images = np.stack([image for image, _, _ in samples])
        dtype = np.float32 if np.ndim(samples[0][1]) else np.int64  # several labels per image, or a class id
        labels = np.asarray([label for _, label, _ in samples], dtype)
        if self.mixing is not None:
            rng = np.random.Generator(np.random.PCG64([samples[0][2], len(samples)]))
            images, labels = self.mixing(images, labels, rng)
        return [images, labels]
