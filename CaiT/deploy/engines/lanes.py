# SPDX-License-Identifier: Apache-2.0
"""One engine for many threads: each run has what it needs for itself, and only so many run at a time."""
from __future__ import annotations

import collections
import contextlib
import threading
from typing import Any, Callable, Deque, Iterator, List


class NoMore(Exception):
    """A lane cannot be copied any more."""


class Lanes:
    """Up to ``limit`` lanes, each used by one thread at a time; further threads wait.

    A lane is whatever an engine computes with: a clone of its predictor, inference requests. There is one at first;
    another one is made, by ``copy`` of a lane that is idle, when a thread has had to wait. ``copy`` raises
    NoMore when there can be no further one: those that are there go on.
    """

    def __init__(self, first: Any, copy: Callable[[Any], Any], limit: int) -> None:
        self.limit, self.made = limit, 1
        self._copy = copy
        self._free: List[Any] = [first]
        self._waiting: Deque[_Place] = collections.deque()
        self._threads = 0  # that hold a lane or wait for one
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def acquire(self) -> Iterator[Any]:
        """A lane for the length of a ``with`` block; threads get theirs in the order in which they came."""
        place = _Place()
        with self._lock:
            self._threads += 1
            wanted = min(self._threads, self.limit) if not self._free else 1
            if self._free:
                place.lane = self._free.pop()  # the last one used: its memory is warm
                place.ready.set()
            else:
                self._waiting.append(place)
        try:
            place.ready.wait()
            with self._lock:
                grow = self.made < min(wanted, self.limit)
                self.made += grow
            if grow:
                self._grow(place.lane)
            yield place.lane
        finally:
            with self._lock:
                self._threads -= 1
                left = place in self._waiting  # interrupted before its turn
                if left:
                    self._waiting.remove(place)
            if not left:
                self._give(place.lane)

    def _grow(self, lane: Any) -> None:
        try:
            self._give(self._copy(lane))
        except NoMore:
            with self._lock:
                self.made -= 1
                self.limit = self.made

    def _give(self, lane: Any) -> None:
        with self._lock:
            if self._waiting:
                place = self._waiting.popleft()
                place.lane = lane
                place.ready.set()
            else:
                self._free.append(lane)


class _Place:
    """A thread's place in the queue."""

    def __init__(self) -> None:
        self.lane: Any = None
        self.ready = threading.Event()
