# SPDX-License-Identifier: Apache-2.0
"""Logging of a run: lines on the console and in a text log, one JSON object per epoch, a progress bar on a terminal."""
from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List

from tqdm import tqdm

from CaiT.files import PathLike, atomic_write


class RunLogger:
    """Appends to the log ``folder/name`` and prints to the console; an existing log is never truncated.

    With ``active`` False it writes and prints nothing: used in all processes but rank 0.
    """

    def __init__(self, folder: PathLike, name: str, active: bool = True) -> None:
        self.folder = Path(folder)
        self.path = self.folder / name
        self.active = active
        if active:
            self.folder.mkdir(parents=True, exist_ok=True)

    def info(self, text: str) -> None:
        """Log one line with the time stamp that log parsers expect: ``0506 02:32:54 PM Now training epoch 100. …``."""
        if not self.active:
            return
        text = time.strftime('%m%d %I:%M:%S %p ') + text
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
        with open(self.path, 'a', encoding='utf-8') as file:
            file.write(text + '\n')

    def record(self, values: Dict[str, Any]) -> None:
        """Append one JSON object to ``log.jsonl``."""
        if self.active:
            with open(self.folder / 'log.jsonl', 'a', encoding='utf-8') as file:
                file.write(json.dumps(values) + '\n')

    def records(self) -> List[Dict[str, Any]]:
        """The objects of ``log.jsonl``; an incomplete last line is skipped."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / 'log.jsonl').read_text(encoding='utf-8').splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    found.append(json.loads(line))
        return found

    def rewind(self, epoch: int) -> None:
        """Remove the records after ``epoch`` from ``log.jsonl``; a resumed run writes them again."""
        if self.active and (self.folder / 'log.jsonl').exists():
            records = [record for record in self.records() if record['epoch'] <= epoch]
            with atomic_write(self.folder / 'log.jsonl') as file:
                file.writelines(json.dumps(record) + '\n' for record in records)

    def progress(self, steps: Iterable[Any], total: int, title: str) -> Iterator[Any]:
        """``steps`` with a progress bar when stderr is a terminal; the plain iterable otherwise."""
        return tqdm(steps, total=total, desc=title, leave=False, disable=not (self.active and sys.stderr.isatty()))
