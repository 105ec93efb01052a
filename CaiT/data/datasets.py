# SPDX-License-Identifier: Apache-2.0
"""Datasets: images in ImageNet layout, listed by list files; in shards; or the official CIFAR archives.

A dataset is a sequence of (float32 [3, S, S], int64 class id). Its key is an index (evaluation: the transform is
called with the image) or (index, sample seed) (training: the transform also gets a generator with that seed, the only
source of randomness).
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

from CaiT.data.cifar import ARCHIVES, read_cifar
from CaiT.data.lists import LIST_FILES, Samples, list_images, read_label_map, read_list
from CaiT.data.multi_label import MultiLabelSamples, multi_hot, read_multi_label_list, read_unlabeled_list
from CaiT.data.shards import READERS, ShardDataset, open_shards, shard_folders, transformed
from CaiT.data.text import quoted
from CaiT.errors import InputError
from CaiT.files import PathLike

__all__ = ['ArrayDataset', 'DATASETS', 'ListDataset', 'build_dataset', 'list_images', 'read_label_map']

DATASETS = ('imagenet2012', 'digits', *ARCHIVES, *READERS)
UNREADABLE = -2  # label of an image that cannot be read; -1 is none
CLASS_FILE = 'classes.txt'  # class names beside the list files, written by make_lists and make_digits

Key = Union[int, Tuple[int, int]]
Sample = Tuple[np.ndarray, np.int64]


def build_dataset(name: str, data_path: PathLike, split: str, transform: Callable, num_classes: int,
                  label_map: PathLike = '',
                  multi_label: bool = False) -> Union[ListDataset, ArrayDataset, ShardDataset]:
    """The split 'train', 'val' or 'test' of a dataset.

    ``label_map`` is a file of class names; without it the dataset's own are used, if it has any. With ``multi_label``
    the lists hold any number of class ids per image (``CaiT.data.multi_label``).
    Raises InputError when the data is not there, a list line is malformed or a class id is not below ``num_classes``.
    """
    if name not in DATASETS:
        raise InputError(f'dataset: found {name!r}, expected one of {", ".join(DATASETS)}')
    if split not in LIST_FILES:
        raise InputError(f'split: found {split!r}, expected one of {", ".join(LIST_FILES)}')
    names = read_label_map(label_map, num_classes) if label_map else None
    if name in ARCHIVES:
        data = read_cifar(name, data_path, split)
        if data.labels.max() >= num_classes:
            raise InputError(f'{data_path}: {name} has class ids up to {data.labels.max()}, '
                             f'found a head with {num_classes} classes')
        names = names or (data.class_names if len(data.class_names) == num_classes else None)
        return ArrayDataset(data.pixels, data.labels, data.sources, transform, names)
    if name in READERS:
        shards = open_shards(name, data_path, split, transform, num_classes)
        if names is not None or shards.class_names is None:
            _set_class_names(shards, names, shard_folders(data_path, shards), num_classes)
        return shards
    list_file = Path(data_path) / LIST_FILES[split]
    if not list_file.is_file():
        tool = f'make_digits --output {data_path}' if name == 'digits' else f'make_lists {data_path}'
        raise InputError(f'{list_file}: no such file, expected "path class_id" lines; write it with: '
                         f'python -m CaiT.tools.{tool}')
    if multi_label and split != 'test':
        samples = read_multi_label_list(list_file, data_path, num_classes)
        dataset: ListDataset = MultiLabelDataset(os.fspath(list_file), samples, transform, num_classes)
    else:
        samples = (read_unlabeled_list(list_file, data_path) if multi_label else
                   read_list(list_file, data_path, None if split == 'test' else num_classes))
        dataset = ListDataset(os.fspath(list_file), samples, transform)
    _set_class_names(dataset, names, [Path(data_path)], num_classes)
    return dataset


def _set_class_names(dataset: Union[ListDataset, ShardDataset], names: Optional[List[str]], folders: Iterable[Path],
                     num_classes: int) -> None:
    """``names``, or those in the first of ``folders`` that has a file of them."""
    dataset.class_names = names
    class_file = next((folder / CLASS_FILE for folder in folders if (folder / CLASS_FILE).is_file()), None)
    if names is None and class_file:
        try:
            dataset.class_names = read_label_map(class_file, num_classes)
        except InputError as error:  # lists may use another dataset's ids
            dataset.notes.append(f'no class names: {error}')


class ListDataset:
    """Images of a list file; ``samples[i]`` is (path, class id), -1 where a test line has no class id.

    ``notes`` are lines for the log: what a user may want to know about the files.
    """

    def __init__(self, list_file: str, samples: Samples, transform: Callable,
                 class_names: Optional[List[str]] = None) -> None:
        self.list_file, self.samples, self.transform = list_file, samples, transform
        self.class_names = class_names
        self.notes: List[str] = []

    @property
    def labels(self) -> np.ndarray:
        return self.samples.labels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Sample:
        index, sample_seed = key if isinstance(key, tuple) else (key, None)
        path, label = self.samples[index]
        try:
            return transformed(self.transform, path, sample_seed), self._target(label)
        except InputError as error:
            raise InputError(f'{self._line(index)}{error}') from None
        except MemoryError:
            raise InputError(f'{self._line(index)}image {quoted(path)}: not enough memory') from None

    def _target(self, label: Any) -> Any:
        return np.int64(label)

    def _line(self, index: int) -> str:
        """'list file, line n: ', or '' for the images of a folder."""
        return f'{quoted(self.list_file)}, line {self.samples.lines[index]}: ' if self.list_file else ''


class MultiLabelDataset(ListDataset):
    """Images of a list file with any number of classes each: (float32 [3, S, S], float32 [num_classes] of 0 and 1)."""

    def __init__(self, list_file: str, samples: MultiLabelSamples, transform: Callable, num_classes: int) -> None:
        super().__init__(list_file, samples, transform)
        self.num_classes = num_classes

    def _target(self, label: Any) -> np.ndarray:
        return multi_hot(label, self.num_classes)


class PredictionDataset:
    """The images of another dataset [3, S, S]; one that cannot be read is black, with the label UNREADABLE."""

    def __init__(self, dataset: Any, image_size: int) -> None:
        self.dataset, self.shape, self.notes = dataset, (3, image_size, image_size), dataset.notes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample:
        try:
            return self.dataset[key][0], np.int64(0)
        except InputError:
            return np.zeros(self.shape, np.float32), np.int64(UNREADABLE)

    def error(self, index: int) -> str:
        """Why an image cannot be read."""
        try:
            self.dataset[index]
        except InputError as error:
            return str(error)
        return 'it can be read now'


class ArrayDataset:
    """Images in memory; ``samples[i]`` is (source, class id)."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, sources: Sequence[str], transform: Callable,
                 class_names: Optional[List[str]] = None) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, transform
        self.samples = list(zip(sources, labels.tolist()))
        self.class_names = class_names
        self.notes: List[str] = []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> Sample:
        index, sample_seed = key if isinstance(key, tuple) else (key, None)
        return transformed(self.transform, self.pixels[index], sample_seed), self.labels[index]

