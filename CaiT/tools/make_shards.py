# SPDX-License-Identifier: Apache-2.0
"""Write shards from the list files of a dataset.

    python -m CaiT.tools.make_shards dataset/LSVRC2012 dataset/shards                    WebDataset tars
    python -m CaiT.tools.make_shards dataset/LSVRC2012 dataset/shards --format parquet   as Hugging Face writes them
    python -m CaiT.tools.make_shards dataset/flowers dataset/flowers-shards --images 500 --splits train val

Reads train_list.txt, val_list.txt and test_list.txt of the first folder (those that are there) and writes
train-000000.tar … into the second. The images' bytes are copied as they are. Training images are shuffled once, by
--seed, so that neighbors are of different classes; --keep-order leaves them in the order of the list. Each shard is
read again and compared before it stands under its name. A folder that holds shards already is refused.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import IO, Any, Iterator, List, NamedTuple, Optional, Sequence

if __name__ == '__main__' and not __package__:  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT.cli import Parser
from CaiT.data.datasets import CLASS_FILE
from CaiT.data.formats import format_of
from CaiT.data.lists import LIST_FILES, Samples, read_label_map, read_list
from CaiT.data.shards import READERS
from CaiT.data.text import quoted
from CaiT.errors import InputError, run
from CaiT.files import atomic_write

ROW_GROUP = 100  # images: what a reader of parquet reads at a time


class Record(NamedTuple):
    """An image to write: its number in the split, its path relative to the lists, its bytes and class id (-1: none)."""
    number: int
    path: str  # as ``text.quoted`` writes it
    extension: str
    content: bytes
    label: int


def records(samples: Samples, order: Sequence[int], first: int, root: Path) -> Iterator[Record]:
    """The images at the places ``order``, read one by one and numbered from ``first``."""
    for number, index in enumerate(order, first):
        path, label = samples[index]
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f'image {quoted(path)}: cannot be read ({error.strerror})') from None
        if not content:
            raise InputError(f'image {quoted(path)}: the file is empty')
        image_format = format_of(path)  # '.jpg' is the convention for all JPEGs, and for files without an extension
        extension = '.jpg' if image_format in ('', 'JPEG') else os.path.splitext(path)[1].lower()
        yield Record(number, quoted(os.path.relpath(path, root)), extension, content, label)


def write_tar(file: IO[bytes], found: Iterator[Record], names: List[str]) -> List[bytes]:
    """One tar; returns the digests of its images. ``names`` of the classes are not in it."""
    digests = []
    with tarfile.open(fileobj=file, mode='w|', format=tarfile.GNU_FORMAT) as tar:
        for record in found:
            key = f'{record.number:09d}'
            _add(tar, key + record.extension, record.content)
            if record.label >= 0:
                _add(tar, f'{key}.cls', str(record.label).encode())
            label = {'label': record.label} if record.label >= 0 else {}
            _add(tar, f'{key}.json', json.dumps({**label, 'filename': record.path}).encode())
            digests.append(_digest(record))
    return digests


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_parquet(file: IO[bytes], found: Iterator[Record], names: List[str]) -> List[bytes]:
    """One parquet file with the features of Hugging Face's datasets; returns the digests of its images."""
    import pyarrow
    import pyarrow.parquet
    kind = {'_type': 'ClassLabel', 'names': names} if names else {'_type': 'Value', 'dtype': 'int64'}
    features = {'image': {'_type': 'Image'}, 'label': kind}
    schema = pyarrow.schema(
        [('image', pyarrow.struct([('bytes', pyarrow.binary()), ('path', pyarrow.string())])),
         ('label', pyarrow.int64())], {'huggingface': json.dumps({'info': {'features': features}})})
    digests: List[bytes] = []
    rows: List[Record] = []

    def flush(writer: Any) -> None:
        columns = [[{'bytes': row.content, 'path': os.path.basename(row.path)} for row in rows],
                   [row.label if row.label >= 0 else None for row in rows]]
        arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema)]
        writer.write_table(pyarrow.table(arrays, schema=schema))
        rows.clear()

    with pyarrow.parquet.ParquetWriter(file, schema, compression='none') as writer:
        for record in found:
            rows.append(record)
            digests.append(_digest(record))
            if len(rows) == ROW_GROUP:
                flush(writer)
        if rows:
            flush(writer)
    return digests


