# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100 from the official archive on disk (https://www.cs.toronto.edu/~kriz/cifar.html)."""
from __future__ import annotations

import io
import os
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from CaiT.errors import InputError


class Archive(NamedTuple):
    """What one of the two datasets is called on disk; files by split, and the keys inside them."""

    packed: str
    folder: str
    files: Dict[str, Tuple[str, ...]]
    meta: str
    labels: bytes
    names: bytes


ARCHIVES = {
    'cifar10': Archive('cifar-10-python.tar.gz', 'cifar-10-batches-py',
                       {'train': tuple(f'data_batch_{i}' for i in range(1, 6)), 'test': ('test_batch',)},
                       'batches.meta', b'labels', b'label_names'),
    'cifar100': Archive('cifar-100-python.tar.gz', 'cifar-100-python', {'train': ('train',), 'test': ('test',)},
                        'meta', b'fine_labels', b'fine_label_names'),
}


class CifarSplit(NamedTuple):
    """``pixels`` [N, 32, 32, 3] uint8 RGB, ``labels`` int64 [N], ``places`` 'file#row' [N], names of the classes."""

    pixels: np.ndarray
    labels: np.ndarray
    places: List[str]
    class_names: List[str]


def read_cifar(name: str, data_path: str, split: str) -> CifarSplit:
    """One split ('train'; 'val' and 'test' are both the official test set) of 'cifar10' or 'cifar100'.

    ``data_path`` is the folder that holds the archive or its unpacked folder, or either of the two itself.
    """
    archive = ARCHIVES[name]
    wanted = archive.files['train' if split == 'train' else 'test']
    parts: Dict[str, Dict[bytes, Any]] = {}
    source = _find(archive, Path(data_path))
    for file_name, content in _members(source, {*wanted, archive.meta}):
        parts[file_name] = _load(content, f'{source}: {file_name}')
    for file_name in (*wanted, archive.meta):
        if file_name not in parts:
            raise InputError(f'{source}: {file_name} is missing, expected the official {name} archive')
    pixels, labels, places = [], [], []
    for file_name in wanted:
        part = parts[file_name]
        data, ids = part.get(b'data'), part.get(archive.labels)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 \
                or not isinstance(ids, list) or len(ids) != len(data):
            raise InputError(f'{source}: {file_name}: expected rows of 3072 bytes and as many labels')
        pixels.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # planes to [N, 32, 32, 3]
        labels.extend(ids)
        places.extend(f'{source}/{file_name}#{row}' for row in range(len(ids)))
    names = [name.decode('utf-8') for name in parts[archive.meta].get(archive.names, [])]
    return CifarSplit(np.ascontiguousarray(np.concatenate(pixels)), np.asarray(labels, np.int64), places, names)


def _find(archive: Archive, path: Path) -> Path:
    for place in (path / archive.folder, path / archive.packed, path):
        if place.is_file() or (place.is_dir() and (place / archive.meta).is_file()):
            return place
    raise InputError(f'{path}: found neither {archive.packed} nor {archive.folder}/, expected the official archive '
                     '(https://www.cs.toronto.edu/~kriz/cifar.html)')


def _members(source: Path, wanted: set) -> Iterator[Tuple[str, bytes]]:
    """(name, content) of the wanted files in a folder or a tar archive; nothing is unpacked to the disk."""
    if source.is_dir():
        for name in sorted(wanted):
            if (source / name).is_file():
                yield name, (source / name).read_bytes()
        return
    try:
        with tarfile.open(source) as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if member.isfile() and name in wanted:
                    yield name, tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'{source}: cannot be read as a tar archive ({reason}); is the download complete?') from None


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers, numbers, text and numpy arrays, and refuses everything else: a pickle can carry programs."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ('numpy', 'numpy.core.multiarray', 'numpy._core.multiarray'):
            if name == '_reconstruct':
                return np.empty(0).__reduce__()[0]  # its home moved between numpy 1 and 2
            if name in ('ndarray', 'dtype'):
                return getattr(np, name)
        if (module, name) == ('_codecs', 'encode'):  # how Python 3 writes bytes in old pickle formats
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'it asks for {module}.{name}, which no data file needs')


def _load(content: bytes, where: str) -> Dict[bytes, Any]:
    try:
        part = _ArrayUnpickler(io.BytesIO(content), encoding='bytes').load()
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f'{where}: cannot be read ({error})') from None
    if not isinstance(part, dict):
        raise InputError(f'{where}: found {type(part).__name__}, expected a dictionary')
    return part
