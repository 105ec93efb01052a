# SPDX-License-Identifier: Apache-2.0
"""Predictions with labels: from arrays, or from the files that -eval, -pred and infer write."""
from __future__ import annotations

import csv
import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from CaiT import safe_json
from CaiT.data.lists import read_list
from CaiT.data.prediction_rows import BEST, PRESENT, TOP5, best_values, class_id_of, parse_row, prob_of, top5_values
from CaiT.data.text import csv_line, quoted, unquoted
from CaiT.errors import InputError, shown
from CaiT.files import PathLike, atomic_write
from CaiT.report.names import titles

Labels = Union[PathLike, Sequence[Tuple[str, int]]]
MAX_FOLDERS = 100  # of a path that is looked for by its end
FILE_NAME = 'report_predictions.csv'  # -pred writes its predictions.csv into the same folder, perhaps


@dataclasses.dataclass
class Predictions:
    """N images with their k best classes, best first. ``label_probs``: probability of the right class, where known."""
    paths: List[str]
    labels: np.ndarray                # int64 [N]
    ids: np.ndarray                   # int64 [N, k]
    probs: np.ndarray                 # float64 [N, k]
    num_classes: int
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    label_probs: Optional[np.ndarray] = None  # float64 [N]

    def __post_init__(self) -> None:
        sizes = {len(self.paths), len(self.labels), len(self.ids), len(self.probs)}
        if len(sizes) != 1 or not len(self.paths):
            raise InputError(f'predictions: found {len(self.paths)} paths, {len(self.labels)} labels and '
                             f'{len(self.ids)} predictions, expected the same number of each, at least 1')
        low = min(int(self.labels.min()), int(self.ids.min()))
        high = max(int(self.labels.max()), int(self.ids.max()))
        if low < 0 or high >= self.num_classes:
            raise InputError(f'predictions: found class ids from {low} to {high}, expected 0 to {self.num_classes - 1}')

    @classmethod
    def from_probs(cls, paths: Sequence[str], labels: np.ndarray, probs: np.ndarray,
                   names: Optional[Sequence[str]] = None, topk: int = 5) -> Predictions:
        """From the probabilities [N, K] of all classes."""
        ids = np.argsort(-probs, axis=1, kind='stable')[:, :topk]
        return cls(list(paths), np.asarray(labels, np.int64), ids, np.take_along_axis(probs, ids, 1).astype(np.float64),
                   probs.shape[1], dict(enumerate(names or [])),
                   probs[np.arange(len(labels)), labels].astype(np.float64))

    @property
    def correct(self) -> np.ndarray:
        """bool [N]"""
        return self.ids[:, 0] == self.labels

    def name(self, class_id: int) -> str:
        """What pages call a class."""
        return self.titles.get(int(class_id), f'class {int(class_id)}')

    @functools.cached_property
    def titles(self) -> Dict[int, str]:
        return titles(self.names)

    def right_prob(self, index: int) -> Optional[float]:
        """Probability of the image's right class; None when it is not among those that are known."""
        if self.label_probs is not None:
            return float(self.label_probs[index])
        place = np.flatnonzero(self.ids[index] == self.labels[index])
        return float(self.probs[index, place[0]]) if len(place) else None

    def write(self, path: PathLike) -> None:
        """The table of -pred with the columns label and label_prob behind it."""
        with atomic_write(path) as file:
            file.write(csv_line([*BEST, *TOP5, 'label', 'label_prob']))
            for i, path_i in enumerate(self.paths):
                prob, best = self.right_prob(i), list(zip(self.ids[i], self.probs[i]))
                file.write(csv_line([*best_values(path_i, best, lambda class_id: self.names.get(class_id, '')),
                                     *top5_values(best), self.labels[i], '' if prob is None else repr(prob)]))


