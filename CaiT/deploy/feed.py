# SPDX-License-Identifier: Apache-2.0
"""Images decoded ahead of the engine, in order, in worker processes, with only so many in memory."""
from __future__ import annotations

import collections
import os
import threading
import time
from typing import Any, Callable, Deque, Iterator, List, Sequence, Tuple, Union

import numpy as np

from CaiT.errors import InputError

Decoded = Tuple[str, Union[np.ndarray, InputError]]  # path, the array or why there is none
WATCH = 0.5  # seconds between two looks for the parent
AHEAD = 8  # images per worker that are decoded or in work before they are asked for

_transform: Callable


def _start(transform: Callable, parent: int) -> None:
    global _transform  # of a worker process: sent once, not with every image
    _transform = transform
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this worker soon after the process that started it: a killed one cannot tell its workers to stop."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)


def _decode(path: str) -> Decoded:
    return decode(path, _transform)


def decode(path: str, transform: Callable) -> Decoded:
    """One image; what is wrong with it is returned, not raised."""
    try:
        return path, transform(path)
    except InputError as error:
        return path, error


def decoded(paths: Sequence[str], transform: Callable, workers: int) -> Iterator[Decoded]:
    """``paths`` in their order; ``workers`` processes decode ahead, none decodes here. InputError when one dies."""
    if not workers:
        for path in paths:
            yield decode(path, transform)
        return
    import concurrent.futures  # both take longer to import than an image takes
    import multiprocessing

    # Started afresh: a forked process would inherit locks held by the engine's threads.
    context = multiprocessing.get_context('spawn')
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start, (transform, os.getpid()))
    waiting: Deque[Any] = collections.deque()
    try:
        for path in paths:
            waiting.append(pool.submit(_decode, path))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except concurrent.futures.process.BrokenProcessPool:
        raise InputError('a decoding process died (out of memory?); try --workers 1, or 0 to decode without') from None
    finally:
        pool.shutdown(cancel_futures=True)


def batches(images: Iterator[Decoded], size: int) -> Iterator[Tuple[List[str], List[np.ndarray], List[InputError]]]:
    """(paths, arrays, what could not be decoded among them), ``size`` good images at a time."""
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
    """The part of ``paths`` that machine k of n takes, for ``which`` 'k/n', k from 1: together all, none twice."""
    part, slash, parts = which.partition('/')
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise InputError(f'--shard: found {which!r}, expected k/n with k from 1 to n')
    return list(paths[int(part) - 1::int(parts)])
