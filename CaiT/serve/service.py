# SPDX-License-Identifier: Apache-2.0
"""A predictor behind a queue: decoding in threads, batches in the engine's threads, readiness."""
from __future__ import annotations

import asyncio
import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, List, Tuple

import numpy as np

from CaiT import runtime
from CaiT.data.decode import ImageBytes
from CaiT.deploy.engines import BATCH, Options
from CaiT.deploy.predictor import Predictor, top_classes
from CaiT.errors import InputError
from CaiT.serve.batching import Batcher
from CaiT.serve.metrics import Metrics

GPU_BATCH = 32
ONE_THREAD_BATCH = 4  # more exceed the cache of a core: measured on OpenVINO and ONNX Runtime


class EngineError(RuntimeError):
    """The engine failed on images that it accepts: no fault of the client."""


@dataclasses.dataclass(frozen=True)
class Batching:
    """How requests are computed together: ``size`` images at most, ``window`` seconds for which an image
    waits for others, ``decoders`` threads that decode."""
    size: int
    window: float
    decoders: int


def automatic(options: Options, streams: int, batch: int) -> Options:
    """``options`` with streams, CPU threads of each and images of a batch, where they are 0.

    One CPU thread per stream gives the most images per second; a GPU has one stream.
    """
    threads, cores = options.threads, runtime.cores()
    if not streams:
        streams = 1 if options.use_gpu else max(1, cores // (threads or 1))
    if not threads:
        threads = max(1, cores // streams)
    if not batch:
        batch = GPU_BATCH if options.use_gpu else ONE_THREAD_BATCH if threads == 1 else BATCH
    return dataclasses.replace(options, threads=threads, streams=streams, batch=batch)


class Service:
    """The model that a server answers with. ``load`` makes it ready."""

    def __init__(self, make: Callable[[], Predictor], batching: Batching, metrics: Metrics, max_pixels: int,
                 name: str = '') -> None:
        """``make`` builds the predictor; ``name`` is the model's in addresses, by default that of its metadata."""
        self.make, self.batching, self.metrics, self.max_pixels = make, batching, metrics, max_pixels
        self.name, self.ready = name, False
        self.predictor: Predictor = None
        self.batcher: Batcher = None
        self.decoders = ThreadPoolExecutor(batching.decoders, 'decode')

    def load(self) -> None:
        """Load the model and warm it up; blocks. Raises InputError as Predictor does."""
        self.predictor = self.make()
        self.name = self.name or self.predictor.meta.model
        size = self.batching.size if self.predictor.engine.rows_are_independent else 1
        self.batcher = Batcher(self._run, size, self.batching.window,
                               self.predictor.options.streams, self.metrics.observe_run, self.predictor.engine.whole)
        self.batcher.start(self._warm_up)
        self.ready = True

    def _warm_up(self) -> None:
        """Engines compile their kernels in the first run of each number of images. 1, 2, 4, … and the largest number
        are those that no engine pads."""
        size, engine = self.batcher.size, self.predictor.engine
        for count in [*(2 ** power for power in range((size - 1).bit_length())), size]:
            engine.prepare(count)
        kind = np.uint8 if self.predictor.options.input == 'uint8' else np.float32
        for count in [*range(1, min(size, BATCH) + 1), size]:
            if engine.whole(count) == count:
                self.predictor.logits(np.zeros((count, *self.predictor.input_shape), kind))

    def _run(self, images: np.ndarray) -> np.ndarray:
        try:
            return self.predictor.logits(images)
        except InputError as error:
            raise EngineError(str(error)) from None

    def close(self) -> None:
        """Compute what waits and end the threads."""
        self.ready = False
        self.decoders.shutdown()
        if self.batcher:
            self.batcher.close()

    async def best(self, content: Callable[[], bytes], topk: int) -> List[Tuple[int, float]]:
        """(class id, probability) of the ``topk`` classes of an encoded image, most probable first. ``content`` gives
        its bytes, in a decoding thread; InputError when they are no image."""
        logits = await self.logits(lambda: self.predictor.transform(ImageBytes('', content(), self.max_pixels))[None])
        return top_classes(logits, topk, self.predictor.meta.activation)[0]

    async def logits(self, images: Callable[[], np.ndarray]) -> np.ndarray:
        """Logits [N, classes] of what ``images`` returns, in a decoding thread: arrays in the form of the graph's
        input [N, ...]."""
        result: Future = Future()
        self.decoders.submit(self._decode, images, result)
        return await asyncio.wrap_future(result)

    def _decode(self, images: Callable[[], np.ndarray], result: Future) -> None:
        try:
            with self.metrics.decode_seconds.time():
                array = images()
        except BaseException as error:
            if result.set_running_or_notify_cancel():
                result.set_exception(error)
            return
        self.batcher.put(array, result)
