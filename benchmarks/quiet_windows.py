# SPDX-License-Identifier: Apache-2.0
"""Was the machine itself slow while a window was measured?

Virtual machines share cores, caches and memory with others, whose work slows a measurement down by far more than the
difference that it looks for, and some programs more than others. A fixed matrix product and a fixed sweep over memory
before and after each window show it: a window is slow when one of its four times is more than LIMIT times that one's
usual value in a quiet moment of the same run.
"""
from __future__ import annotations

import time
from typing import Callable, List, Sequence, Tuple, TypeVar

import numpy as np

LIMIT = 1.3
SIZE = 1024            # rows and columns of the matrix product
SWEEP = 128 * 2 ** 20  # bytes
Probe = Tuple[float, float]  # seconds of the matrix product and of the sweep
Result = TypeVar('Result')


class QuietWindows:
    """Runs windows with a probe on either side; ``slow_windows(probes)`` tells afterwards which were slow."""

    def __init__(self) -> None:
        self._matrix = np.ones((SIZE, SIZE), np.float32)
        self._memory = np.zeros(SWEEP, np.uint8)
        self.probes: List[Tuple[Probe, Probe]] = []
        self._probe()  # the first one includes the start of threads and the first touch of the memory

    def _probe(self) -> Probe:
        """The best of three each: a short interruption is not a slow machine."""
        products, sweeps = [], []
        for _ in range(3):
            start = time.perf_counter()
            self._matrix @ self._matrix
            middle = time.perf_counter()
            self._memory += 1
            products.append(middle - start)
            sweeps.append(time.perf_counter() - middle)
        return min(products), min(sweeps)

    def run(self, window: Callable[[], Result]) -> Result:
        """The result of ``window``, whose probes are appended to ``probes``."""
        before = self._probe()
        result = window()
        self.probes.append((before, self._probe()))
        return result


def slow_windows(probes: Sequence[Tuple[Probe, Probe]]) -> List[bool]:
    """Whether each window's probes exceed LIMIT times the fastest tenth's slowest probe, of either kind."""
    if not probes:
        return []
    times = np.array(probes)  # [window, before and after, kind]
    quiet = np.quantile(times.reshape(-1, 2), 0.1, axis=0)
    return (times > LIMIT * quiet).any(axis=(1, 2)).tolist()
