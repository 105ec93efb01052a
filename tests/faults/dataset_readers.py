# SPDX-License-Identifier: Apache-2.0
"""The readers of whole datasets and of requests for tests/faults/readers.py: tars, parquet, indexes, archives."""
from __future__ import annotations

import functools
import gzip
import io
import json
import os
import pickle
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
from PIL import Image

SHAPE = (2, 2, 3)


def _png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(27, dtype=np.uint8).reshape(3, 3, 3)).save(file, 'PNG')
    return file.getvalue()


def _tar(members: Dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w', format=kind) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    end = file.getvalue().rstrip(b'\0')  # without the 10 kB of zeros that tar adds: fewer places to mutate in vain
    return end + bytes(-len(end) % 512 + 1024)


def tars() -> List[bytes]:
    plain = {'a.png': _png(), 'a.cls': b'3', 'b.png': _png(), 'b.json': b'{"label": 2}'}
    long = {f'{"x" * 120}/a.png': _png(), f'{"x" * 120}/a.cls': b'0\n', 'notes.txt': b'x'}
    pax = {'caf\u00e9' * 40 + '.png': _png(), 'caf\u00e9' * 40 + '.json': b'{"label": 1}'}
    return [_tar(plain), _tar(long, tarfile.GNU_FORMAT), _tar(pax, tarfile.PAX_FORMAT)]


def parquets() -> List[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return []
    rows = {'image': [{'bytes': _png(), 'path': 'a.png'}, {'bytes': b'x', 'path': None}], 'label': [1, 0]}
    table = pyarrow.table(rows)
    named = table.replace_schema_metadata({'huggingface': json.dumps(
        {'info': {'features': {'label': {'names': ['a', 'b']}}}})})
    found = []
    for one, options in ((table, {'compression': 'none'}), (named, {'compression': 'snappy', 'row_group_size': 1})):
        file = io.BytesIO()
        pyarrow.parquet.write_table(one, file, **options)
        found.append(file.getvalue())
    return found


def _read_images(kind: str, shard: Path) -> None:
    from CaiT.data.shards import ShardSamples
    samples = ShardSamples(kind, [str(shard)], 10)
    for index in range(min(len(samples), 20)):
        samples.at(index)


def read_shards(path: Path, kind: str) -> None:
    """Each image of one shard, without an index that an earlier file left."""
    for old in path.parent.glob(f'.*.{kind}-index'):
        old.unlink()
    _read_images(kind, path)


@functools.lru_cache(None)
def _index_place(folder: Path, kind: str) -> Tuple[Path, Path]:
    """(a shard, the file of its index), made once for each folder."""
    from CaiT.data.shards import ShardSamples
    shard = folder / f'index-of.{kind}'
    shard.write_bytes({'tar': tars, 'parquet': parquets}[kind]()[0])
    os.utime(shard, (1_700_000_000, 1_700_000_000))
    ShardSamples(kind, [str(shard)], None)
    return shard, next(folder.glob(f'.*.{kind}-index'))


def indexes(kind: str) -> Callable[[], List[bytes]]:
    def seeds() -> List[bytes]:
        if kind == 'parquet' and not parquets():
            return []
        with tempfile.TemporaryDirectory() as folder:
            return [_index_place(Path(folder), kind)[1].read_bytes()]
    return seeds


def read_index(folder: Path, data: bytes, kind: str) -> None:
    """An index whose checksum is right, for else nothing behind it is ever read; it is rebuilt or its images are."""
    shard, place = _index_place(folder, kind)
    line, newline, rest = data.partition(b'\n')
    header, newline2, arrays = rest.partition(b'\n')
    try:
        values = json.loads(header)
        values['crc32'] = zlib.crc32(arrays)
        header = json.dumps(values).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    place.write_bytes(line + newline + header + newline2 + arrays)
    _read_images(kind, shard)


def cifar_archives() -> List[bytes]:
    batch = pickle.dumps({b'data': np.zeros((1, 3072), np.uint8), b'labels': [3], b'filenames': [b'a.png']}, 2)
    meta = pickle.dumps({b'label_names': [b'a'] * 10}, 2)
    plain = _tar({'cifar-10-batches-py/batches.meta': meta, 'cifar-10-batches-py/test_batch': batch})
    return [plain, gzip.compress(plain, mtime=0)]


def read_cifar_archive(path: Path) -> None:
    from CaiT.data.datasets import build_dataset
    build_dataset('cifar10', path, 'val', None, 10)


def read_multi_label(path: Path) -> None:
    from CaiT.data.multi_label import read_multi_label_list, read_unlabeled_list
    read_unlabeled_list(path, path.parent)
    read_multi_label_list(path, path.parent, 10)


def requests() -> List[bytes]:
    """The JSON of a request; the bytes of its tensor behind it, and the length of the JSON in two bytes before it."""
    size = int(np.prod(SHAPE))
    tensor = {'name': 'x', 'datatype': 'UINT8', 'shape': [1, *SHAPE]}
    listed = {'id': 'x', 'inputs': [{**tensor, 'data': list(range(size))}],
              'outputs': [{'name': 'logits', 'parameters': {'classification': 2}}]}
    nested = {'inputs': [{**tensor, 'data': np.zeros((1, *SHAPE), int).tolist()}],
              'parameters': {'binary_data_output': True}}
    binary = {'inputs': [{**tensor, 'parameters': {'binary_data_size': size}}]}
    found = []
    for values, behind in ((listed, b''), (nested, b''), (binary, bytes(size))):
        head = json.dumps(values).encode()
        found.append(len(head).to_bytes(2, 'little') + head + behind)
    return found


def read_request(folder: Path, data: bytes) -> Any:
    from CaiT.serve import open_inference
    length = int.from_bytes(data[:2], 'little')
    request = open_inference.parse(data[2:], str(length) if length else None, 'UINT8', SHAPE)
    logits = np.zeros((len(request.images), 3), np.float32)
    return open_inference.response(request, logits, 'm', ['a', 'b', 'c'])
