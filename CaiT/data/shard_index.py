# SPDX-License-Identifier: Apache-2.0
"""The index of a dataset's shards: where each image lies and its label, found once and kept in a file.

The file lies beside the first shard, or in the cache folder where that folder cannot be written: one line of text, one
of JSON (the shards with size and time, the CRC-32 of what follows), then three arrays, which all processes of a machine
map into their memory. A shard that has changed since is scanned again; the others are not.
"""
from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import time
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from CaiT import safe_json
from CaiT.data.text import quoted
from CaiT.errors import InputError
from CaiT.files import atomic_write, cache_folder

MAGIC = b'CaiT shard index 1\n'
MAX_HEADER = 1 << 28   # bytes of the line of JSON
THREADS = 8            # shards that are scanned at a time: most of the time is spent waiting for the disk
SHOWN = 5              # damaged shards that a message names
DTYPES = (np.dtype('<i8'), np.dtype('<u4'), np.dtype('<i4'))


class Scan(NamedTuple):
    """The images of one shard: two numbers each with which its reader finds it, labels (-1: none), class names."""
    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray
    class_names: List[str]
    left_out: int


class ShardIndex(NamedTuple):
    """The images of all shards in order: shard ``s`` has those from ``ends[s - 1]`` to before ``ends[s]``."""
    shards: List[str]
    ends: np.ndarray     # int64
    first: np.ndarray    # int64 [N]
    second: np.ndarray   # uint32 [N]
    labels: np.ndarray   # int32 [N]
    class_names: List[str]
    notes: List[str]


def open_index(shards: Sequence[str], reader: Any) -> ShardIndex:
    """The index of ``shards``, from its file where that is there and they have not changed, else built and written.

    ``reader.scan(path)`` gives the Scan of a shard. One process of a machine builds, others wait for it. Raises
    InputError naming the shards that cannot be read, are damaged or truncated.
    """
    states = [_state(path) for path in shards]
    places = _places(shards, reader.extension)
    index = _load_first(places, shards, states)[0]
    if index is None:
        with _lock(places):
            index, known = _load_first(places, shards, states)  # another process was faster
            index = index or _build(shards, states, reader, known, places)
    return index


def _state(path: str) -> Tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f'{quoted(path)}: cannot be read ({error.strerror})') from None
    return status.st_size, status.st_mtime_ns


def _places(shards: Sequence[str], extension: str) -> List[Tuple[Path, str]]:
    """(file, folder to which the shards' names in it are relative): beside the shards, then in the cache folder."""
    folder = os.path.dirname(os.path.abspath(shards[0]))
    relative, absolute = _names(shards, folder), _names(shards, '')
    return [(Path(folder) / f'.{_digest(relative)}{extension}-index', folder),
            (cache_folder('indexes') / f'{_digest(absolute)}{extension}-index', '')]


def _names(shards: Sequence[str], folder: str) -> List[str]:
    paths = [os.path.abspath(path) for path in shards]
    return [os.path.relpath(path, folder) for path in paths] if folder else paths


def _digest(names: List[str]) -> str:
    return hashlib.sha256('\0'.join(names).encode('utf-8', 'surrogateescape')).hexdigest()[:16]


@contextlib.contextmanager
def _lock(places: List[Tuple[Path, str]]) -> Iterator[None]:
    """One process builds at a time. Where no lock is to be had, each builds: the files are equal."""
    import filelock  # rarely needed
    with contextlib.ExitStack() as stack:
        for path, _ in places:
            with contextlib.suppress(OSError, NotImplementedError):
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(filelock.FileLock(f'{path}.lock'))
                break
        yield


