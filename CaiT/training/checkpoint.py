# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: ``<tag>.pdstate`` holds the full training state, ``<tag>.pdparams`` the weights alone.

Tags are ``last``, ``best`` and those of CaiT/training/retention.py. A state is one pickle of arrays, numbers and text,
followed by its SHA-256, which a reader of pickles does not look at. It is written to a temporary file and renamed, so a
crash leaves the old file or the new one, never an incomplete one. It is read by a restricted unpickler
(CaiT/safe_pickle.py), so a checkpoint from an untrusted source cannot run code. A state with a number that is not
finite is not written.
"""
from __future__ import annotations

import contextlib
import hashlib
import math
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import IO, Any, Dict, Iterable, Optional

import numpy as np
from paddle import nn

from CaiT import safe_pickle
from CaiT.errors import InputError, NonFiniteError, shown
from CaiT.files import PathLike, atomic_write, check_regular
from CaiT.training.amp import float32_weights

FORMAT = 1
SUFFIX = '.pdstate'
# What ``atomic_write`` and ``link`` call a file of a run before it has its name
TEMPORARY = re.compile(r'\..+\.(pdstate|pdparams|yaml|jsonl|json|txt|csv|html|png|svg)\.[a-z0-9_]+\.tmp')
PROTOCOL = 5  # of pickle: 4 copies every array while it is written
CHECKSUM = b'CaiT-sha256:'  # before the 32 bytes of the digest, at the end of the file
TRAILER = len(CHECKSUM) + 32


def weights(model: nn.Layer) -> Dict[str, np.ndarray]:
    """The model's parameters by public name as float32 arrays in Paddle's layout: of O2 the master weights."""
    return {name: weight.numpy() for name, weight in float32_weights(model)}


def write_weights(path: PathLike, arrays: Dict[str, np.ndarray]) -> None:
    """A ``.pdparams`` file, which ``paddle.load`` and ``-pretrained`` read."""
    with atomic_write(path, 'wb') as file:
        pickle.dump(arrays, file, protocol=PROTOCOL)


def write(folder: PathLike, tag: str, state: Dict[str, Any]) -> Path:
    """Write ``state`` (arrays, numbers, text, dicts and lists of them) and its weights; returns the state's path.

    Raises NonFiniteError, and leaves what is there, when an array holds a NaN or an infinite number.
    """
    path = Path(folder) / f'{tag}{SUFFIX}'
    name = non_finite(state)
    if name:
        raise NonFiniteError(f'{name} is not finite, {path} is not written')
    # Both are on the disk before one is renamed: a disk that fills up leaves both as they were.
    with atomic_write(path.with_suffix('.pdparams'), 'wb') as weights_file, atomic_write(path, 'wb') as file:
        pickle.dump(state['model'], weights_file, protocol=PROTOCOL)
        weights_file.flush()
        os.fsync(weights_file.fileno())
        hashing = _HashingWriter(file)
        pickle.dump({'format': FORMAT, **state}, hashing, protocol=PROTOCOL)
        file.write(CHECKSUM + hashing.hash.digest())
    return path


class _HashingWriter:
    """A file to write to that also hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)


def is_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite: a sum in float64 of float32 numbers cannot overflow."""
    with np.errstate(invalid='ignore', over='ignore'):
        return math.isfinite(float(np.sum(array, dtype=np.float64)))


def non_finite(state: Dict[str, Any]) -> Optional[str]:
    """The first array of the weights, their average and the optimizer that is not finite, by name; None without."""
    for part in ('model', 'ema', 'optimizer'):
        for name, array in state[part].items():
            if not is_finite(array):
                return f'{part}: {name}'
    return None


def newest_good(paths: Iterable[Path]) -> Optional[Path]:
    """The first of these checkpoints that can be read and is finite."""
    for path in paths:
        try:
            if path.is_file() and non_finite(read(path)) is None:
                return path
        except (InputError, KeyError, TypeError, AttributeError, ValueError):
            continue
    return None


def remove_temporary_files(folder: PathLike) -> None:
    """Remove the temporary files that a killed run left in ``folder``; for the run that holds its lock. Other hidden
    files there are the user's."""
    for path in Path(folder).glob('.*.tmp'):
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink()


