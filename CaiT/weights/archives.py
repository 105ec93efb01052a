# SPDX-License-Identifier: Apache-2.0
"""Zip archives and NumPy's ``.npz`` from strangers, within a budget."""
from __future__ import annotations

import ast
import math
import os
import re
import zipfile
from typing import Any, Dict

import numpy as np

from CaiT.errors import InputError, shown

MAX_RATIO, SPARE_BYTES = 20, 64 << 20  # an archive may unpack to this many times its size, and to that much in any case
MAX_HEADER = 10_000                    # bytes of the description of one array


def open_zip(path: str) -> zipfile.ZipFile:
    """An archive whose members may all be unpacked; InputError for one that is damaged, encrypted or a bomb."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        raise InputError('truncated or damaged zip archive, expected a whole PyTorch or .npz file') from None
    members, size = archive.infolist(), os.path.getsize(path)
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_RATIO * size + SPARE_BYTES:
        raise InputError(f'is a zip archive of {size:,} bytes that unpacks to {unpacked:,}; refused, expected at most '
                         f'{MAX_RATIO} times as many')
    if any(member.flag_bits & 1 for member in members):
        raise InputError('is an encrypted zip archive')
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise InputError('is a zip archive compressed in a way that neither NumPy nor PyTorch uses, expected deflate')
    if len({member.filename for member in members}) < len(members):
        raise InputError('is a zip archive with two members of one name')
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member; never unpacks more than the archive's list says that it is."""
    with archive.open(name) as file:
        return file.read(archive.getinfo(name).file_size + 1)


def read_npz(path: str) -> Dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file; those of Python objects are refused."""
    with open_zip(path) as archive:
        return {name[:-len('.npy')]: _array(name, read_member(archive, name)) for name in archive.namelist()}


def _array(name: str, content: bytes) -> np.ndarray:
    """One ``.npy``: magic, version, length of the header, header, numbers."""
    wide = content[6:7] != b'\x01'
    start = 12 if wide else 10
    length = int.from_bytes(content[8:start], 'little')
    if not content.startswith(b'\x93NUMPY') or length > MAX_HEADER or start + length > len(content):
        raise InputError(f'{shown(name)} is no array')
    header = _header(name, content[start:start + length].decode('utf-8' if wide else 'latin1'))
    kind, shape, fortran = (header.get(key) for key in ('descr', 'shape', 'fortran_order'))
    if not isinstance(kind, str) or not re.fullmatch(r'[<>=|]?[biufcSUO]\d{0,6}', kind) or 'O' in kind:
        raise InputError(f'{shown(name)} holds {shown(kind)}, expected numbers (arrays of objects are refused)')
    dtype = np.dtype(kind)
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(f'{shown(name)} has an impossible shape')
    data = content[start + length:]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise InputError(f'{shown(name)} is {shown(str(shape))} of {kind}, but holds {len(data):,} bytes of numbers')
    return np.frombuffer(data, dtype).reshape(shape, order='F' if fortran else 'C')


def _header(name: str, text: str) -> Dict[str, Any]:
    if text.count('(') + text.count('[') + text.count('{') <= 40 and not re.search(r'\d{20}', text):
        try:
            header = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            header = None
        if isinstance(header, dict):
            return header
    raise InputError(f'{shown(name)} has a header that is not as NumPy writes it')
