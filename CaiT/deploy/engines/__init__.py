# SPDX-License-Identifier: Apache-2.0
"""Inference engines with a common interface, one file each: ``<backend>_engine.py`` with a class ``Engine``.

A new backend is one new file here, discovered by its name. Modules import their engine's library only when it is used,
so that using one engine never imports the library of another.
"""
from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Optional, Sequence, Tuple

import numpy as np

from CaiT import runtime
from CaiT.deploy.engines.lanes import Lanes
from CaiT.errors import InputError
from CaiT.files import stamp

BATCH = 8  # largest number of images in one run of an engine: larger batches exceed the cache and are slower


@dataclasses.dataclass(frozen=True)
class Options:
    """Engine options. ``threads`` counts CPU threads; ``batch`` images are passed to the engine together, which splits
    them into runs of at most BATCH. ``streams``: the number of Python threads that the engine computes for at a time,
    each with ``threads`` CPU threads; 0: as many as the cores hold, one on a GPU. BATCH is a limit of CPUs: a GPU gets
    ``batch`` images in one run. ``gpu_id``: which GPU."""

    precision: str = 'fp32'
    input: str = 'float'
    threads: int = 1
    batch: int = BATCH
    use_gpu: bool = False
    use_mkldnn: bool = True
    use_tensorrt: bool = False
    streams: int = 0
    gpu_id: int = 0