WRITERS = {'tar': write_tar, 'parquet': write_parquet}


def _digest(record: Record) -> bytes:
    return hashlib.sha256(record.content + b'%d' % record.label).digest()


def verify(path: str, name: str, kind: str, digests: List[bytes]) -> None:
    """InputError unless the shard at ``path``, which will be called ``name``, holds these images with their labels."""
    reader = READERS[kind]()
    scan = reader.scan(path)
    found = [_digest(Record(0, '', '', reader.read(path, int(first), int(second)).content, int(label)))
             for first, second, label in zip(scan.first, scan.second, scan.labels)]
    if found != digests:
        raise InputError(f'{quoted(name)}: what is on the disk is not what was written, nothing is kept of it')


def write_split(samples: Samples, order: Sequence[int], root: Path, target: Path, split: str, kind: str, images: int,
                names: List[str]) -> int:
    """Write the shards of one split; returns their number."""
    for shard, start in enumerate(range(0, len(order), images)):
        name = target / f'{split}-{shard:06d}{READERS[kind].extension}'
        with atomic_write(name, 'wb') as file:
            digests = WRITERS[kind](file, records(samples, order[start:start + images], start, root), names)
            file.flush()
            verify(file.name, str(name), kind, digests)
    return -(-len(order) // images)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.add_argument('data_path', help='folder of the list files')
    parser.add_argument('output', help='folder for the shards')
    parser.flag('format', default='tar', help='tar or parquet')
    parser.flag('images', type=int, default=1000, help='images per shard')
    parser.flag('splits', nargs='+', default=[], help='of train, val and test; default: those that have a list')
    parser.flag('seed', type=int, default=0, help='of the order of the training images')
    parser.switch('keep_order', help='training images in the order of their list')
    args = parser.parse_args(argv)
    root, target = Path(args.data_path), Path(args.output)
    if args.format not in READERS:
        raise InputError(f'--format: found {args.format!r}, expected one of {", ".join(READERS)}')
    for name, least in (('images', 1), ('seed', 0)):
        if getattr(args, name) < least:
            raise InputError(f'--{name}: found {getattr(args, name)}, expected at least {least}')
    unknown = [split for split in args.splits if split not in LIST_FILES]
    if unknown:
        raise InputError(f'--splits: found {unknown[0]!r}, expected some of {", ".join(LIST_FILES)}')
    if args.format == 'parquet':
        _check_pyarrow()
    splits = args.splits or [split for split in LIST_FILES if (root / LIST_FILES[split]).is_file()]
    if not splits:
        raise InputError(f'{quoted(root)}: found no list files, expected {", ".join(LIST_FILES.values())}; write them '
                         f'with: python -m CaiT.tools.make_lists {quoted(root)}')
    present = sorted(target.glob(f'*{READERS[args.format].extension}')) if target.is_dir() else []
    if present:
        raise InputError(f'{quoted(present[0])}: is there already, expected a folder without shards')
    lists = {split: read_list(root / LIST_FILES[split], root, None) for split in splits}
    for split, samples in lists.items():
        unlabeled = np.flatnonzero(samples.labels < 0)
        if split != 'test' and len(unlabeled):
            raise InputError(f'{quoted(root / LIST_FILES[split])}, line {samples.lines[unlabeled[0]]}: found no class '
                             'id, expected "path class_id"')
    names = read_label_map(root / CLASS_FILE, None) if (root / CLASS_FILE).is_file() else []
    most = max(int(samples.labels.max()) for samples in lists.values())
    for split, samples in lists.items():
        order = range(len(samples))
        if split == 'train' and not args.keep_order:
            order = np.random.Generator(np.random.PCG64(args.seed)).permutation(len(samples)).tolist()
        count = write_split(samples, order, root, target, split, args.format, args.images,
                            names if len(names) > most else [])
        print(f'{quoted(target)}: {split}: {len(samples)} images in {count} shards, verified')
    if names:
        with atomic_write(target / CLASS_FILE, 'wb') as file:
            file.write((root / CLASS_FILE).read_bytes())
    print(f'train with -dataset={args.format} -data_path={quoted(target)}')
    return 0


def _check_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise InputError('--format parquet: found no pyarrow, expected it to be installed: pip install pyarrow') from (
            None)


if __name__ == '__main__':
    run(main)
