# SPDX-License-Identifier: Apache-2.0
"""Prediction files, written line by line so that an interrupted run can be resumed."""
from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import IO, Any, Dict, List, Set

from CaiT.data.text import csv_line, json_line, unquoted
from CaiT.errors import InputError

EXTENSIONS = ('.csv', '.jsonl')


class ResultFile:
    """A ``.csv`` (path, class_id, class_name, prob, then class_id_2 …) or a ``.jsonl`` of the same keys.

    Every line is flushed to the file when ``write`` returns. ``done`` is the set of paths of a resumed file.
    """

    def __init__(self, path: str, topk: int, resume: bool) -> None:
        """InputError when the file exists without ``resume``, or has other columns."""
        self.path = Path(path)
        if self.path.suffix not in EXTENSIONS:
            raise InputError(f'--output {path}: expected a name that ends in {" or ".join(EXTENSIONS)}')
        self.columns = ['path', 'class_id', 'class_name', 'prob']
        for rank in range(2, topk + 1):
            self.columns += [f'class_id_{rank}', f'class_name_{rank}', f'prob_{rank}']
        self.done: Set[str] = set()
        exists = self.path.is_file() and self.path.stat().st_size > 0
        if exists and not resume:
            raise InputError(f'--output {path}: exists; --resume continues it, or choose another name')
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if exists:
            self._read_existing()
        self._file: IO[str] = open(self.path, 'a', encoding='utf-8', newline='')
        if not self.path.stat().st_size and self.path.suffix == '.csv':
            self._write_line(csv_line(self.columns))

    def _read_existing(self) -> None:
        """Read the paths that are done; truncates an incomplete last row."""
        complete = _complete_rows(self.path.read_bytes(), self.path.suffix == '.csv')
        try:
            text = complete.decode('utf-8')
            if self.path.suffix == '.jsonl':
                rows = [json.loads(line) for line in text.split('\n') if line]
                columns = list(rows[0]) if rows else self.columns
            else:
                reader = csv.DictReader(io.StringIO(text, newline=''))
                rows, columns = list(reader), list(reader.fieldnames or self.columns)
            self.done = {unquoted(row['path']) if self.path.suffix == '.csv' else row['path'] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f'--output {self.path}: not a file of predictions, cannot be resumed ({error})'
                             ) from None
        if columns != self.columns:
            raise InputError(f'--output {self.path}: has columns {", ".join(columns)}, this run writes '
                             f'{", ".join(self.columns)}; give the same --topk')
        os.truncate(self.path, len(complete))  # only now: the file may be another, of the user's

    def write(self, prediction: Any, names: Any) -> None:
        """Append a prediction; ``names`` maps a class id to its name."""
        values: List[Any] = [prediction.path]
        for class_id, probability in prediction.best:
            values += [class_id, names(class_id), round(probability, 6)]
        if self.path.suffix == '.csv':
            self._write_line(csv_line(values))
        else:
            row: Dict[str, Any] = dict(zip(self.columns, values))
            self._write_line(json_line(row))

    def _write_line(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _complete_rows(data: bytes, is_csv: bool) -> bytes:
    """``data`` up to the end of its last complete row; a quoted line end of a CSV does not end a row."""
    end = data.rfind(b'\n') + 1
    while is_csv and data.count(b'"', 0, end) % 2:
        end = data.rfind(b'\n', 0, end - 1) + 1
    return data[:end]
