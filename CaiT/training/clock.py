# SPDX-License-Identifier: Apache-2.0
"""Where an epoch's time goes, and the line that certification and benchmark tooling reads."""
from __future__ import annotations

import resource
import time
from datetime import timedelta
from typing import Any, Dict, Iterable, Iterator

import paddle


def peak_memory() -> float:
    """Largest memory of this process so far in MiB: the GPU's where there is one, else resident memory."""
    if paddle.get_device().startswith('gpu'):
        return paddle.device.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock:
    """Seconds spent waiting for data and seconds in all, since the last report and since the start."""

    def __init__(self) -> None:
        self.started = self.mark = time.perf_counter()
        self.reading_all = self.reading = 0.0
        self.batches_all = self.batches = 0
        self.pictures_all = self.pictures = 0

    def watch(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The loader's batches (pictures, targets), timed."""
        source = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(source, None)
            if batch is None:
                return
            self.reading += time.perf_counter() - asked
            self.batches += 1
            self.pictures += len(batch[1])
            yield batch

    def report(self, epoch: int, epochs: int, step: int, steps: int, rate: float, loss: float, top1: float) -> str:
        """The training line of the certification guide, over what came since the last report.

        ``ips:`` stands alone as a word with a number behind it, ``loss:`` has its comma glued to the number: that is
        how the official analysis script and its relatives split the line.
        """
        now = time.perf_counter()
        batches, passed = max(self.batches, 1), now - self.mark
        speed = self.pictures / passed
        left = (epochs - epoch) * steps + steps - step - 1
        line = (f'[Train][Epoch {epoch}/{epochs}][Iter: {step}/{steps}] lr: {rate:.8f}, loss: {loss:.5f}, '
                f'top1: {top1:.5f}, avg_reader_cost: {self.reading / batches:.5f} sec, '
                f'avg_batch_cost: {passed / batches:.5f} sec, avg_samples: {self.pictures / batches:.1f}, '
                f'avg_ips: {speed:.5f} images/sec, ips: {speed:.5f} images/sec, '
                f'eta: {timedelta(seconds=int(left * passed / batches))}')
        self._turn(now)
        return line

    def totals(self) -> Dict[str, float]:
        """The epoch's means for its record: seconds per micro-batch, pictures per second, MiB."""
        now = time.perf_counter()
        self._turn(now)
        batches, passed = max(self.batches_all, 1), now - self.started
        return {'data_time': self.reading_all / batches, 'batch_time': passed / batches,
                'pictures_per_second': self.pictures_all / passed, 'memory_mib': peak_memory()}

    def _turn(self, now: float) -> None:
        self.reading_all += self.reading
        self.batches_all += self.batches
        self.pictures_all += self.pictures
        self.reading, self.batches, self.pictures, self.mark = 0.0, 0, 0, now
