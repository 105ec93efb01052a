# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: which one, made exclusively, and used by one process at a time."""
from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Set, Tuple

from yacs.config import CfgNode

from CaiT import safe_json
from CaiT.errors import InputError, shown
from CaiT.files import make_folder
from CaiT.training import checkpoint, distributed

LOCK = '.lock'
_held: Set[str] = set()  # by this process; the system's locks are between processes


@contextlib.contextmanager
def open_folder(config: CfgNode, job: str) -> Iterator[Path]:
    """The folder of a job ('train', 'eval', 'pred'), locked by the first process of the job until the block ends.

    It is OUTPUT_DIR; else that of the checkpoint to resume; else a new one named by job and time. A folder that was
    made here and is still empty when the block raises is removed. InputError when another process uses the folder.
    """
    folder = _chosen(config, job)
    if distributed.rank():
        yield folder or Path('output') / f'{job}-rank'  # only the first process writes
        return
    is_new = folder is None or not folder.exists()
    folder = _new_folder(job) if folder is None else folder
    make_folder(folder)
    try:
        with lock(folder):
            yield folder
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # fails unless empty


def _chosen(config: CfgNode, job: str) -> Optional[Path]:
    """The folder that the config names or implies; None: a new one."""
    if config.OUTPUT_DIR:
        return Path(config.OUTPUT_DIR)
    if job == 'train' and config.RESUME == 'auto':
        runs = sorted(Path('output').glob('train-*/last.pdstate'), key=lambda path: path.stat().st_mtime)
        return runs[-1].parent if runs else None
    if job == 'train' and config.RESUME:
        return checkpoint.find(config.RESUME, '').parent
    return None


def _new_folder(job: str) -> Path:
    """output/<job>-<date and time>, made exclusively: a second run of the same second gets -2 at its end."""
    name = time.strftime(f'{job}-%Y%m%d-%H-%M-%S')
    make_folder(Path('output'))
    for number in range(1, 1000):
        folder = Path('output') / (name if number == 1 else f'{name}-{number}')
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise InputError(f'output/{name}: a thousand runs have this name, expected -output_dir')


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold ``folder/.lock`` while the block runs; InputError, naming the holder, when another run has it.

    The file is locked by the system, which releases it when the process ends however it ends: what a killed run left
    is taken over. The file also says who holds it, for file systems whose locks do not reach other hosts: a file that
    another host left is never taken over, since whether that run lives cannot be seen from here.
    """
    path, key = folder / LOCK, os.path.realpath(folder)
    if key in _held:
        raise InputError(f'{folder}: is in use by another run of this process, expected another -output_dir')
    descriptor, is_foreign = _acquire(path)
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        if is_foreign:
            os.ftruncate(descriptor, 0)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()  # while it is locked: whoever waits for this file sees that it is gone
        os.close(descriptor)


def _acquire(path: Path) -> Tuple[int, bool]:
    """(the descriptor of the lock file, locked and with this process as its owner; whether the file may be another
    program's: it was there and empty, and will be so again)."""
    while True:
        descriptor, made = _open(path)
        try:
            try:
                import fcntl
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                supported = True
            except ImportError:
                supported = False  # Windows
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise InputError(_in_use(path, _owner(descriptor))) from None
                supported = False  # a file system without locks: what the file says has to do
            if not (path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())):
                os.close(descriptor)  # the holder removed it in between
                continue
            owner = _owner(descriptor)
            if not owner and not _is_ours(descriptor):
                raise InputError(f'{path}: is not the lock file of a run, expected another -output_dir')
            if owner and not _is_stale(owner, supported):
                raise InputError(f'{_in_use(path, owner)}; if that run has ended, delete {path}')
            is_foreign = not made and not _content(descriptor)
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            try:
                os.write(descriptor, json.dumps(_this_process()).encode() + b'\n')
            except OSError:
                if not is_foreign:
                    path.unlink()
                raise
            return descriptor, is_foreign
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise


def _open(path: Path) -> Tuple[int, bool]:
    """(the lock file, whether it was made now); a link with its name leads to a file that is no lock."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        pass
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f'{path}: is a link, expected the lock file of a run; remove the link') from None
        if error.errno in (errno.EISDIR, errno.ENXIO):  # a folder, a socket
            raise InputError(f'{path}: is no regular file, expected the lock file of a run') from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f'{path}: is no regular file, expected the lock file of a run')
    return descriptor, False


def _this_process() -> Dict[str, Any]:
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user without a name; before Python 3.13 no module pwd
        user = str(os.getuid()) if hasattr(os, 'getuid') else 'somebody'
    return {'owner': user, 'host': socket.gethostname(), 'pid': os.getpid(),
            'since': time.strftime('%Y-%m-%d %H:%M:%S')}


def _owner(descriptor: int) -> Dict[str, Any]:
    """Who holds the file, as it says; {} when it says nothing that can be read."""
    try:
        values = safe_json.loads(_content(descriptor).decode('utf-8'))
    except ValueError:  # InputError, UnicodeDecodeError
        return {}
    return values if isinstance(values, dict) and {'owner', 'host', 'pid', 'since'} <= set(values) else {}


def _is_ours(descriptor: int) -> bool:
    """Whether the file is empty or begins as a lock does, of which a full disk may have left a part."""
    begins = b'{"owner"'
    return _content(descriptor)[:len(begins)] == begins[:len(_content(descriptor))]


def _content(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 4096)


def _is_stale(owner: Dict[str, Any], supported: bool) -> bool:
    """Whether a lock that this process could take, or that nothing can tell, is of a run that has ended."""
    if owner['host'] != socket.gethostname():
        return False
    return supported or not (isinstance(owner['pid'], int) and os.path.exists(f'/proc/{owner["pid"]}'))


def _in_use(path: Path, owner: Dict[str, Any]) -> str:
    said = {key: shown(str(value)) for key, value in owner.items()}
    by = '{owner} on {host}, process {pid}, since {since}'.format(**said) if owner else 'another process'
    return f'{path.parent}: is in use by {by}; expected another -output_dir, or the end of that run'
