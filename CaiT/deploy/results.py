# SPDX-License-Identifier: Apache-2.0
"""Prediction files, written line by line so that an interrupted run can be resumed.

``<name>.run.json`` beside the file records the model and the options; a run with others does not continue the file.
"""
from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

from CaiT import safe_json
from CaiT.data.prediction_rows import BEST, PRESENT, TOP5, best_values, digits, top5_values
from CaiT.data.text import csv_line, json_line, unquoted
from CaiT.errors import InputError, shown
from CaiT.files import check_regular, try_lock, write_json

EXTENSIONS = ('.csv', '.jsonl')


class ResultFile:
    """A ``.csv`` (path, class_id, class_name, prob, with ``topk`` 2 or more class_id_2 …, then top5_class_ids,
    top5_probs, as -pred writes them) or a ``.jsonl`` of the same keys.

    Every line is in the file when ``write`` returns. ``done`` is the set of paths of a resumed file; ``unknown`` is
    true when no record of the run that wrote them exists.
    """

    def __init__(self, path: str, topk: int, resume: bool, run: Optional[Dict[str, Any]] = None,
                 multi_label: bool = False) -> None:
        """``run``: what the predictions depend on, as JSON; ``multi_label``: there is a last column class_ids.
        InputError when the file exists without ``resume``, has other columns or is of another run, and when it cannot
        be written."""
        self.path = Path(path)
        if self.path.suffix not in EXTENSIONS:
            raise InputError(f'--output {path}: expected a name that ends in {" or ".join(EXTENSIONS)}')
        self.topk = topk
        self.columns = list(BEST)
        for rank in range(2, topk + 1):
            self.columns += [f'class_id_{rank}', f'class_name_{rank}', f'prob_{rank}']
        self.columns += [*TOP5, PRESENT] if multi_label else TOP5
        self.done: Set[str] = set()
        if self.path.exists() and not self.path.is_file():  # opening a FIFO would wait for its reader
            raise InputError(f'--output {path}: is no regular file, expected a new file or one to continue')
        exists = self.path.is_file() and self.path.stat().st_size > 0
        if exists and not resume:
            raise InputError(f'--output {path}: exists; --resume continues it, or choose another name')
        self.unknown = False
        with self._reported():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, 'ab', buffering=0)
            self._lock()
            if exists:
                self._same_run(run)
                self._read_existing()
            elif run:
                write_json(self.run_file, run)
            self._end = self.path.stat().st_size
        if not self._end and self.path.suffix == '.csv':
            self._write_line(csv_line(self.columns))

    @property
    def run_file(self) -> Path:
        """What the predictions were made with."""
        return self.path.with_name(f'{self.path.name}.run.json')

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """An OSError becomes one line that names the flag."""
        try:
            yield
        except OSError as error:
            raise InputError(f'--output {self.path}: cannot be written: {error.strerror}') from None

    def _lock(self) -> None:
        """Two runs would write into each other's lines; the system lets go of the file when this process ends."""
        if try_lock(self._file.fileno()) is False:
            raise InputError(f'--output {self.path}: another run is writing to it; name another file')

    def _same_run(self, run: Optional[Dict[str, Any]]) -> None:
        """InputError when the file was written by another model or with other options."""
        if not run:
            return
        check_regular(self.run_file)
        try:
            earlier = safe_json.load_json(self.run_file)
        except FileNotFoundError:
            self.unknown = True
            return
        except InputError as error:
            raise InputError(f'{error}; expected the record of a run') from None
        run = json.loads(json.dumps(run))  # lists, as they come back
        for key in run:
            found = earlier.get(key) if isinstance(earlier, dict) else None
            if found != run[key]:
                raise InputError(f'--output {self.path}: was written with {key} {found}, this run has {run[key]}; '
                                 'give the same, or name another file')

    def _read_existing(self) -> None:
        """Read the paths that are done; truncates an incomplete last row."""
        is_csv = self.path.suffix == '.csv'
        end = _complete_end(self.path, is_csv)
        lines = _lines(self.path, end)
        try:
            rows = csv.DictReader(lines) if is_csv else map(safe_json.loads, lines)
            columns: List[str] = []
            for row in rows:  # one by one: of a million rows only the paths stay in memory
                columns = columns or list(row)
                self.done.add(unquoted(row['path']) if is_csv else row['path'])
            columns = list(rows.fieldnames or []) if is_csv else columns
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            raise InputError(f'--output {self.path}: not a file of predictions, cannot be resumed '
                             f'({shown(str(error))})') from None
        if not columns:
            self._check_half_a_line(csv_line(self.columns) if is_csv else '{"path": "', end)
            columns = self.columns
        if columns == self.columns[:-len(TOP5)]:  # begun by a version that did not write the last ones
            self.columns = columns
        if columns != self.columns:
            found = shown(', '.join(map(str, columns)), 200)
            raise InputError(f'--output {self.path}: has columns {found}, this run writes {", ".join(self.columns)}; '
                             'give the same --topk')
        os.truncate(self.path, end)  # only now: the file may be another, of the user's

    def _check_half_a_line(self, start: str, end: int) -> None:
        """InputError when what follows after ``end`` is not how the first line, of which ``start`` is a part, begins:
        it would be cut off."""
        with open(self.path, 'rb') as file:
            file.seek(end)
            found = file.read(len(start)).decode('utf-8', 'replace')
        if not start.startswith(found):
            raise InputError(f'--output {self.path}: not a file of predictions, cannot be resumed (begins with '
                             f'{shown(found, 20)!r})')

    def write(self, prediction: Any, names: Any) -> None:
        """Append a prediction, of at least ``topk`` and five classes; ``names`` maps a class id to its name."""
        values = best_values(prediction.path, prediction.best, names)
        for class_id, probability in prediction.best[1:self.topk]:
            values += [class_id, names(class_id), digits(probability)]
        values += [''] * (3 * self.topk + 1 - len(values))  # a model of fewer classes
        values += top5_values(prediction.best)
        values += [] if prediction.class_ids is None else [prediction.class_ids]
        row: Dict[str, Any] = dict(zip(self.columns, values))
        if self.path.suffix == '.csv':
            self._write_line(csv_line(list(row.values())))
        else:
            numbers = {key: float(row[key]) for key in row if re.fullmatch(r'prob(_\d+)?', key) and row[key]}
            self._write_line(json_line({**row, **numbers}))

    def _write_line(self, line: str) -> None:
        """Append a line; where that fails, for one on a full disk, no half of it stays."""
        data = line.encode('utf-8')
        with self._reported():
            try:
                while data:
                    data = data[self._file.write(data):]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._end)
                raise
        self._end += len(line.encode('utf-8'))

    def close(self) -> None:
        with self._file, self._reported():
            os.fsync(self._file.fileno())


def _complete_end(path: Path, is_csv: bool) -> int:
    """Bytes up to the end of the last complete row; a quoted line end of a CSV does not end a row."""
    position = end = quotes = 0
    with open(path, 'rb') as file:
        for line in file:
            position += len(line)
            quotes += line.count(b'"') if is_csv else 0
            if line.endswith(b'\n') and quotes % 2 == 0:
                end = position
    return end


def _lines(path: Path, end: int) -> Iterator[str]:
    """The lines of the first ``end`` bytes that hold something."""
    with open(path, 'rb') as file:
        while file.tell() < end:
            line = file.readline().decode('utf-8')
            if line != '\n':
                yield line
