# SPDX-License-Identifier: Apache-2.0
"""List files (``path class_id`` per line) and what a path to images means."""
from __future__ import annotations

import os
import re
from array import array
from typing import Any, Callable, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from CaiT.data.folders import LeftOut, images_below
from CaiT.data.formats import IMAGE_EXTENSIONS
from CaiT.data.label_map import read_label_map
from CaiT.data.text import quoted, read_lines, unquoted
from CaiT.errors import InputError
from CaiT.files import PathLike

__all__ = ['IMAGE_EXTENSIONS', 'LIST_FILES', 'Samples', 'list_images', 'read_label_map', 'read_list']

LIST_FILES = {'train': 'train_list.txt', 'val': 'val_list.txt', 'test': 'test_list.txt'}
MAX_DIGITS = 9  # of a class id
# What a line holds when more stands behind an image's name than a class id: a second label, a quote, a comma
_NOT_A_PATH = re.compile(rf'.*(?:{"|".join(map(re.escape, IMAGE_EXTENSIONS))})["\',;\s]', re.IGNORECASE)

_SEVERAL = re.compile(r'\s[0-9]+(?:,[0-9]+)+$')


class LabeledSamples(Sequence):
    """A sequence of (name, class id); subclasses have ``labels`` [N] and ``at(index)``, index from 0 to N - 1."""

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.at(range(len(self))[index])

    def at(self, index: int) -> Tuple[str, int]:
        raise NotImplementedError


class Samples(LabeledSamples):
    """(path, class id) of each line of a list file; the class id is -1 where a test line has none.

    ``entries`` are (path, class id, line number), read one by one. Kept as one block of bytes and three arrays: a
    million Python tuples would need ten times the memory, and would be copied, page by page, into every worker process
    as their reference counts change.
    """

    def __init__(self, folder: PathLike, entries: Iterable[Tuple[str, int, int]]) -> None:
        self._folder = os.fspath(folder)
        self._text, ends, labels, lines = bytearray(), array('q'), array('i'), array('i')
        for path, label, line in entries:
            self._text += path.encode('utf-8', 'surrogateescape')
            ends.append(len(self._text))
            labels.append(label)
            lines.append(line)
        self._ends, self.labels, self.lines = np.asarray(ends), np.asarray(labels), np.asarray(lines)

    def path(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        path = self._text[start:int(self._ends[index])].decode('utf-8', 'surrogateescape')
        return os.path.join(self._folder, path)

    def at(self, index: int) -> Tuple[str, int]:
        return self.path(index), int(self.labels[index])


def read_list(path: PathLike, folder: PathLike, num_classes: Optional[int]) -> Samples:
    """The samples of a list file; their paths are relative to ``folder``.

    A line is ``path class_id``, split at its last blank, so that names may hold blanks; a path may be written as
    ``text.quoted`` does. With ``num_classes`` None the class id may be missing and may be any number (test lists);
    otherwise it must be there and inside the head. Raises InputError naming the file and the line.
    """
    samples = Samples(folder, _entries(path, num_classes))
    if not len(samples):
        raise InputError(f'{quoted(path)}: found no lines, expected {_expected(num_classes)} lines')
    return samples


def _expected(num_classes: Optional[int]) -> str:
    return '"path class_id"' if num_classes is not None else '"path" or "path class_id"'


def _entries(path: PathLike, num_classes: Optional[int]) -> Iterator[Tuple[str, int, int]]:
    """(path, class id, line number) of the lines of a list file."""
    missing = -1 if num_classes is None else None
    for name, label, number in entries(path, _class_id, _expected(num_classes), missing):
        if num_classes is not None and label >= num_classes:
            raise out_of_range(path, number, label, num_classes)
        yield name, label, number


def entries(path: PathLike, parse: Callable[[str], Any], expected: str,
            missing: Any = None) -> Iterator[Tuple[str, Any, int]]:
    """(path, label, line number) of the lines of a list file.

    ``parse`` makes a label of the last word of a line, None of a word that is none; the label is then ``missing``, and
    the whole line a path. InputError where that is None too: ``expected`` is what a line should be.
    """
    for number, line in read_lines(path):
        name, _, word = line.replace('\t', ' ').rpartition(' ')
        label = parse(word) if name.strip() else None
        if label is None:
            name, label = (line if missing is not None else ''), missing
        name = unquoted(name.strip())
        if not name or (_NOT_A_PATH.match(name) and not name.lower().endswith(IMAGE_EXTENSIONS)):
            hint = ' (several class ids: -opts DATA.MULTI_LABEL True)' if _SEVERAL.search(line) else ''
            raise InputError(f'{quoted(path)}, line {number}: found {line[:200]!r}, expected {expected}{hint}')
        yield name, label, number


def _class_id(word: str) -> Optional[int]:
    return int(word) if word.isascii() and word.isdigit() and len(word) <= MAX_DIGITS else None


def out_of_range(path: PathLike, line: int, label: int, num_classes: int) -> InputError:
    return InputError(f'{quoted(path)}, line {line}: found class id {label}, expected 0 to {num_classes - 1} (the head '
                      f'has {num_classes} classes)')


def list_images(path: PathLike, log: Optional[Callable[[str], Any]] = None) -> List[str]:
    """The image files ``path`` stands for: an image, a folder (searched to the bottom, sorted) or a list file.

    Paths in a list file (.txt) are relative to the folder it lies in; class ids in it are ignored. ``log`` gets a line
    when files of a folder were left out: hidden ones, other formats.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        left_out = LeftOut()
        found = images_below(path, left_out)
        line = left_out.line()
        if not found:
            raise InputError(f'{quoted(path)}: found no images in this folder, expected {" ".join(IMAGE_EXTENSIONS)} '
                             f'files{f"; {line}" if line else ""}')
        if line and log:
            log(f'{quoted(path)}: {line}')
        return found
    if not os.path.lexists(path):
        raise InputError(f'{quoted(path)}: no such image, folder or list file')
    if path.lower().endswith('.txt'):
        return [name for name, _ in read_list(path, os.path.dirname(path), None)]
    return [path]
