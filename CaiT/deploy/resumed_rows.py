# SPDX-License-Identifier: Apache-2.0
"""What stands in a file of predictions that is to be continued. A row that is spoilt is named by its line: a file that
somebody edited must not end with an image twice, or with none for it."""
from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Set

from CaiT import safe_json
from CaiT.data.prediction_rows import PRESENT, class_id_of, parse_row, prob_of
from CaiT.data.text import csv_line, json_line, unquoted
from CaiT.errors import InputError, shown

MAX_ROW = 16 << 20  # bytes


class Row(NamedTuple):
    """``text`` has its line end, unless the file ends before it; ``line`` is the number of its first line."""
    line: int
    text: bytes
    is_complete: bool


class Done(NamedTuple):
    """``images``: absolute paths, for a.png and ./a.png are one; ``end``: bytes of the complete rows."""
    images: Set[str]
    columns: List[str]
    end: int


def read(path: Path, layouts: Sequence[List[str]]) -> Done:
    """The images of the file, whose columns must be one of ``layouts``; what a killed run left of a row at its end does
    not count. InputError for another file, and for a row that no run has written, naming its line."""
    images: Set[str] = set()
    columns: List[str] = []
    end, is_csv = 0, path.suffix == '.csv'
    for row in _rows(path, is_csv):
        try:
            if not row.is_complete:
                _check_half(row, columns, layouts, is_csv)
                break
            end += len(row.text)
            text = row.text.decode('utf-8')
            if not text.strip():
                continue
            values = _cells(text) if is_csv else safe_json.loads(text)
            if not columns:
                columns = _layout(values, layouts)
                if is_csv:
                    continue
            image = os.path.abspath(_image(values, columns, is_csv))
            if image in images:
                raise ValueError(f'image {image} a second time')
            images.add(image)
        except _Other as error:
            raise InputError(f'--output {path}: {error}') from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, csv.Error) as error:
            raise InputError(f'--output {path}: not a file of predictions, cannot be resumed (line {row.line}: '
                             f'{shown(str(error), 200)}); mend or remove that line, or name another file') from None
    return Done(images, columns or layouts[0], end)


class _Other(ValueError):
    """The file is another, not one with a spoilt row."""


def _rows(path: Path, is_csv: bool) -> Iterator[Row]:
    """The rows of a file, last what is behind its last complete one; a quoted line end of a CSV does not end a row."""
    parts: List[bytes] = []
    size = quotes = begin = 0
    with open(path, 'rb') as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW), b''), 1):
            begin = begin if parts else number
            parts.append(line)
            size += len(line)
            quotes += line.count(b'"') if is_csv else 0
            if line.endswith(b'\n') and quotes % 2 == 0:
                yield Row(begin, b''.join(parts), True)
                parts, size, quotes = [], 0, 0
            elif size >= MAX_ROW:
                break
    if parts:
        yield Row(begin, b''.join(parts), False)


def _check_half(row: Row, columns: List[str], layouts: Sequence[List[str]], is_csv: bool) -> None:
    """ValueError unless ``row`` can be the beginning of one that was being written: it will be removed."""
    if len(row.text) >= MAX_ROW:
        raise ValueError(f'a row of more than {MAX_ROW:,} bytes')
    if is_csv and not columns:
        if not any(csv_line(layout).encode().startswith(row.text) for layout in layouts):
            raise ValueError(f'found {row.text[:60].decode("utf-8", "replace")!r}, expected {csv_line(layouts[0])!r}')
        return
    begin = b'' if is_csv else json_line({'path': ''})[:-3].encode()
    if not row.text.startswith(begin[:len(row.text)]):
        raise ValueError(f'found {row.text[:60].decode("utf-8", "replace")!r}, expected {begin.decode()}')
    outside, inside = row.text.split(b'"')[::2], row.text.split(b'"')[1::2]  # of quotes
    rows_in_quotes = any(line.count(b',') >= len(columns) - 1 for part in inside for line in part.splitlines()[1:])
    if any(b'\r' in part for part in outside) or is_csv and rows_in_quotes:
        raise ValueError('several rows in one: a quote or a line end is damaged')


def _cells(text: str) -> List[str]:
    cells = list(csv.reader(io.StringIO(text, newline=''), strict=True))
    if len(cells) != 1:
        raise ValueError(f'found {len(cells)} rows, expected one')
    return cells[0]


def _layout(values: Any, layouts: Sequence[List[str]]) -> List[str]:
    """The layout of the columns that a CSV's first row, or an object of a JSONL, has."""
    found = list(values)
    for layout in layouts:
        if found == layout:
            return layout
    raise _Other(f'has columns {shown(", ".join(map(str, found)), 200)}, this run writes {", ".join(layouts[0])}; give '
                 'the same --topk')


def _image(values: Any, columns: List[str], is_csv: bool) -> str:
    """The path of a row whose values are such as a run writes."""
    if len(values) != len(columns):
        raise ValueError(f'found {len(values)} columns, expected {len(columns)}')
    row: Dict[str, Any] = dict(zip(columns, values)) if is_csv else values
    missing = [name for name in columns if name not in row]
    if missing:
        raise ValueError(f'found no {missing[0]}')
    ids, probs = parse_row(row)
    for rank in range(1, 1 + sum(name.startswith('prob') for name in columns)):
        end = f'_{rank}' if rank > 1 else ''
        if row[f'class_id{end}'] == '' and rank > len(ids):  # a model of fewer classes
            continue
        found = class_id_of(row[f'class_id{end}']), prob_of(row[f'prob{end}'])
        if rank <= len(ids) and found != (ids[rank - 1], probs[rank - 1]):
            raise ValueError(f'class_id{end} and prob{end}: found {found[0]} and {found[1]}, in top5_class_ids and '
                             f'top5_probs {ids[rank - 1]} and {probs[rank - 1]}')
    if min(ids + [class_id_of(one) for one in row.get(PRESENT, '').split()]) < 0:
        raise ValueError('a class id below 0')
    path = unquoted(row['path']) if is_csv else row['path']
    if not path or '\0' in path:
        raise ValueError('no path')
    return path
