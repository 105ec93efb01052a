# SPDX-License-Identifier: Apache-2.0
"""What a run says: lines on the console and in its log, a JSON object per epoch, a progress bar on a terminal."""
from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List

from tqdm import tqdm

from CaiT.files import atomic_write


class Journal:
    """Writes to ``folder/name`` (appending: an earlier run's lines are the user's) and to the console.

    With ``active`` False it is silent and touches nothing: the journal of every process but the first.
    """

    def __init__(self, folder: Path, name: str, active: bool = True) -> None:
        self.folder = Path(folder)
        self.path = self.folder / name
        self.active = active
        if active:
            self.folder.mkdir(parents=True, exist_ok=True)

    def line(self, text: str) -> None:
        """One line, stamped as users' log parsers know it: ``0506 02:32:54 PM Now training epoch 100. …``."""
        if not self.active:
            return
        text = time.strftime('%m%d %I:%M:%S %p ') + text
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
        with open(self.path, 'a', encoding='utf-8') as file:
            file.write(text + '\n')

    def record(self, values: Dict[str, Any]) -> None:
        """One JSON object at the end of ``log.jsonl``."""
        if self.active:
            with open(self.folder / 'log.jsonl', 'a', encoding='utf-8') as file:
                file.write(json.dumps(values) + '\n')

    def records(self) -> List[Dict[str, Any]]:
        """The objects of ``log.jsonl``, a half-written last line left out."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / 'log.jsonl').read_text(encoding='utf-8').splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    found.append(json.loads(line))
        return found

    def rewind(self, epoch: int) -> None:
        """Forget the records after ``epoch``, which a resumed run will write again."""
        if self.active and (self.folder / 'log.jsonl').exists():
            kept = [record for record in self.records() if record['epoch'] <= epoch]
            with atomic_write(self.folder / 'log.jsonl') as file:
                file.writelines(json.dumps(record) + '\n' for record in kept)

    def progress(self, steps: Iterable[Any], total: int, title: str) -> Iterator[Any]:
        """``steps`` behind a progress bar on a terminal, bare in a pipe or a file."""
        return tqdm(steps, total=total, desc=title, leave=False, disable=not (self.active and sys.stderr.isatty()))