class BaseEngine:
    """The interface of all engines: ``run`` maps any number of images to logits, float32 [N, classes].

    Any number of threads may call ``run``. ``precisions`` are those it supports, ``endings`` those of its files, the
    graph's first, ``module`` is its library and ``install`` the command that installs it.
    """

    name: ClassVar[str] = ''
    precisions: ClassVar[Tuple[str, ...]] = ()
    endings: ClassVar[Tuple[str, ...]] = ()
    module: ClassVar[str] = ''
    install: ClassVar[str] = ''

    @staticmethod
    def write_needs(precision: str) -> Tuple[str, ...]:
        """The modules that ``write`` imports and inference does not, named as their packages."""
        return ()

    @staticmethod
    def write(net: Any, folder: Path, options: Options, data: Any, calibration: Any) -> List[Path]:
        """Write the ``Network`` for this engine into ``folder``: returns the files, the graph to load first.

        ``data`` is the model's DataConfig; ``calibration`` a parity.CheckSet where ``options.precision`` is int8.
        """
        raise NotImplementedError

    def __init__(self, graph: Path, options: Options) -> None:
        self.graph, self.options = graph, options
        self.stamps = self._stamps()
        self.chunk = options.batch if options.use_gpu else min(options.batch, BATCH)
        streams = 1 if options.use_gpu else max(1, runtime.cores() // options.threads)
        self.lanes = Lanes(None, lambda lane: lane, options.streams or streams)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits of ``images`` (float32 [N, 3, S, S] or uint8 [N, S, S, 3]).

        InputError when the graph's input has another shape or type, or the computation fails.
        """
        images = np.ascontiguousarray(images)
        self.check(images)
        try:
            with self.lanes.acquire() as lane:
                return self.run_all(images, lane)
        except InputError:
            raise
        except Exception as error:  # each engine raises other exception types
            raise InputError(f'{self.graph}: cannot compute with images of shape {list(images.shape)} ({reason(error)})'
                             ) from None

    def check(self, images: np.ndarray) -> None:
        """InputError, naming what was found and expected, for images that the graph would cut or take for others."""
        dtype = 'uint8' if self.options.input == 'uint8' else 'float32'
        if images.dtype != dtype:
            raise InputError(f'{self.graph}: found images of type {images.dtype}, expected {dtype}')
        if not len(images):
            raise InputError(f'{self.graph}: found no images, expected one at least')
        self.check_shape(images.shape[1:])

    def check_shape(self, found: Sequence[int]) -> None:
        """InputError when images of that shape, without the batch, do not fit the graph."""
        wanted, dtype = self.image_shape, 'uint8' if self.options.input == 'uint8' else 'float32'
        if wanted is not None and (len(found) != len(wanted) or any(
                isinstance(size, int) and 0 < size != other for size, other in zip(wanted, found))):
            raise InputError(f'{self.graph}: found images of {_described(found, dtype)}, expected '
                             f'{_described(wanted, dtype)}')

    def check_logits(self, logits: np.ndarray, images: int, classes: int) -> None:
        """InputError when the graph's answer is not finite, or not [images, classes]."""
        if len(logits) != images:
            raise InputError(f'{self.graph}: found {len(logits)} rows of logits for {images} images')
        if logits.shape != (images, classes):
            raise InputError(f'{self.graph}: found {logits.shape[-1]} classes, but metadata.json beside it (or -cfg) '
                             f'says {classes}')
        if not np.isfinite(logits).all():
            raise InputError(f'{self.graph}: found logits that are not finite (NaN or Inf), expected a model whose '
                             f'numbers do not overflow in {self.options.precision}')

    def _stamps(self) -> List[Any]:
        return [stamp(self.graph), *(stamp(self.graph.with_suffix(ending)) for ending in self.endings)]

    def is_replaced(self) -> bool:
        """Whether the files are no longer those that the engine was made of. Nothing of it may come from them then."""
        return self._stamps() != self.stamps

    @property
    def rows_are_independent(self) -> bool:
        """Whether the logits of an image do not depend on the other images of its batch."""
        return True

    def prepare(self, images: int) -> None:
        """Make, once, what a run of so many images needs in order not to be padded."""

    def whole(self, images: int) -> int:
        """The most images, of so many, that one run computes without padding."""
        return images

    @property
    def image_shape(self) -> Optional[Tuple[Any, ...]]:
        """Shape of one image as the graph has it, None when it is not known; what is no positive number is free."""
        raise NotImplementedError

    def run_all(self, images: np.ndarray, lane: Any) -> np.ndarray:
        """All images, ``chunk`` at a time. ``lane`` is this thread's alone until the end."""
        parts = [self.run_batch(images[start:start + self.chunk], lane) for start in range(0, len(images), self.chunk)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run_batch(self, images: np.ndarray, lane: Any) -> np.ndarray:
        """Logits of at most ``chunk`` images."""
        raise NotImplementedError

    def describe(self) -> Dict[str, Any]:
        """The settings in effect, for the console and the benchmark report."""
        raise NotImplementedError


def _described(shape: Sequence[Any], dtype: str) -> str:
    """'32x32 pixels, shape [3, 32, 32]'."""
    if len(shape) != 3:
        return f'shape {list(shape)}'
    height, width = shape[:2] if dtype == 'uint8' else shape[1:]
    return f'{width}x{height} pixels, shape {list(shape)}'


def backends() -> List[str]:
    """Names for ``--backend``."""
    return sorted(info.name[:-len('_engine')] for info in pkgutil.iter_modules(__path__)
                  if info.name.endswith('_engine'))


def engine_class(backend: str, precision: str = 'fp32') -> type:
    """The engine of that name; InputError when there is none, its library is missing or does not support
    ``precision``."""
    if backend not in backends():
        raise InputError(f'--backend: found {backend!r}, expected one of {", ".join(backends())}')
    engine = importlib.import_module(f'{__name__}.{backend}_engine').Engine
    if precision not in engine.precisions:
        raise InputError(f'--precision: found {precision!r}, but {backend} on this kind of machine would ignore it; '
                         f'expected one of {", ".join(engine.precisions)}')
    if importlib.util.find_spec(engine.module) is None:
        raise InputError(f'--backend {backend}: {engine.module} is not installed; install it with: {engine.install}')
    return engine


def check_installed(flag: str, modules: Sequence[str]) -> None:
    """InputError, with the command, when one of ``modules``, which are named as their packages, is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f'{flag}: {", ".join(missing)} is not installed; install it with: pip install '
                         f'{" ".join(missing)}')


def stem(name: str, options: Options) -> str:
    """File name, without extension, of an engine's graph: the same for fp32 and bf16."""
    return name + ('_int8' if options.precision == 'int8' else '') + ('_uint8' if options.input == 'uint8' else '')


def reason(error: BaseException) -> str:
    """The most informative line of an engine's message: the first with 'Error' or the first; at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if 'Error' in line), lines[0])[:200]
