# SPDX-License-Identifier: Apache-2.0
"""The text files of a dataset: list files (``path class_id`` per line) and label maps (class names)."""
from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from CaiT.errors import InputError
from CaiT.files import PathLike

LIST_FILES = {'train': 'train_list.txt', 'val': 'val_list.txt', 'test': 'test_list.txt'}
IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.gif', '.tif', '.tiff', '.ppm', '.pgm')


class Samples(Sequence):
    """(path, class id) of each line of a list file; the class id is -1 where a test line has none.

    Stored as one bytes object and three arrays: the pages of a million Python tuples would be copied into every forked
    worker as their reference counts change.
    """

    def __init__(self, folder: PathLike, paths: Sequence[str], labels: Sequence[int], lines: Sequence[int]) -> None:
        encoded = [path.encode('utf-8', 'surrogateescape') for path in paths]
        self._folder = os.fspath(folder)
        self._text = b''.join(encoded)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.lines = np.asarray(lines, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        path = self._text[start:int(self._ends[index])].decode('utf-8', 'surrogateescape')
        return os.path.join(self._folder, path), int(self.labels[index])


def read_list(path: PathLike, folder: PathLike, num_classes: Optional[int]) -> Samples:
    """The samples of a list file; their paths are relative to ``folder``.

    A line is ``path class_id``, split at its last blank, so that paths may contain blanks. With ``num_classes`` None
    the class id may be missing and may be any number (test lists); otherwise it must be present and below it.
    Raises InputError naming the file and the line.
    """
    paths, labels, lines = [], [], []
    for number, line in _lines(path):
        name, _, class_id = line.replace('\t', ' ').rpartition(' ')
        if name.strip() and class_id.isascii() and class_id.isdigit():
            label = int(class_id)
        elif num_classes is None:
            name, label = line, -1
        else:
            raise InputError(f'{os.fspath(path)}, line {number}: found {line!r}, expected "path class_id"')
        if num_classes is not None and label >= num_classes:
            raise InputError(f'{os.fspath(path)}, line {number}: found class id {label}, expected 0 to '
                             f'{num_classes - 1} (the head has {num_classes} classes)')
        paths.append(name.strip())
        labels.append(label)
        lines.append(number)
    if not paths:
        raise InputError(f'{os.fspath(path)}: found no lines, expected "path class_id" lines')
    return Samples(folder, paths, labels, lines)


def read_label_map(path: PathLike, num_classes: Optional[int]) -> List[str]:
    """The ``num_classes`` class names in the order of their ids; None: as many as there are.

    Reads JSON ({"0": ["n01440764", "tench"]}, {"0": "tench"} or ["tench"]), synset_words.txt
    (``n01440764 tench, Tinca tinca``), ``0 tench`` lines and one name per line.
    """
    path = Path(path)
    names = _json_names(path) if path.suffix.lower() == '.json' else _text_names([line for _, line in _lines(path)])
    if num_classes is not None and len(names) != num_classes:
        raise InputError(f'label map {path}: found {len(names)} names, expected {num_classes}, the classes of the head')
    return names


def list_images(path: PathLike) -> List[str]:
    """The image files of ``path``: an image, a folder (searched recursively, sorted) or a list file.

    Paths in a list file (.txt) are relative to its folder; its class ids are ignored.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        found = [os.path.join(folder, name) for folder, _, names in os.walk(path, followlinks=True)
                 for name in names if name.lower().endswith(IMAGE_EXTENSIONS)]
        if not found:
            raise InputError(f'{path}: found no images in this folder, expected {" ".join(IMAGE_EXTENSIONS)} files')
        return sorted(found)
    if not os.path.exists(path):
        raise InputError(f'{path}: no such image, folder or list file')
    if path.lower().endswith('.txt'):
        return [name for name, _ in read_list(path, os.path.dirname(path), None)]
    return [path]


def _lines(path: PathLike) -> Iterator[Tuple[int, str]]:
    """(line number from 1, stripped line) of the non-blank lines."""
    try:
        with open(path, encoding='utf-8-sig') as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except FileNotFoundError:
        raise InputError(f'{os.fspath(path)}: no such file') from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{os.fspath(path)}: cannot be read as UTF-8 text ({error})') from None


def _json_names(path: Path) -> List[str]:
    try:
        values = json.loads(path.read_text(encoding='utf-8-sig'))
    except FileNotFoundError:
        raise InputError(f'label map {path}: no such file') from None
    except (OSError, ValueError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise InputError(f'label map {path}: cannot be read as JSON ({error})') from None
    if isinstance(values, dict):
        try:
            values = [values[str(index)] for index in range(len(values))]
        except KeyError as error:
            raise InputError(f'label map {path}: class {error} is missing, expected all from "0" up') from None
    if not isinstance(values, list):
        raise InputError(f'label map {path}: found {type(values).__name__}, expected a list or {{"0": name, …}}')
    return [str(value[-1] if isinstance(value, list) and value else value) for value in values]


def _text_names(lines: List[str]) -> List[str]:
    split = [line.split(None, 1) for line in lines]
    if all(len(words) == 2 and (re.fullmatch(r'n\d{8}', words[0]) or words[0] == str(index))
           for index, words in enumerate(split)):
        return [words[1] for words in split]
    return lines