def _load_first(places: List[Tuple[Path, str]], shards: Sequence[str],
                states: List[Tuple[int, int]]) -> Tuple[Optional[ShardIndex], Dict[str, Tuple[Any, Scan]]]:
    """(the index, None where a shard has changed or there is none; shard -> (state, its part) of what is known)."""
    for path, folder in places:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, OverflowError):  # damaged: built anew
            header, arrays = _read(path)
            names = _names(shards, folder)
            if [one[:3] for one in header['shards']] == [[name, *state] for name, state in zip(names, states)]:
                ends = np.cumsum([one[3] for one in header['shards']], dtype=np.int64)
                return ShardIndex(list(shards), ends, *arrays, header['class_names'], []), {}
            known, start = {}, 0
            for name, size, changed, count in header['shards']:
                part = [array[start:start + count] for array in arrays]
                known[os.path.join(folder, name)] = ((size, changed), Scan(*part, header['class_names'], 0))
                start += count
            return None, {path: known[os.path.abspath(path)] for path in shards if os.path.abspath(path) in known}
    return None, {}


def _read(path: Path) -> Tuple[Dict[str, Any], List[np.ndarray]]:
    """The JSON and the arrays of an index file; ValueError when they are not whole."""
    with open(path, 'rb') as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError('no index')
        header = safe_json.loads(file.readline(MAX_HEADER).decode('utf-8'))
        place, crc = file.tell(), 0
        for block in iter(lambda: file.read(1 << 20), b''):
            crc = zlib.crc32(block, crc)
        size = file.tell() - place
    counts = [one[3] for one in header['shards']]
    total = sum(counts)
    if crc != header['crc32'] or min(counts) < 0 or size != total * sum(dtype.itemsize for dtype in DTYPES):
        raise ValueError('damaged')
    arrays = []
    for dtype in DTYPES:
        arrays.append(np.memmap(path, dtype, 'r', place, (total,)) if total else np.zeros(0, dtype))
        place += total * dtype.itemsize
    return header, arrays


def _build(shards: Sequence[str], states: List[Tuple[int, int]], reader: Any, known: Dict[str, Tuple[Any, Scan]],
           places: List[Tuple[Path, str]]) -> ShardIndex:
    start_time = time.monotonic()
    changed = [path for path, state in zip(shards, states) if path not in known or known[path][0] != state]
    found = {path: scan for path, (_, scan) in known.items()}
    damaged: List[str] = []
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        futures = {path: pool.submit(reader.scan, path) for path in changed}
        for path, future in futures.items():
            try:
                found[path] = future.result()
            except InputError as error:
                damaged.append(str(error))
            except OSError as error:
                damaged.append(f'{quoted(path)}: cannot be read ({error.strerror})')
    if damaged:
        more = f'; and {len(damaged) - SHOWN} more shards' if len(damaged) > SHOWN else ''
        raise InputError('; '.join(damaged[:SHOWN]) + more)
    scans = [found[path] for path in shards]
    arrays = [np.concatenate([scan[number] for scan in scans]).astype(dtype) for number, dtype in enumerate(DTYPES)]
    counts = [len(scan.labels) for scan in scans]
    names = next((scan.class_names for scan in scans if scan.class_names), [])
    notes = []
    left_out = sum(found[path].left_out for path in changed)
    if left_out:
        notes.append(f'left out: {left_out} samples without an image in the shards')
    place = _write(places, shards, states, counts, arrays, names)
    notes.append(f'index of {len(arrays[0])} images in {len(shards)} shards ({len(changed)} of them scanned in '
                 f'{time.monotonic() - start_time:.1f} s): {place or "not kept, no folder for it can be written"}')
    return ShardIndex(list(shards), np.cumsum(counts, dtype=np.int64), *arrays, names, notes)


def _write(places: List[Tuple[Path, str]], shards: Sequence[str], states: List[Tuple[int, int]], counts: List[int],
           arrays: List[np.ndarray], class_names: List[str]) -> Optional[Path]:
    """Write the index to the first place that can be written; returns it."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array, crc)
    for path, folder in places:
        entries = [[name, *state, count] for name, state, count in zip(_names(shards, folder), states, counts)]
        header = json.dumps({'shards': entries, 'class_names': class_names, 'crc32': crc}).encode()
        header += b' ' * (-(len(MAGIC) + len(header) + 1) % 8) + b'\n'  # the arrays begin at a multiple of 8
        try:
            with atomic_write(path, 'wb') as file:
                file.write(MAGIC + header)
                for array in arrays:
                    file.write(array)
            return path
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
                raise
    return None
