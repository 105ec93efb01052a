# SPDX-License-Identifier: Apache-2.0
"""A progress line on a terminal, and how much of the time the engine had something to do."""
from __future__ import annotations

import sys
import time
from typing import TextIO

INTERVAL = 0.2  # seconds between two looks of the line


class ProgressMeter:
    """Counts images. ``with progress:`` wraps each run of the engine; the clock starts with the first."""

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self.total, self.done, self.stream = total, 0, stream
        self.shown = stream.isatty()
        self.begun = self.running = self._since = self._last = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()
        self.begun = self.begun or self._since

    def __exit__(self, *error: object) -> None:
        self.running += time.perf_counter() - self._since

    @property
    def elapsed(self) -> float:
        """Seconds since the engine's first run."""
        return time.perf_counter() - self.begun if self.begun else 0.0

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.done / self.elapsed if self.done else 0.0

    @property
    def busy(self) -> float:
        """Part of the time that the engine worked, 0..1."""
        return self.running / self.elapsed if self.elapsed else 0.0

    def step(self, images: int) -> None:
        """``images`` more are done, or were left out."""
        self.done += images
        now = time.perf_counter()
        if self.shown and (now - self._last > INTERVAL or self.done == self.total):
            self._last = now
            left = int((self.total - self.done) / self.rate) if self.rate else 0
            bar = '#' * (30 * self.done // max(self.total, 1))
            print(f'\r[{bar:30s}] {self.done}/{self.total}  {self.rate:.1f} images/s  '
                  f'ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} ', end='', file=self.stream, flush=True)

    def close(self) -> None:
        """End the line, where one was shown."""
        if self.shown:
            print(file=self.stream)

    def summary(self) -> str:
        """One line for the end."""
        return (f'{self.done} images in {self.elapsed:.1f} s, {self.rate:.1f} images/s, '
                f'engine busy {100 * self.busy:.0f} % of the time')
