# SPDX-License-Identifier: Apache-2.0
"""The folder of an export: written by one process at a time, and never left as a mixture that would load.

New files are made in a temporary folder inside it and then renamed, the metadata last. It names every file with its
checksum: after a kill between two renames, loading says that the files are not of one export.
"""
from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Iterator, List

from CaiT.errors import InputError
from CaiT.files import PathLike, check_regular, try_lock

PREFIX, SUFFIX = '.export.', '.tmp'
SPACE = 1 << 16  # bytes that must be left on the disk: programs that write graphs do not say that it was full


@contextlib.contextmanager
def renamed_into(folder: PathLike, last: str) -> Iterator[Path]:
    """A temporary folder whose files are moved into ``folder`` when the block ends well, the one named ``last`` last.

    When the block raises, ``folder`` is as it was. What killed runs left is removed. InputError when another process
    is at it, or when ``folder`` cannot be written.
    """
    folder = Path(folder)
    made = _make(folder)
    try:
        with locked(folder):
            for left in folder.glob(f'{PREFIX}{"[a-z0-9_]" * 8}{SUFFIX}'):  # as mkdtemp names them
                shutil.rmtree(left, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=folder))
            try:
                yield temporary
                _move(temporary, folder, last)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f'{error.filename or folder}: cannot be written: {error.strerror}') from None
    finally:
        for one in made:
            with contextlib.suppress(OSError):  # not empty: the export is in it
                one.rmdir()


def _make(folder: Path) -> List[Path]:
    """Make ``folder``; what had to be made, the innermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder}: cannot be written: {error.strerror}') from None
    return missing


def _move(temporary: Path, folder: Path, last: str) -> None:
    files = sorted(temporary.iterdir(), key=lambda file: (file.name == last, file.name))
    for file in files:
        if (folder / file.name).is_dir():
            raise InputError(f'{folder / file.name}: found a folder where a file is to be written')
        check_regular(folder / file.name)
        with open(file, 'rb') as written:
            os.fsync(written.fileno())
    for file in files:
        os.replace(file, folder / file.name)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against other exports; the system gives it free when this process ends, however it ends."""
    if os.name == 'nt':  # a folder cannot be opened there
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if try_lock(handle) is False:
            raise InputError(f'{folder}: another export is writing here; wait for it or name another folder')
        yield
    finally:
        os.close(handle)


def check_space(folder: Path) -> None:
    """OSError when the disk of ``folder`` is full."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(SPACE))
        file.flush()
        os.fsync(file.fileno())
