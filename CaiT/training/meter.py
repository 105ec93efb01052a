# SPDX-License-Identifier: Apache-2.0
"""Throughput and data-loading time of an epoch, and the log line that TIPC and benchmark scripts parse."""
from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Dict, Iterable, Iterator

import paddle
from yacs.config import CfgNode

from CaiT.config import is_explicit


def peak_memory() -> float:
    """Peak memory of this process so far in MiB: GPU memory where there is a GPU, else the resident set size (0 where
    the system does not tell it: Windows)."""
    if paddle.get_device().startswith('gpu'):
        return paddle.device.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report_freq(config: CfgNode, steps: int) -> int:
    """Steps between two log lines: REPORT_FREQ; where nobody has set it, a tenth of an epoch that is short for it."""
    if is_explicit(config, 'REPORT_FREQ'):
        return config.REPORT_FREQ
    return min(config.REPORT_FREQ, max(1, steps // 10))


class Meter:
    """Counts images and batches and measures data-loading and total seconds, since the last report and in all.

    Images are those of all ``world_size`` processes, which take batches of one size in step.
    """

    def __init__(self, world_size: int = 1) -> None:
        self.world_size = world_size
        self.start_time = self.report_time = time.perf_counter()
        self.total_data_time = self.data_time = 0.0
        self.total_batches = self.batches = 0
        self.total_images = self.images = 0

    def measure(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield the loader's batches (images, targets) and measure the time spent waiting for each."""
        iterator = iter(loader)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                return
            self.data_time += time.perf_counter() - start
            self.batches += 1
            self.images += len(batch[1]) * self.world_size
            yield batch

    def report(self, epoch: int, epochs: int, step: int, steps: int, lr: float, loss: float, top1: float) -> str:
        """The TIPC training line, averaged over the batches since the last report.

        ``ips:`` is a word of its own followed by a number, while the comma follows ``loss:``'s number directly: the
        official analysis script splits the line at blanks and relies on both.
        """
        now = time.perf_counter()
        batches, elapsed = max(self.batches, 1), max(now - self.report_time, 1e-9)
        images_per_second = self.images / elapsed
        remaining = max(epochs - epoch, 0) * steps + steps - step - 1
        line = (f'[Train][Epoch {epoch}/{epochs}][Iter: {step}/{steps}] lr: {lr:.8f}, loss: {loss:.5f}, '
                f'top1: {top1:.5f}, avg_reader_cost: {self.data_time / batches:.5f} sec, '
                f'avg_batch_cost: {elapsed / batches:.5f} sec, avg_samples: {self.images / batches:.1f}, '
                f'avg_ips: {images_per_second:.5f} images/sec, ips: {images_per_second:.5f} images/sec, '
                f'eta: {timedelta(seconds=int(remaining * elapsed / batches))}')
        self._reset(now)
        return line

    def summary(self) -> Dict[str, float]:
        """The epoch's averages for log.jsonl: seconds per micro-batch, images per second; and the peak MiB."""
        now = time.perf_counter()
        self._reset(now)
        batches, elapsed = max(self.total_batches, 1), max(now - self.start_time, 1e-9)
        return {'data_time': self.total_data_time / batches, 'batch_time': elapsed / batches,
                'images_per_second': self.total_images / elapsed, 'memory_mib': peak_memory()}

    def _reset(self, now: float) -> None:
        """Add the counts since the last report to the totals and start counting anew."""
        self.total_data_time += self.data_time
        self.total_batches += self.batches
        self.total_images += self.images
        self.data_time, self.batches, self.images, self.report_time = 0.0, 0, 0, now
