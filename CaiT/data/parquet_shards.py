# SPDX-License-Identifier: Apache-2.0
"""Images in parquet files as Hugging Face writes them: a column ``image`` {bytes, path} and a column ``label``.

Reads one row group at a time and keeps the last ones, for a shuffle in blocks (DATA.SHUFFLE block:N).
"""
from __future__ import annotations

import collections
import os
from typing import Any, Dict, List, OrderedDict, Tuple, Type

import numpy as np

from CaiT import safe_json
from CaiT.data.decode import ImageBytes
from CaiT.data.shard_index import Scan
from CaiT.data.text import quoted
from CaiT.errors import InputError, shown

IMAGE_COLUMNS = ('image', 'img', 'jpg')
LABEL_COLUMNS = ('label', 'labels', 'fine_label', 'cls')
KEPT_BYTES = 128 << 20  # of row groups that a process keeps; at least one is


class ParquetShards:
    """Reading of parquet files. An entry of the index is (row group, row in it)."""

    extension = '.parquet'

    def __init__(self) -> None:
        self._metadata: Dict[str, Any] = {}
        self._groups: OrderedDict[Tuple[str, int], Any] = collections.OrderedDict()
        self._process = os.getpid()

    def scan(self, path: str) -> Scan:
        """The images of a shard, in order; InputError naming the shard when it is damaged or has no such columns."""
        try:
            with _parquet().ParquetFile(path) as file:
                _image_column(file, path)
                rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                if min(rows, default=0) < 0 or sum(rows) > os.path.getsize(path):
                    raise ValueError(f'{sum(rows):,} rows in {os.path.getsize(path):,} bytes')
                names = file.schema_arrow.names
                label = next((name for name in LABEL_COLUMNS if name in names), None)
                labels = np.full(sum(rows), -1, np.int64)
                if label is not None and len(labels):
                    labels = _labels(file.read(columns=[label], use_threads=False).column(0), path, label)
                groups = np.repeat(np.arange(len(rows), dtype=np.int64), rows)
                places = np.concatenate([np.arange(count) for count in rows]) if rows else np.zeros(0, np.int64)
                return Scan(groups, places, labels, _class_names(file.schema_arrow.metadata, label), 0)
        except InputError:
            raise
        except _damaged() as error:
            raise InputError(f'{quoted(path)}: cannot be read as parquet, damaged or truncated '
                             f'({" ".join(str(error).split())})') from None

    def read(self, path: str, group: int, row: int) -> ImageBytes:
        """The image at an entry of the index."""
        try:
            value = self._group(path, group)[row].as_py()
        except InputError:
            raise
        except _damaged() as error:
            raise InputError(f'{quoted(path)}: row group {group} cannot be read, damaged or changed since the start of '
                             f'this run ({" ".join(str(error).split())})') from None
        content, name = (value.get('bytes'), value.get('path')) if isinstance(value, dict) else (value, None)
        name = f'{path}#{group}.{row}' + (f'/{name}' if name else '')
        if not isinstance(content, bytes):
            raise InputError(f'image {quoted(name)}: found no bytes in this row, expected images embedded in the file')
        return ImageBytes(name, content)

    def _group(self, path: str, group: int) -> Any:
        """The column of images of a row group."""
        if self._process != os.getpid():  # a data worker opens its own
            self.__init__()
        key = path, group
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        # Closed after each group: an open file keeps the bytes of the last one, also when nothing refers to them.
        with _parquet().ParquetFile(path, metadata=self._metadata.get(path)) as file:
            self._metadata[path] = file.metadata
            table = file.read_row_group(group, columns=[_image_column(file, path)], use_threads=False)
        self._groups[key] = table.column(0)
        while len(self._groups) > 1 and sum(column.nbytes for column in self._groups.values()) > KEPT_BYTES:
            self._groups.popitem(last=False)
        return self._groups[key]

    def __getstate__(self) -> Dict[str, Any]:
        return {}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__init__()


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError('-dataset=parquet: found no pyarrow, expected it to be installed: pip install pyarrow') from (
            None)
    return pyarrow.parquet


def _damaged() -> Tuple[Type[Exception], ...]:
    """What pyarrow raises at a damaged file: its own errors (of which some are no others) and those of Python."""
    import pyarrow
    return OSError, ValueError, IndexError, OverflowError, pyarrow.ArrowException


def _image_column(file: Any, path: str) -> str:
    names = file.schema_arrow.names
    for name in IMAGE_COLUMNS:
        if name in names:
            return name
    raise InputError(f'{quoted(path)}: found the columns {", ".join(map(shown, names))}, expected one of '
                     f'{", ".join(IMAGE_COLUMNS)}')


def _labels(column: Any, path: str, name: str) -> np.ndarray:
    kind = str(column.type)
    if not kind.startswith(('int', 'uint')):
        raise InputError(f'{quoted(path)}: column {name}: found {kind}, expected integers (class ids)')
    labels = column.fill_null(-1).to_numpy().astype(np.int64)
    if len(labels) and (labels.min() < -1 or labels.max() >= 10**9):
        raise InputError(f'{quoted(path)}: column {name}: found {labels.min()} to {labels.max()}, expected class ids')
    return labels


def _class_names(metadata: Any, label: Any) -> List[str]:
    """The names that Hugging Face writes into the file, [] without."""
    try:
        features = safe_json.loads((metadata or {})[b'huggingface'].decode('utf-8'))['info']['features']
        return [str(name) for name in features[label]['names']]
    except (KeyError, ValueError, TypeError):
        return []
