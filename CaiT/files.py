# SPDX-License-Identifier: Apache-2.0
"""Atomic output (written to a temporary file, then renamed), bounded text input, checksums, and the cache folder."""
from __future__ import annotations

import contextlib
import glob
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, Iterator, Optional, Tuple, Union

from CaiT.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

MAX_PREFIX = 200  # bytes of a name that its temporary file begins with: with what follows they are a name, too
_UMASK = threading.Lock()
PathLike = Union[str, 'os.PathLike[str]']


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = 'w') -> Iterator[IO]:
    """Open a temporary file in the folder of ``path`` and rename it to ``path`` when the block succeeds.

    When the block raises, the temporary file is removed and ``path`` is unchanged. Text is UTF-8 without newline
    conversion. The data is synced to disk before the rename, so a power failure leaves the old file or the new one,
    never an incomplete one. Temporary files of this name that killed processes left are removed. InputError when the
    folder is removed meanwhile, and for a path that is a folder, a FIFO, a socket or a device: the rename would put a
    file into the place of /dev/null.
    """
    path = Path(path)
    check_regular(path)
    make_folder(path.parent)
    try:
        lock, temporary = _temporary(path)
    except FileNotFoundError as error:  # its folder is there: one of /proc, for one
        raise InputError(f'{path}: cannot be written: {error.strerror}') from None
    except OSError as error:
        error.filename = str(path)
        raise
    text = {} if 'b' in mode else {'encoding': 'utf-8', 'newline': ''}
    try:
        with open(temporary, mode, **text) as file:  # by name: the block may read file.name before the rename
            yield file
            file.flush()
            os.fsync(file.fileno())
        with _UMASK:  # of the whole process: two threads at once would leave it at 0
            mask = os.umask(0)
            os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp creates files with mode 0600, unreadable for other users
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
            raise InputError(f'{path}: its folder was removed while the file was written') from None
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename = str(path)  # a full disk, for one: write() does not say which file it was
        raise
    finally:
        os.close(lock)


def make_folder(path: Path) -> None:
    """Make ``path`` and the folders above it; InputError where there can be none, below a current folder that was
    removed, for one. Other OSErrors stay what they are."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise InputError(f'{path}: cannot be made: {error.strerror}') from None


def _temporary(path: Path) -> Tuple[int, str]:
    """(a descriptor, the name) of a new file beside ``path``, locked while the descriptor is open."""
    prefix = os.fsdecode(os.fsencode(f'.{path.name}')[:MAX_PREFIX]) + '.'
    for left in path.parent.glob(f'{glob.escape(prefix)}{"[a-z0-9_]" * 8}.tmp'):
        with contextlib.suppress(OSError):
            _remove_unlocked(left)
    while True:
        handle, temporary = tempfile.mkstemp(prefix=prefix, suffix='.tmp', dir=path.parent)
        if try_lock(handle) is not False and os.path.exists(temporary):
            return handle, temporary
        os.close(handle)  # another process took it for one that was left


def _remove_unlocked(path: Path) -> None:
    """Remove a temporary file that no process has locked; where the file system has no locks, none is removed."""
    handle = os.open(path, os.O_RDWR | getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_NONBLOCK', 0))
    try:
        if path.is_file() and try_lock(handle):
            path.unlink()
    finally:
        os.close(handle)


def try_lock(handle: int) -> Optional[bool]:
    """Lock an open file; False when another process has locked it, None without locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def read_text(path: PathLike, max_bytes: int, kind: str) -> str:
    """The text of a small UTF-8 file; InputError, naming ``kind``, when it is larger or not UTF-8. OSError stays one.
    """
    with open(path, 'rb') as file:  # which may be a pipe or a device, of any length
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        size = max(Path(path).stat().st_size, len(content))
        raise InputError(f'{path}: found {size:,} bytes of {kind}, expected at most {max_bytes:,}')
    try:
        return content.decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n')
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not {kind}: not UTF-8 at byte {error.start}') from None


def check_regular(path: PathLike) -> None:
    """InputError for a FIFO, a device or a folder: opening the first waits for ever. What is not there passes."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f'{os.fspath(path)}: is no regular file')


def cache_folder(name: str) -> Path:
    """Where this user's files of the kind ``name`` are kept: $CAIT_HOME/name, else $XDG_CACHE_HOME/cait/name, else
    ~/.cache/cait/name."""
    home = os.environ.get('CAIT_HOME')
    if home:
        return Path(home).expanduser() / name
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'cait' / name


def write_json(path: PathLike, value: Any) -> None:
    """Write a value as JSON with one item per line."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=1)
        file.write('\n')


def stamp(path: PathLike) -> Optional[Tuple[int, ...]]:
    """What tells a file from one that takes its place or is written into it; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sha256(path: PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    import hashlib  # slow to import
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
