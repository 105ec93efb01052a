# SPDX-License-Identifier: Apache-2.0
"""Images in shards: WebDataset tars and Hugging Face's parquet files, each image at its index."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from CaiT.data.decode import ImageBytes
from CaiT.data.lists import LabeledSamples
from CaiT.data.parquet_shards import ParquetShards
from CaiT.data.shard_files import find_shards
from CaiT.data.shard_index import open_index
from CaiT.data.tar_shards import TarShards
from CaiT.data.text import quoted
from CaiT.errors import InputError
from CaiT.files import PathLike

READERS: dict = {'tar': TarShards, 'parquet': ParquetShards}


class ShardSamples(LabeledSamples):
    """(name, class id) of each image of ``shards``; the class id is -1 where it has none.

    Names, ``shard#member``, are read from the shards when they are asked for: they are many. Raises InputError when a
    shard is damaged, there is no image, or a class id is missing or not below ``num_classes`` (None: any will do).
    """

    def __init__(self, kind: str, shards: Sequence[str], num_classes: Optional[int]) -> None:
        self.reader = READERS[kind]()
        self.index = open_index(shards, self.reader)
        self.labels = self.index.labels
        if not len(self.labels):
            raise InputError(f'{quoted(shards[0])}: found no images in {len(shards)} shards')
        if num_classes is not None:
            self._check_labels(num_classes)

    def at(self, index: int) -> Tuple[str, int]:
        return self.image(index).name, int(self.labels[index])

    def image(self, index: int) -> ImageBytes:
        """The encoded image; InputError when it cannot be read from its shard."""
        shard = int(np.searchsorted(self.index.ends, index, side='right'))
        return self.reader.read(self.index.shards[shard], int(self.index.first[index]), int(self.index.second[index]))

    def _check_labels(self, num_classes: int) -> None:
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= num_classes))
        if len(wrong):
            name, label = self[int(wrong[0])]
            raise InputError(f'{quoted(name)}: found {"no class id" if label < 0 else f"class id {label}"}, expected 0 '
                             f'to {num_classes - 1} (the head has {num_classes} classes)')


class ShardDataset:
    """Images of shards; ``samples[i]`` is (name, class id). ``notes`` are lines for the log."""

    def __init__(self, samples: ShardSamples, transform: Callable, class_names: Optional[List[str]] = None) -> None:
        self.samples, self.transform, self.class_names = samples, transform, class_names
        self.notes: List[str] = []

    @property
    def labels(self) -> np.ndarray:
        return self.samples.labels

    def image(self, index: int) -> ImageBytes:
        return self.samples.image(index)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Any) -> Tuple[np.ndarray, np.int64]:
        index, sample_seed = key if isinstance(key, tuple) else (key, None)
        image = self.image(index)
        try:
            return transformed(self.transform, image, sample_seed), np.int64(self.labels[index])
        except MemoryError:
            raise InputError(f'image {quoted(image.name)}: not enough memory') from None


def transformed(transform: Callable, image: Any, sample_seed: Optional[int]) -> np.ndarray:
    """``transform(image)``, or in training ``transform(image, generator with that seed)``."""
    if sample_seed is None:
        return transform(image)
    return transform(image, np.random.Generator(np.random.PCG64(sample_seed)))


def open_shards(kind: str, data_path: PathLike, split: str, transform: Callable, num_classes: int) -> ShardDataset:
    """The ``split`` of the shards that ``data_path`` names, with the class names in the shards if they fit the head."""
    data_path = os.fspath(data_path)
    shards, note = find_shards(data_path, READERS[kind].extension, split)
    samples = ShardSamples(kind, shards, None if split == 'test' else num_classes)
    names = samples.index.class_names
    dataset = ShardDataset(samples, transform, names if len(names) == num_classes else None)
    dataset.notes += [*([note] if note else []), *samples.index.notes]
    return dataset


def shard_folders(data_path: PathLike, dataset: ShardDataset) -> List[Path]:
    """Where the file of class names may lie: the folder that was named, or that of the first shard."""
    named = [Path(data_path)] if os.path.isdir(data_path) else []
    return [*named, Path(dataset.samples.index.shards[0]).parent]
