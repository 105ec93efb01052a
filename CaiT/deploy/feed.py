# SPDX-License-Identifier: Apache-2.0
"""Image loading for inference: worker processes decode ahead of the engine, in order, with bounded memory."""
from __future__ import annotations

import collections
import os
import threading
import time
from typing import Any, Callable, Deque, Iterator, List, Sequence, Tuple, Union

import numpy as np

from CaiT.errors import InputError

Decoded = Tuple[str, Union[np.ndarray, InputError]]  # path, the array or the error
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


def _decode(path: str) -> Decoded:
    return decode(path, _transform)


def decode(path: str, transform: Callable) -> Decoded:
    """(path, transformed image), or (path, InputError) when it cannot be decoded."""
    try:
        return path, transform(path)
    except InputError as error:
        return path, error


def decode_all(paths: Sequence[str], transform: Callable, workers: int) -> Iterator[Decoded]:
    """Decode ``paths`` in order, in ``workers`` spawned processes, or in this one for 0. InputError when one dies."""
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
            pending.append(pool.submit(_decode, path))
            if len(pending) >= PREFETCH * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except concurrent.futures.process.BrokenProcessPool:
        raise InputError('a decoding process died (out of memory?); try --workers 1, or 0 to decode without') from None
    finally:
        pool.shutdown(cancel_futures=True)


def batches(images: Iterator[Decoded], size: int) -> Iterator[Tuple[List[str], List[np.ndarray], List[InputError]]]:
    """(paths, arrays, errors met meanwhile) with ``size`` decoded images each; the last batch may be smaller."""
    paths: List[str] = []
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
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise InputError(f'--shard: found {which!r}, expected k/n with k from 1 to n')
    return list(paths[int(part) - 1::int(parts)])
