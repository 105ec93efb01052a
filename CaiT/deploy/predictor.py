# SPDX-License-Identifier: Apache-2.0
"""Prediction of image classes on any engine. Needs the engine's library, NumPy and Pillow."""
from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from CaiT.data.prediction_rows import present_ids
from CaiT.data.text import quoted
from CaiT.data.transforms import eval_transform
from CaiT.deploy import feed, metadata
from CaiT.deploy.autolog import StageTimes
from CaiT.deploy.engines import BaseEngine, Options, engine_class
from CaiT.deploy.progress import ProgressMeter
from CaiT.errors import InputError

TRIES = 3  # to load an export that others replace meanwhile
WARM_UP = 2  # runs before anything is timed: engines compile their kernels in the first


@dataclasses.dataclass(frozen=True)
class Prediction:
    """An image's top classes: (class id, probability), most probable first; softmax, or sigmoid as the metadata says.

    ``class_ids``: of a model for images of several classes those that reach their thresholds, separated by blanks.
    ``path`` is the image's; of an image that was given otherwise, 'image 3' for the fourth of the list.
    """

    path: str
    best: List[Tuple[int, float]]
    class_ids: Optional[str] = None


class Predictor:
    """An exported model on one engine, with the preprocessing of its metadata."""

    def __init__(self, folder: str, backend: str, options: Options, meta: Optional[metadata.Metadata] = None) -> None:
        """``meta`` is for a folder without metadata.json (see paddle2.py). Raises InputError for a folder, metadata
        file or engine that is missing or does not fit."""
        self.options = options
        engine = engine_class(backend, options.precision)
        if options.use_gpu and backend != 'paddle':
            raise InputError(f'--use-gpu True: --backend {backend} computes on the CPU, expected --backend paddle')
        for left in reversed(range(TRIES)):
            try:
                with metadata.unreplaced(folder, [metadata.FILE]):
                    self.meta = meta or metadata.read(folder)
                    self.engine: BaseEngine = self._loaded(folder, engine)
                break
            except metadata.Replaced:
                if not left:
                    raise
        self.transform = eval_transform(self.meta.data, normalize=options.input == 'float')

    def _loaded(self, folder: str, engine: type) -> BaseEngine:
        """The engine with the model of ``folder``, whose files are those that ``self.meta`` describes."""
        # On a GPU the precision is chosen when the graph is loaded: of fp32, whose difference the export has measured.
        options = self.options
        stored = 'fp32' if options.use_gpu else options.precision
        artifact = self.meta.artifact(engine.name, stored, options.input)
        if artifact is None:
            found = ', '.join('/'.join(artifact.key) for artifact in self.meta.artifacts) or 'no model'
            calibration = ' --calibration=FOLDER' if options.precision == 'int8' else ''
            words = f'--backend={engine.name} --precision={stored} --input={options.input}{calibration}'
            raise InputError(f'{Path(folder) / metadata.FILE}: found {found}; add the missing one with: '
                             f'{self.meta.export_command(folder, words)}')
        with metadata.unreplaced(folder, artifact.files):
            graph = metadata.check_files(folder, artifact, engine.endings)
            metadata.check_content(folder, [graph.name], self.meta.sha256)
            with self._checked(folder, [name for name in artifact.files if name != graph.name]):
                loaded = engine(graph, options)
        loaded.check_shape(self.input_shape)  # before images are decoded: to a wrong size that takes gigabytes
        return loaded

    @contextlib.contextmanager
    def _checked(self, folder: str, names: Sequence[str]) -> Iterator[None]:
        """Compares the weights with their checksums while the engine loads them."""
        problems: List[InputError] = []

        def check() -> None:
            try:
                metadata.check_content(folder, names, self.meta.sha256)
            except InputError as error:
                problems.append(error)
        thread = threading.Thread(target=check)
        thread.start()
        try:
            yield
        finally:
            thread.join()
            if problems:  # says more than what the engine finds wrong with them
                raise problems[0] from None

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Logits [N, classes] of transformed images; InputError when the graph does not match the metadata.

        Any number of threads may call this and ``predict``; ``Options.streams`` of them compute at a time.
        """
        logits = self.engine.run(batch)
        self.engine.check_logits(logits, len(batch), self.meta.num_classes)
        return logits

    def predict(self, images: Iterable[Any], topk: int = 1, workers: int = 0, times: Optional[StageTimes] = None,
                progress: Optional[ProgressMeter] = None) -> Iterator[Union[Prediction, InputError]]:
        """Predictions in the order of ``images``; an image that cannot be decoded yields its InputError instead.

        An image is a path, the bytes of an image file, an open file (``io.BytesIO``), a Pillow image, or an array:
        uint8, [H, W, 3] in RGB or [H, W] in gray. Anything else yields an InputError too; a single image in the place
        of the list raises one, at the first step.

        ``workers`` processes decode ahead of the engine. ``times`` gets the seconds of each stage, after a warm-up, and
        ``progress`` the number of images.
        """
        sources = feed.sources(images)
        times, progress = times or StageTimes(warm_up=False), progress or ProgressMeter(len(sources))
        times.start()
        stream = feed.decode_all(sources, self.transform, workers)
        for decoded, arrays, errors in feed.batches(stream, self.options.batch):
            yield from errors
            if decoded:
                batch = np.stack(arrays)
                if times.warm_up and not times.batches:
                    self.warm_up(batch)
                    times.start()  # restart, to include decoding
                    batch = np.stack([feed.decode(source, self.transform)[1] for source in decoded])
                times.stamp()
                with progress:
                    logits = self.logits(batch)
                times.stamp()
                predictions = self._predictions(decoded, logits, topk)
                times.stamp()
                yield from predictions
            progress.step(len(decoded) + len(errors))
            times.start()

    def _predictions(self, sources: Sequence[Any], logits: np.ndarray, topk: int) -> List[Prediction]:
        names, thresholds = map(feed.name_of, sources), self.meta.thresholds
        if thresholds is None:
            return [Prediction(name, best) for name, best in zip(names, top_classes(logits, topk))]
        return [Prediction(name, ranked[:topk], present_ids(ranked, thresholds))
                for name, ranked in zip(names, top_classes(logits, logits.shape[1], self.meta.activation))]

    def warm_up(self, batch: np.ndarray) -> None:
        """Run a batch WARM_UP times, in which the engine compiles its kernels."""
        for _ in range(WARM_UP):
            self.logits(batch)

    @property
    def input_shape(self) -> Tuple[int, int, int]:
        """Shape of one image in the graph's input."""
        size = self.meta.data.image_size
        return (size, size, 3) if self.options.input == 'uint8' else (3, size, size)

    def class_name(self, class_id: int) -> str:
        """The name of a class, empty when the model was exported without names."""
        names = self.meta.class_names
        return names[class_id] if names else ''

    def identity(self) -> Dict[str, Any]:
        """What the predictions depend on: model, weights, graph, preprocessing, engine, precision and input."""
        artifact = self.meta.artifact(self.engine.name, self.options.precision, self.options.input)
        several = {} if self.meta.thresholds is None else {'thresholds': self.meta.thresholds}
        return {'model': self.meta.model, 'weights': self.meta.weights, 'data': self.meta.data.as_dict(), **several,
                'files': {name: self.meta.sha256.get(name, size) for name, size in artifact.files.items()},
                'class_names': self.meta.class_names, 'backend': self.engine.name,
                'precision': self.options.precision, 'input': self.options.input}

    def describe(self) -> Dict[str, Any]:
        """The settings in effect, for the console."""
        return {'model': self.meta.model, **self.engine.describe(), 'precision': self.options.precision,
                'input': self.options.input, 'batch': self.options.batch}


def top_classes(logits: np.ndarray, topk: int, activation: str = 'softmax') -> List[List[Tuple[int, float]]]:
    """For each row of logits the ``topk`` classes and their probabilities, most probable first."""
    order = np.argsort(-logits, axis=1, kind='stable')[:, :topk]
    return [[(int(k), float(row[k])) for k in top] for row, top in zip(probabilities(logits, activation), order)]


def probabilities(logits: np.ndarray, activation: str) -> np.ndarray:
    """float64 [N, classes]: 'softmax' over each row, or 'sigmoid' of each logit."""
    logits = logits.astype(np.float64)
    if activation == 'sigmoid':
        return 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def certification_line(prediction: Prediction) -> str:
    """``<file name><tab>[class id, probability]``, the format of TIPC's compare_results.

    With all digits of a float32, since the probabilities of a thousand classes can be close."""
    class_id, probability = prediction.best[0]
    return f'{quoted(os.path.basename(prediction.path))}\t[{class_id}, {probability:.9f}]'
