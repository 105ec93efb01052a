# SPDX-License-Identifier: Apache-2.0
"""One engine for many threads: each run has what it needs for itself, and only so many run at a time."""
from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Iterator, List


class Lanes:
    """Up to ``limit`` lanes, each used by one thread at a time; further threads wait.

    A lane is whatever an engine computes with: a clone of its predictor, inference requests. There is one at first;
    another one is made, by ``copy`` of a lane that is idle, when a thread has had to wait.
    """

    def __init__(self, first: Any, copy: Callable[[Any], Any], limit: int) -> None:
        self.limit, self.made = limit, 1
        self._copy = copy
        self._free: List[Any] = [first]
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self) -> Iterator[Any]:
        """A lane for the length of a ``with`` block."""
        with self._changed:
            grow = not self._free and self.made < self.limit
            self._changed.wait_for(lambda: self._free)
            lane = self._free.pop()  # the last one used: its memory is warm
            grow = grow and self.made < self.limit
            self.made += grow
        try:
            if grow:
                self._give(self._copy(lane))
            yield lane
        finally:
            self._give(lane)

    def _give(self, lane: Any) -> None:
        with self._changed:
            self._free.append(lane)
            self._changed.notify()
