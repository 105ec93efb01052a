# SPDX-License-Identifier: Apache-2.0
"""List files in which an image has any number of classes: ``path 3,17,42`` per line, ``path -`` for none."""
from __future__ import annotations

import re
from array import array
from typing import Any, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from CaiT.data.lists import MAX_DIGITS, Samples, entries, out_of_range
from CaiT.data.text import quoted
from CaiT.errors import InputError
from CaiT.files import PathLike

EXPECTED = '"path 3,17,42" or, for an image of no class, "path -"'
_IDS = re.compile(rf'-|[0-9]{{1,{MAX_DIGITS}}}(?:,[0-9]{{1,{MAX_DIGITS}}})*')


class MultiLabelSamples(Samples):
    """(path, class ids) of each line of a list file. ``labels`` are the ids of all images, one after the other.

    ``entries`` are (path, class ids, line number), read one by one.
    """

    def __init__(self, folder: PathLike, entries: Iterable[Tuple[str, Sequence[int], int]]) -> None:
        ids, ends = array('i'), array('q')

        def without_ids() -> Iterator[Tuple[str, int, int]]:
            for path, labels, line in entries:
                ids.extend(labels)
                ends.append(len(ids))
                yield path, -1, line
        super().__init__(folder, without_ids())
        self.labels, self._label_ends = np.asarray(ids), np.asarray(ends)

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, index: int) -> Tuple[str, List[int]]:
        start = int(self._label_ends[index - 1]) if index else 0
        return self.path(index), self.labels[start:int(self._label_ends[index])].tolist()


def read_multi_label_list(path: PathLike, folder: PathLike, num_classes: int) -> MultiLabelSamples:
    """The samples of a list file with class ids of several classes; paths are relative to ``folder``.

    InputError, naming the file and the line, for a line without ids, an id outside the head, one that stands twice.
    """
    samples = MultiLabelSamples(folder, _checked(path, num_classes))
    if not len(samples):
        raise InputError(f'{quoted(path)}: found no lines, expected {EXPECTED} lines')
    if not len(samples.labels):
        raise InputError(f'{quoted(path)}: found no class id in {len(samples)} lines, expected at least one')
    return samples


def read_unlabeled_list(path: PathLike, folder: PathLike) -> Samples:
    """The images of a test list, whose class ids may be missing and are not used."""
    samples = Samples(folder, ((name, -1, line) for name, _, line in entries(path, class_ids, EXPECTED, missing=[])))
    if not len(samples):
        raise InputError(f'{quoted(path)}: found no lines, expected "path" or {EXPECTED} lines')
    return samples


def class_ids(word: str) -> Optional[List[int]]:
    """[3, 17, 42] of '3,17,42', [] of '-', None for what is neither."""
    if not _IDS.fullmatch(word):
        return None
    return [] if word == '-' else [int(one) for one in word.split(',')]


def multi_hot(ids: Sequence[int], num_classes: int) -> np.ndarray:
    """float32 [num_classes]: 1 at each of ``ids``, else 0."""
    target = np.zeros(num_classes, np.float32)
    target[list(ids)] = 1
    return target


def _checked(path: PathLike, num_classes: int) -> Iterator[Tuple[str, Any, int]]:
    for name, ids, line in entries(path, class_ids, EXPECTED):
        if ids and max(ids) >= num_classes:
            raise out_of_range(path, line, max(ids), num_classes)
        if len(set(ids)) < len(ids):
            twice = next(one for one in ids if ids.count(one) > 1)
            raise InputError(f'{quoted(path)}, line {line}: found class id {twice} {ids.count(twice)} times, expected '
                             'each once')
        yield name, ids, line