def copy(source: PathLike, target: PathLike) -> None:
    """Copy a file; the copy appears whole or not at all."""
    with open(source, 'rb') as read_file, atomic_write(target, 'wb') as file:
        shutil.copyfileobj(read_file, file, 1 << 20)


def link(folder: PathLike, source: str, target: str) -> None:
    """Have the tag ``target`` be the same checkpoint as ``source``: hard links, or copies where there are no links.

    No file is ever changed in place, so that a later ``source`` leaves ``target`` as it is.
    """
    for suffix in ('.pdparams', SUFFIX):  # in the order of ``write``
        old, new = Path(folder) / f'{source}{suffix}', Path(folder) / f'{target}{suffix}'
        temporary = new.with_name(f'.{new.name}.{os.getpid()}.tmp')
        try:
            os.link(old, temporary)
        except OSError:
            copy(old, new)
            continue
        try:
            os.replace(temporary, new)
        finally:  # renaming a link to another of the same file does nothing, a failed one neither
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()


def read(path: PathLike) -> Dict[str, Any]:
    """The content of a ``.pdstate`` file; InputError when it is damaged, no training state, or of another format."""
    path = Path(path)
    check_regular(path)
    try:
        with open(path, 'rb') as file:
            _check_checksum(file)
            state = safe_pickle.load(file)
            _check_end(file)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    except OSError as error:
        raise InputError(f'{path}: {error.strerror}') from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise InputError(f'{path}: truncated or damaged checkpoint ({type(error).__name__})') from None
    if not isinstance(state, dict) or 'format' not in state:
        raise InputError(f'{path}: holds no training state (weights alone go to -pretrained)')
    if type(state['format']) is not int or state['format'] != FORMAT:
        raise InputError(f'{path}: found checkpoint format {shown(repr(state["format"]))}, expected {FORMAT}')
    return state


def _check_checksum(file: IO[bytes]) -> None:
    """InputError when the file's checksum is not that of its content; older files have none. Rewinds the file."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - TRAILER))
    trailer = file.read(TRAILER)
    file.seek(0)
    if not trailer.startswith(CHECKSUM):
        return
    digest, left = hashlib.sha256(), size - TRAILER
    while left:
        block = file.read(min(left, 1 << 20))
        if not block:
            break
        digest.update(block)
        left -= len(block)
    file.seek(0)
    if digest.digest() != trailer[len(CHECKSUM):]:
        raise InputError('damaged checkpoint: its content does not have the checksum at its end')


def _check_end(file: IO[bytes]) -> None:
    """InputError when what follows the content is a part of a checksum, or anything else: it was not compared."""
    rest = file.read(TRAILER + 1)
    if rest and (len(rest) != TRAILER or not rest.startswith(CHECKSUM)):
        raise InputError(f'damaged checkpoint: found {len(rest)} bytes behind its content, expected the {TRAILER} of '
                         'its checksum')


def find(resume: str, folder: PathLike) -> Optional[Path]:
    """The file that ``-resume`` names: a path with or without extension, a run's folder, or 'auto' for the ``last`` of
    ``folder``; None when 'auto' finds none."""
    if resume == 'auto':
        last = Path(folder) / f'last{SUFFIX}'
        return last if last.exists() else None
    path = Path(resume)
    named = [path, path.with_name(path.name + SUFFIX), path.with_suffix(SUFFIX)] if path.name else []
    for candidate in (*named, path / f'last{SUFFIX}'):
        if candidate.is_file() and candidate.suffix == SUFFIX:
            return candidate
    raise InputError(f'-resume {resume}: no such checkpoint, expected a {SUFFIX} file, its folder, or auto')
