# SPDX-License-Identifier: Apache-2.0
"""The folder where downloaded weights live, and what must be true of a file before it stands there.

A file stands under its final name only after its length, its content and its hash have been checked; what is being
loaded stands beside it as ``.part``, and ``.json`` beside it says which hash it had and how that was checked.
"""
from __future__ import annotations

import contextlib
import os
import re
import zipfile
from pathlib import Path
from typing import Iterator, Optional

from CaiT import files, safe_json
from CaiT.errors import InputError, shown
from CaiT.weights.download import Say, download, forget
from CaiT.weights.readers import read_checkpoint
from CaiT.weights.zoo import TRANSCRIBED, Entry, download_url

OLD_TORCH = b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'


def cache_folder() -> Path:
    """Where downloaded weights live: $CAIT_HOME/weights, else $XDG_CACHE_HOME/cait/weights, else ~/.cache/cait/weights.
    """
    return files.cache_folder('weights')


def fetch(entry: Entry, sha256: Optional[str] = None, say: Say = print) -> Path:
    """The file of ``entry`` in the cache folder, downloaded unless it is there, checked either way.

    ``sha256`` (64 hex digits) replaces what the table has. Where nothing is published, the hash of the first download
    is written beside the file and compared ever after; ``say`` gets the lines that tell so. One process downloads,
    others wait for it. With CAIT_OFFLINE=1 nothing is asked of the network. InputError, one line, when the file cannot
    be had or is not what it should be; then nothing stands under its name that did not before.
    """
    if sha256 and not re.fullmatch('[0-9a-fA-F]{64}', sha256):
        raise InputError(f'sha256: found {sha256!r}, expected 64 hex digits')
    target = cache_folder() / entry.filename
    with _os_errors(target):
        if target.is_file():
            _check_cached(entry, target, sha256, say)
            return target
        if os.environ.get('CAIT_OFFLINE', '').lower() not in ('', '0', 'false', 'no'):
            raise InputError(f'{entry.key}: is not in the cache as {target}, and CAIT_OFFLINE forbids to download it; '
                             f'put {entry.url} there or unset CAIT_OFFLINE')
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target, say):
            if target.is_file():  # another process was faster
                _check_cached(entry, target, sha256, say)
                return target
            part = Path(f'{target}.part')
            url = download_url(entry)
            download(url, part, say)
            try:
                _check_content(part, url)
                digest = files.sha256(part)
                said = _check_hash(entry, digest, url, sha256)
            except InputError:
                forget(part)
                raise
            _write_sidecar(target, digest, url, said)
            os.replace(part, target)
            forget(part)
            say(f'zoo: {target} ({target.stat().st_size:,} bytes): {said}')
    return target


def _check_hash(entry: Entry, digest: str, url: str, sha256: Optional[str]) -> str:
    """How ``digest`` was checked, in words; InputError when it is not the expected one."""
    expected, whose = (sha256.lower(), 'as was asked for') if sha256 else (entry.sha256, 'as published')
    if not expected:
        return f'sha256 {digest} recorded at first use: nothing is published to compare it with, later uses are'
    if digest.startswith(expected):
        if not sha256 and entry.hash_status == TRANSCRIBED:
            return 'sha256 equals the transcription in the table, which is confirmed by that'
        return f'sha256 {"begins with" if len(expected) < 64 else "is"} {expected}, {whose}'
    if not sha256 and entry.hash_status == TRANSCRIBED:
        raise InputError(
            f'{url}: sha256 is {digest}, the table has {expected}, a transcription that nobody has confirmed: either '
            f'may be wrong and nothing was kept; compare with the page of the file at its publisher, and if that shows '
            f'the first one, run python -m CaiT.tools.weights get {entry.key} --sha256 {digest} and report it')
    found = digest[:len(expected)] if len(expected) < 64 else digest
    raise InputError(f'{url}: sha256 {"begins with" if len(expected) < 64 else "is"} {found}, expected {expected} '
                     f'{whose}; nothing was kept')


def _check_cached(entry: Entry, target: Path, sha256: Optional[str], say: Say) -> None:
    """A file in the cache against the hash of its first use, else (put there by hand) as if downloaded just now."""
    sidecar, digest = _sidecar(target), files.sha256(target)
    if sha256 or not sidecar.is_file():
        _check_content(target, str(target))
        said = _check_hash(entry, digest, str(target), sha256)
        _write_sidecar(target, digest, entry.url, said)
        say(f'zoo: {target}: {said}')
        return
    try:
        recorded = safe_json.load_json(sidecar)['sha256']
    except (InputError, KeyError, TypeError):
        raise InputError(f'{sidecar}: holds no record of a hash, expected {{"sha256": …}}; delete it') from None
    if recorded != digest:
        raise InputError(f'{target}: sha256 is {digest}, expected {shown(recorded)} as {sidecar.name} recorded at '
                         'first use: the file has changed since; delete both to download it again')


def _sidecar(target: Path) -> Path:
    return Path(f'{target}.json')


def _write_sidecar(target: Path, digest: str, url: str, said: str) -> None:
    files.write_json(_sidecar(target), dict(sha256=digest, url=url, checked=said))


def _check_content(path: Path, url: str) -> None:
    """InputError unless the file is a whole weight file: every array is read by the safe readers; of PyTorch's files,
    which PyTorch alone can read, the sums of the zip archive are compared."""
    with open(path, 'rb') as file:
        head = file.read(64)
    try:
        if head.startswith(b'PK\x03\x04'):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
                if damaged:
                    raise InputError(f'{path}: damaged zip archive ({damaged})')
                if any(name.endswith('/data.pkl') for name in archive.namelist()):
                    return
        if not head.startswith(OLD_TORCH):
            read_checkpoint(path)
    except InputError as error:
        raise InputError(f'{url}: what arrived is no whole weight file: '
                         f'{str(error)[len(str(path)) + 2:]}; nothing was kept') from None
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise InputError(f'{url}: what arrived is no whole weight file: damaged zip archive ({error}); nothing was '
                         'kept') from None


@contextlib.contextmanager
def _lock(target: Path, say: Say) -> Iterator[None]:
    """One process at a time. The lock file stays; the system frees the lock of a process that dies."""
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise InputError('downloading weights needs the package filelock: pip install filelock') from None
    lock = FileLock(f'{target}.lock')
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f'zoo: another process is downloading {target.name}, waiting for it')
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _os_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f'{error.filename or target}: {error.strerror or error}') from None
