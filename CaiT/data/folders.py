# SPDX-License-Identifier: Apache-2.0
"""The image files below a folder, each once, and a count of what was left out."""
from __future__ import annotations

import collections
import os
from typing import Callable, Counter, List, Set, Tuple

from CaiT.data.formats import NEEDS, format_of, is_supported
from CaiT.data.text import quoted
from CaiT.errors import InputError
from CaiT.files import PathLike

# What operating systems, network drives and archivers leave in folders, beside the names that begin with a dot
# (.ipynb_checkpoints, ._a.png, .DS_Store, .Trashes, …). In lower case.
SYSTEM_NAMES = {'__macosx', '@eadir', '@tmp', '@recycle', '@recently-snapshot', '#recycle', '#snapshot',
                '$recycle.bin', 'recycler', 'system volume information', 'lost+found', 'network trash folder',
                'temporary items', '__pycache__', 'thumbs.db', 'ehthumbs.db', 'desktop.ini', 'icon\r'}
HIDDEN = 'hidden or system name'
NAMED = 3  # hidden names that a line gives as examples


class LeftOut:
    """What a search for images left out: counts by kind, and some of the hidden names."""

    def __init__(self) -> None:
        self.counts: Counter[str] = collections.Counter()
        self.hidden: List[str] = []

    def add(self, kind: str, name: str = '') -> None:
        """Count one; the name of a hidden one may be given as an example."""
        self.counts[kind] += 1
        if kind == HIDDEN and name not in self.hidden and len(self.hidden) < NAMED:
            self.hidden.append(quoted(name))

    def line(self) -> str:
        """'left out: 2 hidden or system names (.DS_Store, @eaDir), 1 .txt', '' when nothing was."""
        parts = []
        for kind, count in sorted(self.counts.items()):
            if kind == HIDDEN:
                parts.insert(0, f'{count} {kind}{"s" if count > 1 else ""} ({", ".join(self.hidden)})')
            else:
                parts.append(f'{count} {kind}')
        return f'left out: {", ".join(parts)}' if parts else ''


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to the system, an editor or an archiver, not to the dataset."""
    return name.startswith('.') or name.lower() in SYSTEM_NAMES


def images_below(folder: PathLike, left_out: LeftOut, regular_only: bool = False) -> List[str]:
    """Paths of the image files below ``folder`` at any depth, sorted; counts in ``left_out`` what is none.

    Links to folders are followed; a folder that is reached twice is searched once, under its own path when it has one
    below ``folder``. A FIFO or device with an image's name is in the list, so that opening it says what it is, unless
    ``regular_only``. InputError when a folder cannot be read.
    """
    return files_below(folder, lambda entry: is_image(entry, left_out, regular_only), left_out)


def files_below(folder: PathLike, is_wanted: Callable[['os.DirEntry[str]'], bool], left_out: LeftOut) -> List[str]:
    """Paths of the files below ``folder`` that are wanted, sorted, as ``images_below`` finds them."""
    found: List[str] = []
    seen: Set[Tuple[int, int]] = set()
    folders, links = [os.fspath(folder)], []
    while folders or links:
        path = folders.pop() if folders else links.pop()
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries(path):
            if is_hidden(entry.name):
                left_out.add(HIDDEN, entry.name)
            elif is_folder(entry):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif is_wanted(entry):
                found.append(entry.path)
        links.sort(reverse=True)
    return sorted(found)


def entries(folder: PathLike) -> List['os.DirEntry[str]']:
    """What a folder holds, by name; InputError when it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f'{quoted(folder)}: cannot be read ({error.strerror})') from None


def is_image(entry: 'os.DirEntry[str]', left_out: LeftOut, regular_only: bool) -> bool:
    """Whether the ending of a file is that of an image that can be read here; else it is counted."""
    image_format = format_of(entry.name)
    if not image_format:
        ending = os.path.splitext(entry.name)[1].lower()
        left_out.add(quoted(ending) if ending else 'without an extension')
    elif not is_supported(image_format):
        left_out.add(f'{os.path.splitext(entry.name)[1].lower()} ({NEEDS[image_format]})')
    elif regular_only and not _holds(entry.is_file):
        left_out.add('no regular file')
    else:
        return True
    return False


def is_folder(entry: 'os.DirEntry[str]') -> bool:
    """Whether it is a folder or a link to one."""
    return _holds(entry.is_dir)


def _holds(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link to itself
        return False
