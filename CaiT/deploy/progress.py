# SPDX-License-Identifier: Apache-2.0
"""A progress bar on a terminal, with the throughput and the utilization of the engine."""
from __future__ import annotations

import sys
import time
from typing import Optional, TextIO

INTERVAL = 0.2  # seconds between two updates of the line


class ProgressMeter:
    """Counts images. ``with progress:`` encloses each run of the engine; the time is measured from the first run on."""

    def __init__(self, num_images: int, stream: Optional[TextIO] = None) -> None:
        """``stream``: sys.stderr where it is None; nothing is shown when that is closed."""
        self.num_images, self.done, self.stream = num_images, 0, stream or sys.stderr
        self.shown = self.stream is not None and self.stream.isatty()
        self.start_time = self.engine_seconds = self._run_start = self._last_update = 0.0

    def __enter__(self) -> None:
        self._run_start = time.perf_counter()
        self.start_time = self.start_time or self._run_start

    def __exit__(self, *error: object) -> None:
        self.engine_seconds += time.perf_counter() - self._run_start

    @property
    def elapsed(self) -> float:
        """Seconds since the engine's first run."""
        return time.perf_counter() - self.start_time if self.start_time else 0.0

    @property
    def images_per_second(self) -> float:
        elapsed = self.elapsed  # none where no image could be decoded
        return self.done / elapsed if elapsed else 0.0

    @property
    def utilization(self) -> float:
        """Fraction of the time in which the engine ran, 0..1."""
        return self.engine_seconds / self.elapsed if self.elapsed else 0.0

    def step(self, images: int) -> None:
        """Count ``images`` more as processed or skipped."""
        self.done += images
        now = time.perf_counter()
        if self.shown and (now - self._last_update > INTERVAL or self.done == self.num_images):
            self._last_update = now
            speed = self.images_per_second
            eta = int((self.num_images - self.done) / speed) if speed else 0
            bar = '#' * (30 * self.done // max(self.num_images, 1))
            print(f'\r[{bar:30s}] {self.done}/{self.num_images}  {speed:.1f} images/s  '
                  f'ETA {eta // 3600}:{eta // 60 % 60:02d}:{eta % 60:02d} ', end='', file=self.stream, flush=True)

    def close(self) -> None:
        """End the line, if one was shown."""
        if self.shown:
            print(file=self.stream)

    def summary(self) -> str:
        """The final line."""
        return (f'{self.done} images in {self.elapsed:.1f} s, {self.images_per_second:.1f} images/s, '
                f'engine busy {100 * self.utilization:.0f} % of the time')
