# SPDX-License-Identifier: Apache-2.0
"""Logging of a run: lines on the console and in a text log, one JSON object per epoch, a progress bar on a terminal."""
from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional

from tqdm import tqdm

from CaiT import safe_json
from CaiT.errors import InputError, discard_stdout
from CaiT.files import PathLike, atomic_write, check_regular

MAX_EPOCH = 1_000_000_000
_lost_console: Any = None  # the standard output that could not be written


def show(text: str) -> None:
    """Print a line, above the progress bars if there are any.

    When standard output cannot be written any more (`… | head`, a terminal that was closed, a full disk), printing ends
    and the job goes on: what matters is in its files.
    """
    global _lost_console
    if sys.stdout is None or sys.stdout is _lost_console:
        return
    try:
        try:
            tqdm.write(text, file=sys.stdout)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding
            tqdm.write(text.encode(encoding, 'backslashreplace').decode(encoding), file=sys.stdout)
        sys.stdout.flush()
    except (OSError, ValueError):  # ValueError: a closed stream
        _lost_console = sys.stdout
        with contextlib.suppress(OSError, ValueError):
            discard_stdout()  # or Python fails to flush it at exit


def _json_line(values: Dict[str, Any]) -> str:
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value
              for key, value in values.items()}
    return json.dumps(finite, allow_nan=False) + '\n'


def read_records(path: PathLike) -> List[Dict[str, Any]]:
    """The epochs' objects of a file ``log.jsonl``: keys and finite numbers, or None; lines that are none, as an
    incomplete last one, are skipped. InputError for what is no regular file."""
    check_regular(path)
    records = []
    with contextlib.suppress(FileNotFoundError), open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            with contextlib.suppress(InputError):
                records.append(safe_json.loads(line, nan_as_null=True))
    return [record for record in records if isinstance(record, dict) and _is_epoch(record.get('epoch'))
            and all(type(value) in (int, float, type(None)) for value in record.values())]


def _is_epoch(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_EPOCH


class RunLogger:
    """Appends to the log ``folder/name`` and prints to the console; an existing log is never truncated.

    With ``active`` False it writes and prints nothing: used in all processes but rank 0. With ``hold`` it writes
    nothing until ``release()``, so that a job that is refused at its start leaves no trace.
    """

    def __init__(self, folder: PathLike, name: str, active: bool = True, hold: bool = False) -> None:
        self.folder = Path(folder)
        self.path = self.folder / name
        self.active = active
        self.held: Optional[List[str]] = []
        if not hold:
            self.release()

    def release(self) -> None:
        """Write the lines that were held back; from now on every line is written at once."""
        lines, self.held = self.held, None
        if self.active and lines is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in (self.path, self.folder / 'log.jsonl'):
                check_regular(path)
            self._append(self.path, ''.join(lines))

    def info(self, text: str, console: Optional[str] = None) -> None:
        """Log one line with the time stamp that log parsers expect: ``0506 02:32:54 PM Now training epoch 100. …``.

        ``console`` is printed in the place of a text that is too long for it.
        """
        if not self.active:
            return
        stamp = time.strftime('%m%d %I:%M:%S %p ')
        show(stamp + (text if console is None else console))
        text = stamp + text
        if self.held is None:
            self._append(self.path, text + '\n')
        else:
            self.held.append(text + '\n')

    def record(self, values: Dict[str, Any]) -> None:
        """Append one JSON object to ``log.jsonl``. JSON has no NaN and no infinity: such a number becomes null."""
        if self.active:
            self._append(self.folder / 'log.jsonl', _json_line(values))

    @staticmethod
    def _append(path: Path, text: str) -> None:
        if not text:
            return
        try:
            with open(path, 'a', encoding='utf-8', errors='surrogateescape') as file:
                file.write(text)
        except OSError as error:
            error.filename = error.filename or str(path)  # a full disk does not say which file it was
            raise

    def records(self) -> List[Dict[str, Any]]:
        """The epochs' objects of ``log.jsonl``, as ``read_records`` gives them."""
        return read_records(self.folder / 'log.jsonl')

    def rewind(self, epoch: int) -> None:
        """Remove the records after ``epoch`` from ``log.jsonl``; a resumed run writes them again."""
        if self.active and (self.folder / 'log.jsonl').exists():
            records = [record for record in self.records() if record['epoch'] <= epoch]
            with atomic_write(self.folder / 'log.jsonl') as file:
                file.writelines(map(_json_line, records))

    def progress(self, steps: Iterable[Any], total: int, title: str) -> Iterator[Any]:
        """``steps`` with a progress bar when stderr is a terminal; the plain iterable otherwise."""
        show_bar = sys.stderr is not None and sys.stderr.isatty()
        return tqdm(steps, total=total, desc=title, leave=False, disable=not (self.active and show_bar))
