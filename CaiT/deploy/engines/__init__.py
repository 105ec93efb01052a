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
from typing import Any, ClassVar, Dict, List, Tuple

import numpy as np

from CaiT.errors import InputError

BATCH = 8  # largest number of images in one run of an engine: larger batches exceed the cache and are slower


@dataclasses.dataclass(frozen=True)
class Options:
    """Engine options. ``threads`` counts CPU threads; ``batch`` images are passed to the engine together, which splits
    them into runs of at most BATCH."""

    precision: str = 'fp32'
    input: str = 'float'
    threads: int = 1
    batch: int = BATCH
    use_gpu: bool = False
    use_mkldnn: bool = True
    use_tensorrt: bool = False


class BaseEngine:
    """The interface of all engines: ``run`` maps any number of images to logits, float32 [N, classes].

    ``precisions`` are those it supports, ``module`` is its library and ``install`` the command that installs it.
    """

    name: ClassVar[str] = ''
    precisions: ClassVar[Tuple[str, ...]] = ()
    module: ClassVar[str] = ''
    install: ClassVar[str] = ''

    @staticmethod
    def write(net: Any, folder: Path, options: Options, data: Any, calibration: Any) -> List[Path]:
        """Write the ``graph.Network`` for this engine into ``folder``: returns the files, the graph to load first.

        ``data`` is the model's DataConfig; ``calibration`` a parity.CheckSet where ``options.precision`` is int8.
        """
        raise NotImplementedError

    def __init__(self, graph: Path, options: Options) -> None:
        self.graph, self.options = graph, options
        self.chunk = min(options.batch, BATCH)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits of ``images`` (float32 [N, 3, S, S] or uint8 [N, S, S, 3]).

        InputError when the graph's input has another shape.
        """
        try:
            return self.run_all(np.ascontiguousarray(images))
        except InputError:
            raise
        except Exception as error:  # each engine raises other exception types
            raise InputError(f'{self.graph}: cannot take images of shape {list(images.shape[1:])}, which '
                             f'the metadata beside it (or -cfg) states ({reason(error)})') from None

    def run_all(self, images: np.ndarray) -> np.ndarray:
        """All images, ``chunk`` at a time."""
        parts = [self.run_batch(images[start:start + self.chunk]) for start in range(0, len(images), self.chunk)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run_batch(self, images: np.ndarray) -> np.ndarray:
        """Logits of at most ``chunk`` images."""
        raise NotImplementedError

    def describe(self) -> Dict[str, Any]:
        """The settings in effect, for the console and the benchmark report."""
        raise NotImplementedError


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


def stem(name: str, options: Options) -> str:
    """File name, without extension, of an engine's graph: the same for fp32 and bf16."""
    return name + ('_int8' if options.precision == 'int8' else '') + ('_uint8' if options.input == 'uint8' else '')


def reason(error: BaseException) -> str:
    """The most informative line of an engine's message: the first with 'Error' or the first; at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if 'Error' in line), lines[0])[:200]
