# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100 from the official archive on disk (https://www.cs.toronto.edu/~kriz/cifar.html)."""
from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from CaiT import safe_pickle
from CaiT.errors import InputError, shown
from CaiT.files import PathLike

MAX_BYTES = 256 << 20  # of one file of an archive; CIFAR-100's are 155 million
MAX_UNPACKED = 512 << 20  # of an archive; both are of 186 million


class Archive(NamedTuple):
    """File and key names of one of the two datasets; ``files`` are those of each split."""

    tar_file: str
    folder: str
    files: Dict[str, Tuple[str, ...]]
    meta: str
    labels: bytes
    class_names: bytes


ARCHIVES = {
    'cifar10': Archive('cifar-10-python.tar.gz', 'cifar-10-batches-py',
                       {'train': tuple(f'data_batch_{i}' for i in range(1, 6)), 'test': ('test_batch',)},
                       'batches.meta', b'labels', b'label_names'),
    'cifar100': Archive('cifar-100-python.tar.gz', 'cifar-100-python', {'train': ('train',), 'test': ('test',)},
                        'meta', b'fine_labels', b'fine_label_names'),
}


class CifarSplit(NamedTuple):
    """``pixels`` [N, 32, 32, 3] uint8 RGB, ``labels`` int64 [N], ``sources`` 'file#row' [N], and the class names."""

    pixels: np.ndarray
    labels: np.ndarray
    sources: List[str]
    class_names: List[str]


def read_cifar(name: str, data_path: PathLike, split: str) -> CifarSplit:
    """One split ('train'; 'val' and 'test' are both the official test set) of 'cifar10' or 'cifar100'.

    ``data_path`` is the archive, its unpacked folder, or a folder that contains either.
    """
    archive = ARCHIVES[name]
    split_files = archive.files['train' if split == 'train' else 'test']
    parts: Dict[str, Dict[bytes, Any]] = {}
    source = _find(archive, Path(data_path))
    for file_name, content in _members(source, {*split_files, archive.meta}):
        parts[file_name] = _load(content, f'{source}: {file_name}')
    for file_name in (*split_files, archive.meta):
        if file_name not in parts:
            raise InputError(f'{source}: {file_name} is missing, expected the official {name} archive')
    pixels, labels, sources = [], [], []
    for file_name in split_files:
        part = parts[file_name]
        data, ids = part.get(b'data'), part.get(archive.labels)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 \
                or not isinstance(ids, list) or len(ids) != len(data) \
                or not all(type(one) is int and 0 <= one < 100 for one in ids):
            raise InputError(f'{source}: {file_name}: expected rows of 3072 bytes and as many labels')
        pixels.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # CHW to HWC
        labels.extend(ids)
        sources.extend(f'{source}/{file_name}#{row}' for row in range(len(ids)))
    names = parts[archive.meta].get(archive.class_names, [])
    if not isinstance(names, list) or not all(isinstance(one, bytes) for one in names):
        raise InputError(f'{source}: {archive.meta}: expected a list of class names')
    class_names = [one.decode('utf-8', 'replace') for one in names]
    return CifarSplit(np.ascontiguousarray(np.concatenate(pixels)), np.asarray(labels, np.int64), sources, class_names)


def _find(archive: Archive, path: Path) -> Path:
    for candidate in (path / archive.folder, path / archive.tar_file, path):
        if candidate.is_file() or (candidate.is_dir() and (candidate / archive.meta).is_file()):
            return candidate
    raise InputError(f'{path}: found neither {archive.tar_file} nor {archive.folder}/, expected the official archive '
                     '(https://www.cs.toronto.edu/~kriz/cifar.html)')


def _members(source: Path, names: set) -> Iterator[Tuple[str, bytes]]:
    """(name, content) of the files ``names`` in a folder or a tar archive, which is read in memory."""
    if source.is_dir():
        for name in sorted(names):
            if (source / name).is_file():
                yield name, (source / name).read_bytes()
        return
    try:
        with open(source, 'rb') as file, tarfile.open(fileobj=_Unpacked(file), mode='r:') as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if member.isfile() and name in names:
                    if member.size > MAX_BYTES:
                        raise InputError(f'{source}: {name}: found {member.size:,} bytes, expected at most '
                                         f'{MAX_BYTES:,}')
                    yield name, tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'{source}: cannot be read as a tar archive ({reason}); is the download complete?') from None


class _Unpacked:
    """The tar in a file, which may be compressed by gzip: never more than MAX_UNPACKED bytes of it, whatever its
    headers ask for."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = gzip.GzipFile(fileobj=file) if file.read(2) == b'\x1f\x8b' else file
        file.seek(0)

    def read(self, count: int) -> bytes:
        if count > min(MAX_BYTES, MAX_UNPACKED - self.file.tell()):
            raise tarfile.ReadError(f'unpacks to more than {MAX_UNPACKED:,} bytes, or has a header of many')
        return self.file.read(count)

    def seek(self, place: int) -> int:
        if place > MAX_UNPACKED:
            raise tarfile.ReadError(f'unpacks to more than {MAX_UNPACKED:,} bytes')
        return self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()


def _load(content: bytes, where: str) -> Dict[bytes, Any]:
    try:
        part = safe_pickle.load(io.BytesIO(content), encoding='bytes')
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f'{where}: cannot be read ({shown(str(error))})') from None
    if not isinstance(part, dict):
        raise InputError(f'{where}: found {type(part).__name__}, expected a dictionary')
    return part