def read(path: PathLike, labels: Optional[Labels] = None, num_classes: int = 0) -> Predictions:
    """The predictions of a file (.csv or .jsonl of -eval, -pred or infer) or of a report's folder.

    ``labels``: a list file (``path class_id`` lines) or pairs of these; without it the file itself must have a column
    ``label``. An image is found in the list by its whole path, or when one of the two paths ends in the other.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    rows = list(_rows(path))
    if not rows:
        raise InputError(f'{path}: found no predictions, expected at least one line')
    if isinstance(rows[0], dict) and PRESENT in rows[0]:
        raise InputError(f'{path}: found the column {PRESENT}, of images with several classes, expected images with '
                         'one each; the report of the others is written by -eval')
    try:
        parsed = [parse_row(row) for row in rows]
        known = {int(row['class_id']): row['class_name'] for row in rows if row.get('class_name')}
        right = [class_id_of(row['label']) if str(row.get('label') or '').strip() else None for row in rows]
        probs = [row.get('label_prob') for row in rows] if labels is None else [None]
        label_probs = np.array([prob_of(p) for p in probs]) if all(p not in (None, '') for p in probs) else None
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f'{path}: not a file of predictions ({type(error).__name__}: {shown(str(error))}), expected '
                         'columns path, class_id, prob') from None
    paths = [row['path'] if path.suffix == '.jsonl' else unquoted(row['path']) for row in rows]
    k = min(len(ids) for ids, _ in parsed)
    ids = np.array([ids[:k] for ids, _ in parsed], np.int64)
    if labels is not None:
        right = _find_labels(paths, labels, path)
    elif None in right:
        raise InputError(f'{path}: has no column label; --labels: found nothing, expected a list file of '
                         '"path class_id" lines')
    right = np.array(right, np.int64)
    highest = int(max(ids.max(), right.max()))
    if 0 < num_classes <= highest:
        raise InputError(f'{path}: found class id {highest}, expected 0 to {num_classes - 1} (--num-classes)')
    return Predictions(paths, right, ids, np.array([p[:k] for _, p in parsed], np.float64), num_classes or highest + 1,
                       known, label_probs)


def align(first: Predictions, second: Predictions) -> Tuple[np.ndarray, np.ndarray]:
    """Indices into both of the images that both have: by path, or by path below each one's common folder."""
    for keys in (lambda one: [_clean(path) for path in one.paths], lambda one: _below_common(one.paths)):
        mine, theirs = keys(first), {key: index for index, key in enumerate(keys(second))}
        pairs = [(index, theirs[key]) for index, key in enumerate(mine) if key in theirs]
        if pairs:
            left, right = np.array(pairs).T
            if (first.labels[left] != second.labels[right]).any():
                where = int(np.flatnonzero(first.labels[left] != second.labels[right])[0])
                raise InputError(f'-compare: {first.paths[left[where]]} has label {first.labels[left[where]]} here and '
                                 f'{second.labels[right[where]]} there, expected the same images and labels')
            return left, right
    raise InputError(f'-compare: the two have no image in common (here {first.paths[0]}, there {second.paths[0]})')


def _find_labels(paths: Sequence[str], source: Labels, where: Path) -> np.ndarray:
    folder, title = '', 'the labels'
    if isinstance(source, (str, os.PathLike)):
        folder, title = os.path.dirname(os.path.abspath(source)), f'--labels {os.fspath(source)}'
        samples = read_list(source, '', None)
        if (samples.labels < 0).any():
            line = samples.lines[int(np.flatnonzero(samples.labels < 0)[0])]
            raise InputError(f'{title}, line {line}: found no class id, expected "path class_id"')
        source = samples
    exact: Dict[str, int] = {}
    for name, label in source:
        exact[_clean(name)] = exact[_clean(os.path.join(folder, name))] = label
    ends: Dict[str, set] = {}
    for key, label in exact.items():
        for end in _ends(key):
            ends.setdefault(end, set()).add(label)
    found = []
    for path in paths:
        key = _clean(path)
        label = exact.get(key, exact.get(_clean(os.path.abspath(path))))
        if label is None:  # the list's path is the end of this one, or this one is the end of exactly one of the list
            label = next((exact[end] for end in _ends(key) if end in exact), None)
        if label is None and len(ends.get(key, ())) == 1:
            label = next(iter(ends[key]))
        if label is None:
            raise InputError(f'{where}: image {quoted(path)} is not in {title}, or in several of its classes')
        found.append(label)
    return np.array(found, np.int64)


def _clean(path: str) -> str:
    parts = [part for part in str(path).replace('\\', '/').split('/') if part not in ('', '.')]
    return '/'.join(part for part in parts if part != '..')


def _ends(key: str) -> Iterator[str]:
    """The path without its first folder, without its first two, …"""
    parts = key.split('/')
    return ('/'.join(parts[start:]) for start in range(1, min(len(parts), MAX_FOLDERS)))


def _below_common(paths: Sequence[str]) -> List[str]:
    keys = [_clean(path) for path in paths]
    common = os.path.commonpath([os.path.dirname(key) for key in keys]) if keys else ''
    return [key[len(common):].lstrip('/') for key in keys]


def _rows(path: Path) -> Iterator[Dict[str, Any]]:
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:  # Excel puts a byte order mark in front
            if path.suffix == '.jsonl':
                yield from (safe_json.loads(line) for line in file if line.strip())
            else:
                yield from csv.DictReader(file)
    except FileNotFoundError:
        raise InputError(f'{path}: no such file, expected predictions (.csv or .jsonl)') from None
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f'{path}: cannot be read as predictions ({" ".join(str(error).split())})') from None
