# SPDX-License-Identifier: Apache-2.0
"""Image loading for inference: worker processes decode ahead of the engine, in order, with bounded memory."""
from __future__ import annotations

import collections
import contextlib
import os
import signal
import threading
import time
from typing import Any, Callable, Deque, Iterable, Iterator, List, NamedTuple, Sequence, Tuple, Union

import numpy as np

from CaiT.errors import PROCESS_ERRNOS, InputError


class Named(NamedTuple):
    """An image that is no path, and what it is called in messages."""
    name: str
    image: Any


Source = Union[str, Named]
Decoded = Tuple[Source, Union[np.ndarray, InputError]]  # the source as it was given, the array or the error
PREFETCH = 8  # images per worker that are submitted ahead of the engine
PARENT_INTERVAL = 0.5  # seconds between two checks that the parent process is alive

_transform: Callable


def _init_worker(transform: Callable, parent: int) -> None:
    global _transform  # of the worker process: sent once instead of with every image
    _transform = transform
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """End this worker soon after its parent process, which cannot stop its workers when it is killed."""
    while os.getppid() == parent:
        time.sleep(PARENT_INTERVAL)
    os._exit(1)


def sources(images: Iterable[Any]) -> List[Source]:
    """Paths as they are, open files as the bytes they hold, other images with their number as a name, from 0."""
    if isinstance(images, (str, os.PathLike, bytes, bytearray)) or not hasattr(images, '__iter__') \
            or hasattr(images, 'read'):
        raise InputError(f'images: found a single {type(images).__name__}, expected a list of images')
    found: List[Source] = []
    for number, image in enumerate(images):
        if isinstance(image, (str, os.PathLike)):
            found.append(os.fspath(image))
        else:
            found.append(Named(f'image {number}', image.read() if hasattr(image, 'read') else image))
    return found


def name_of(source: Source) -> str:
    """The path, or the name of an image that is none."""
    return source.name if isinstance(source, Named) else source


def _decode(source: Source) -> Decoded:
    return decode(source, _transform)


def decode(source: Source, transform: Callable) -> Decoded:
    """(source, transformed image), or (source, InputError) when it cannot be decoded."""
    try:
        return source, transform(source.image if isinstance(source, Named) else source)
    except InputError as error:
        named = isinstance(source, Named) and str(error).startswith('image: ')
        return source, InputError(f'{source.name}: {str(error)[len("image: "):]}') if named else error


def decode_all(paths: Sequence[Source], transform: Callable, workers: int) -> Iterator[Decoded]:
    """Decode ``paths`` (or other sources) in order, in ``workers`` spawned processes, or in this one for 0. InputError
    when one dies."""
    if not workers:
        for path in paths:
            yield decode(path, transform)
        return
    import concurrent.futures  # imported here: both take longer than decoding an image
    import multiprocessing

    # Spawned: a forked process would inherit locks held by the engine's threads.
    context = multiprocessing.get_context('spawn')
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _init_worker, (transform, os.getpid()))
    pending: Deque[Any] = collections.deque()
    try:
        for path in paths:
            with _interrupts_held():
                pending.append(pool.submit(_decode, path))
            if len(pending) >= PREFETCH * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool:
        raise InputError('a decoding process died (out of memory?); try --workers 1, or 0 to decode without') from None
    except OSError as error:
        if error.errno not in PROCESS_ERRNOS:
            raise
        raise InputError(f'--workers: found {workers}, more processes than this system starts ({error.strerror}); '
                         'expected fewer') from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started meanwhile gets no SIGINT, of a Ctrl-C in its terminal, ever: it ends with its parent.
    That of this process waits for the end of the block."""
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def batches(images: Iterator[Decoded],
            size: int) -> Iterator[Tuple[List[Source], List[np.ndarray], List[InputError]]]:
    """(sources, arrays, errors met meanwhile) with ``size`` decoded images each; the last batch may be smaller."""
    paths: List[Source] = []
    arrays: List[np.ndarray] = []
    errors: List[InputError] = []
    for path, array in images:
        if isinstance(array, InputError):
            errors.append(array)
            continue
        paths.append(path)
        arrays.append(array)
        if len(paths) == size:
            yield paths, arrays, errors
            paths, arrays, errors = [], [], []
    if paths or errors:
        yield paths, arrays, errors


def shard(paths: Sequence[str], which: str) -> List[str]:
    """Part k of n of ``paths``, for ``which`` 'k/n' with k from 1; the parts are disjoint and cover all paths."""
    part, slash, parts = which.partition('/')
    if not (slash and len(which) <= 40 and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise InputError(f'--shard: found {which[:40]!r}, expected k/n with k from 1 to n')
    return list(paths[int(part) - 1::int(parts)])
