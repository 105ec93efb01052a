# SPDX-License-Identifier: Apache-2.0
"""The report of loading a checkpoint: what was renamed, transposed, resampled, dropped or left at initialization."""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Tuple

from CaiT.weights import data_configs


@dataclass
class LoadReport:
    """All arrays that were changed, dropped or missing.

    Names are the public ones (timm's), except the first of each pair in ``renamed`` and those of ``dropped`` that have
    no public name. ``data`` is how images must reach these weights (mean, std, crop_pct, interpolation) where that is
    known, ``data_source`` where it is from.
    """
    path: str
    format: str
    source: str
    layout: str
    found: int = 0
    loaded: int = 0
    renamed: List[Tuple[str, str]] = field(default_factory=list)
    transposed: List[str] = field(default_factory=list)
    resampled: List[str] = field(default_factory=list)
    converted: List[Tuple[str, str]] = field(default_factory=list)
    zero_filled: List[str] = field(default_factory=list)
    dropped: List[str] = field(default_factory=list)
    initial: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    data: Optional[Dict[str, Any]] = None
    data_source: str = ''

    def lines(self) -> List[str]:
        """The report as text; block indices are combined into ranges."""
        text = [f'weights: {self.path} ({self.format} file, {self.source} names, Linear {self.layout})',
                f'  loaded {self.loaded} arrays of {self.found} in the file']
        converted = [f'{name} ({dtype})' for name, dtype in self.converted]
        if self.renamed:
            text.append(f'  renamed, {len(self.renamed)}: {", ".join(_name_changes(self.renamed))}')
        for title, names in (('transposed', self.transposed), ('resampled', self.resampled),
                             ('converted', converted), ('filled with zeros', self.zero_filled),
                             ('dropped', self.dropped), ('left at initialization', self.initial)):
            if names:
                text.append(f'  {title}, {len(names)}: {", ".join(brief(names))}')
        if self.data:
            text.append(f'  its images: {data_configs.text(self.data)} ({self.data_source})')
        return text + [f'  note: {note}' for note in self.notes]


def _name_changes(pairs: Iterable[Tuple[str, str]]) -> List[str]:
    """The differing parts of the names, with counts: a.0.gamma -> a.0.weight, a.1.gamma -> a.1.weight gives
    '….gamma -> ….weight (2)'."""
    counts: Dict[str, int] = {}
    for old, new in pairs:
        a, b = old.split('.'), new.split('.')
        tail = 0
        while tail < min(len(a), len(b)) and a[-1 - tail] == b[-1 - tail]:
            tail += 1
        a, b = a[:len(a) - tail], b[:len(b) - tail]
        head = 0
        while head < min(len(a), len(b)) - 1 and a[head] == b[head]:
            head += 1
        sides = [['…'] * (head > 0) + side[head:] + ['…'] * (tail > 0) for side in (a, b)]
        change = ' -> '.join('.'.join(side) for side in sides)
        counts[change] = counts.get(change, 0) + 1
    return [f'{change} ({count})' for change, count in counts.items()]


def brief(names: Iterable[str]) -> List[str]:
    """Names with block indices combined: blocks.0.x, blocks.1.x, blocks.2.x become blocks.0-2.x."""
    groups: Dict[str, List[int]] = {}
    for name in names:
        match = re.search(r'(?<=\.)\d+(?=\.)', name)
        number = match.group() if match else ''
        pattern = re.sub(rf'\.{number}\.', '.*.', name) if match else name
        groups.setdefault(pattern, []).append(int(number or -1))
    return [pattern.replace('*', _ranges(numbers)) if numbers[0] >= 0 else pattern
            for pattern, numbers in groups.items()]


def _ranges(numbers: List[int]) -> str:
    """[0, 1, 2, 5] as '0-2+5'."""
    runs: List[List[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return '+'.join(str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs)
