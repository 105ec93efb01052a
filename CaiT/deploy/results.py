# SPDX-License-Identifier: Apache-2.0
"""Prediction files, written line by line so that an interrupted run can be resumed.

``<name>.run.json`` beside the file records the model and the options; a run with others does not continue the file.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Set

from CaiT import safe_json
from CaiT.data.prediction_rows import BEST, PRESENT, TOP5, best_values, digits, top5_values
from CaiT.data.text import csv_line, json_line
from CaiT.deploy import resumed_rows
from CaiT.errors import InputError
from CaiT.files import check_regular, try_lock, write_json

EXTENSIONS = ('.csv', '.jsonl')


class ResultFile:
    """A ``.csv`` (path, class_id, class_name, prob, with ``topk`` 2 or more class_id_2 …, then top5_class_ids,
    top5_probs, as -pred writes them) or a ``.jsonl`` of the same keys.

    Every line is in the file when ``write`` returns. ``done`` is the set of absolute paths of a resumed file;
    ``unknown`` is true when no record of the run that wrote them exists.
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
            if not exists and self.path.stat().st_size:  # between the look at it and the lock
                raise InputError(f'--output {path}: another run has written to it; name another file')
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
        """Read what is done; truncates an incomplete last row."""
        # Without the last columns: begun by a version that did not write them.
        earlier = [] if self.columns[-1] == PRESENT else [self.columns[:-len(TOP5)]]
        done = resumed_rows.read(self.path, [self.columns, *earlier])
        self.done, self.columns = done.images, done.columns
        os.truncate(self.path, done.end)  # only now: the file may be another, of the user's

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
