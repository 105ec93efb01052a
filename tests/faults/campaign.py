# SPDX-License-Identifier: Apache-2.0
"""What a fuzzing campaign has done so far, over many turns: tests/faults/campaign.json."""
from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence


class Campaign:
    """What each reader has had so far; in ``path`` when that is given: a row per reader and mutator."""

    def __init__(self, path: Optional[Path], mutator: str) -> None:
        self.path, self.mutator = path, mutator
        rows = json.loads(path.read_text()) if path and path.exists() else []
        self.rows = {(row['reader'], row['mutator']): row for row in rows}

    def row(self, name: str) -> Dict[str, Any]:
        return self.rows.setdefault((name, self.mutator), {
            'reader': name, 'mutator': self.mutator, 'files': 0, 'refused': 0, 'cpu_seconds': 0.0, 'turns': 0,
            'findings': [], 'date': ''})

    def seconds(self, name: str) -> float:
        return self.row(name)['cpu_seconds']

    def files(self, name: str) -> int:
        return self.row(name)['files']

    def add(self, name: str, files: int, refused: int, seconds: float, findings: List[str]) -> None:
        row = self.row(name)
        row['files'] += files
        row['refused'] += refused
        row['cpu_seconds'] = round(row['cpu_seconds'] + seconds, 1)
        row['turns'] += 1
        row['findings'] = sorted({*row['findings'], *findings})
        row['date'] = time.strftime('%Y-%m-%d')
        if self.path:
            text = ',\n'.join(json.dumps(one) for one in self.rows.values() if one['turns'])
            partial = self.path.with_name(f'{self.path.name}.partial')
            partial.write_text(f'[\n{text}\n]\n')
            partial.replace(self.path)  # hours of work, whole even if the process ends here

    def summary(self, names: Sequence[str], kinds: Dict[str, Sequence[str]]) -> str:
        """What these readers have had, and the seconds of that one of ``kinds`` which has had the least of those that
        are among them as a whole."""
        rows = [self.row(name) for name in names if self.row(name)['turns']]
        found = sorted({one for row in rows for one in row['findings']})
        whole = {kind: sum(map(self.seconds, parts)) for kind, parts in kinds.items() if set(parts) <= set(names)}
        least = min(whole, key=whole.get, default=None)
        return (f'{sum(row["files"] for row in rows)} files, {sum(row["cpu_seconds"] for row in rows):.0f} s of the '
                f'processor, {len(rows)} readers ({self.mutator})'
                + (f' of {len(whole)} kinds of file, each for {whole[least]:.0f} s at least ({least})' if whole else '')
                + f', findings: {", ".join(found) or "none"}')
