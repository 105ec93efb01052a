# SPDX-License-Identifier: Apache-2.0
"""Atomic output: written to a temporary file or folder, then renamed."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any, Iterator, Union

PathLike = Union[str, 'os.PathLike[str]']


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = 'w') -> Iterator[IO]:
    """Open a temporary file in the folder of ``path`` and rename it to ``path`` when the block succeeds.

    When the block raises, the temporary file is removed and ``path`` is unchanged. Text is UTF-8 without newline
    conversion. The data is synced to disk before the rename, so a power failure leaves the old file or the new one,
    never an incomplete one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
    os.close(handle)
    text = {} if 'b' in mode else {'encoding': 'utf-8', 'newline': ''}
    try:
        with open(temporary, mode, **text) as file:  # by name: the block may read file.name before the rename
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp creates files with mode 0600, unreadable for other users
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename = str(path)  # a full disk, for one: write() does not say which file it was
        raise


def write_json(path: PathLike, value: Any) -> None:
    """Write a value as JSON with one item per line."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=1)
        file.write('\n')


@contextlib.contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """A temporary folder beside ``path`` whose files are moved into ``path`` when the block succeeds.

    Files of the same names in ``path`` are replaced, others stay. When the block raises, nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent))
    try:
        yield temporary
        path.mkdir(exist_ok=True)
        for file in sorted(temporary.iterdir()):
            os.replace(file, path / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
