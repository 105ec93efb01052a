# SPDX-License-Identifier: Apache-2.0
"""Dynamic batching: requests that wait for the engine at the same time are computed together."""
from __future__ import annotations

import collections
import dataclasses
import threading
import time
from concurrent.futures import Future
from typing import Callable, Deque, List, Optional

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass
class Item:
    """The images [N, ...] of one request; ``result`` gets their rows of logits."""
    images: np.ndarray
    result: Future
    since: float


class Batcher:
    """Threads that each take what is waiting, at most ``size`` images, and run it.

    A thread that is idle takes what there is, whatever may come: batches grow while all threads compute. Threads that
    are idle at the same time divide what is waiting. A batch has as many images as the engine computes without padding,
    ``whole(images)`` of those there are. ``window``: seconds for which an image waits for others nevertheless.
    ``size`` 1 switches batching off. ``observe(images, seconds)`` is called after every run.
    """

    def __init__(self, run: Run, size: int, window: float, threads: int, observe: Callable[[int, float], None],
                 whole: Callable[[int], int] = lambda images: images) -> None:
        self.run, self.size, self.window, self.observe, self.whole = run, size, window, observe, whole
        self._waiting: Deque[Item] = collections.deque()
        self._idle = 0
        self._closed = False
        self._changed = threading.Condition()
        self._collecting = threading.Lock()  # one thread at a time fills a batch
        self._threads = [threading.Thread(target=self._work, name=f'engine-{index}', daemon=True)
                         for index in range(threads)]

    def start(self, warm_up: Callable[[], None]) -> None:
        """Start the threads, each after ``warm_up``; returns when all are ready, raises what one of them raised."""
        results: List[Future] = [Future() for _ in self._threads]
        for thread, result in zip(self._threads, results):
            thread.run = lambda result=result: self._first(warm_up, result)
            thread.start()
        for result in results:
            result.result()

    def _first(self, warm_up: Callable[[], None], result: Future) -> None:
        try:
            warm_up()
        except BaseException as error:
            result.set_exception(error)
            return
        result.set_result(None)
        self._work()

    def put(self, images: np.ndarray, result: Future) -> None:
        """Queue the images of a request."""
        with self._changed:
            self._waiting.append(Item(images, result, time.monotonic()))
            self._changed.notify_all()

    def close(self) -> None:
        """Run what is waiting, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _work(self) -> None:
        while True:
            items = self._collect()
            if items is None:
                return
            items = [item for item in items if item.result.set_running_or_notify_cancel()]
            if items:
                self._compute(items)

    def _collect(self) -> Optional[List[Item]]:
        """The next batch; None when there is none and there will be none."""
        with self._changed:
            self._idle += 1
            self._changed.notify_all()
        with self._collecting, self._changed:
            try:
                return self._next_batch()
            finally:
                self._idle -= 1

    def _next_batch(self) -> Optional[List[Item]]:
        while not self._waiting:
            if self._closed:
                return None
            self._changed.wait()
        end = self._waiting[0].since + self.window
        while self._images() < self.size and not self._closed:
            remaining = end - time.monotonic()
            if remaining <= 0 or not self._changed.wait(remaining):
                break
        size = self.whole(min(self.size, self._images() if self.window else -(-self._images() // self._idle)))
        items = [self._waiting.popleft()]
        images = len(items[0].images)
        while self._waiting and images + len(self._waiting[0].images) <= size:
            images += len(self._waiting[0].images)
            items.append(self._waiting.popleft())
        return items

    def _images(self) -> int:
        return sum(len(item.images) for item in self._waiting)

    def _compute(self, items: List[Item]) -> None:
        start = time.monotonic()
        try:
            logits = self.run(items[0].images if len(items) == 1 else np.concatenate([item.images for item in items]))
        except Exception as error:
            if len(items) == 1:
                items[0].result.set_exception(error)
            else:  # one of them fails, the others get their answer
                for item in items:
                    self._compute([item])
            return
        self.observe(len(logits), time.monotonic() - start)
        place = 0
        for item in items:
            item.result.set_result(logits[place:place + len(item.images)])
            place += len(item.images)
