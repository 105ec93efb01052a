# SPDX-License-Identifier: Apache-2.0
"""Images in WebDataset tars: ``key.jpg``, ``key.cls`` or ``key.json`` one after the other, read by position.

The key of a member is its path up to the first dot of its name. The image is the member whose extension is that of an
image; the label is the number in ``.cls``, else ``label`` in ``.json``.
"""
from __future__ import annotations

import itertools
import os
import re
import tarfile
from array import array
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from CaiT import safe_json
from CaiT.data.decode import ImageBytes
from CaiT.data.folders import is_hidden
from CaiT.data.formats import IMAGE_EXTENSIONS, format_of
from CaiT.data.shard_index import Scan
from CaiT.data.text import quoted
from CaiT.errors import InputError, shown

BLOCK = 512            # a tar is made of blocks of this size
WINDOW = 4096          # bytes read at once while scanning: a label and the next header are mostly within it
MAX_PADDING = 1 << 20  # zeros after the last member
MAX_TEXT = 1 << 20     # bytes of a label, a JSON file or an extended header
_COMPRESSED = {b'\x1f\x8b': 'gzip', b'BZ': 'bzip2', b'\xfd7': 'xz', b'(\xb5': 'zstd'}
_LONG_NAME, _PAX = b'L', b'x'
_DIGITS, _CHECKSUM = re.compile(rb'([0-7]{11})[\0 ]'), re.compile(rb'([0-7]{6})\0 ')

Read = Callable[[int, int], bytes]  # (position, number of bytes) -> at most that many bytes


class Member(NamedTuple):
    """A file in a tar: its headers begin at ``start``, its ``size`` bytes at ``data``."""
    name: str
    start: int
    data: int
    size: int


class TarShards:
    """Reading of tars. An entry of the index is (start of the image's headers, bytes from there to its end)."""

    extension = '.tar'

    def __init__(self) -> None:
        self._files: Dict[str, int] = {}  # open file descriptors; pread shares them among processes
        self._max_open = _max_open()

    def scan(self, path: str) -> Scan:
        """The images of a shard, in order; samples without an image are left out and counted.

        Raises InputError naming the shard when it is damaged or truncated, or its members are not as above.
        """
        starts, lengths, labels, left_out = array('q'), array('q'), array('q'), 0
        descriptor = os.open(path, os.O_RDONLY)
        try:
            read = _Window(descriptor)
            files = (one for one in members(read, os.fstat(descriptor).st_size) if _is_data(one.name))
            for key, group in itertools.groupby(files, lambda member: _key(member.name)):
                sample = _sample(key, list(group), read)
                if not sample:
                    left_out += 1
                    continue
                image, label = sample
                starts.append(image.start)
                lengths.append(image.data + image.size - image.start)
                labels.append(label)
        except InputError as error:
            raise InputError(f'{quoted(path)}: {error}') from None
        finally:
            os.close(descriptor)
        return Scan(np.asarray(starts, np.int64), np.asarray(lengths, np.int64), np.asarray(labels, np.int64), [],
                    left_out)

    def read(self, path: str, start: int, length: int) -> ImageBytes:
        """The image at an entry of the index."""
        descriptor = self._files.get(path)
        try:
            is_kept = descriptor is not None
            if not is_kept:
                descriptor = os.open(path, os.O_RDONLY)
                if len(self._files) < self._max_open:
                    is_kept = self._files.setdefault(path, descriptor) == descriptor
            content = os.pread(descriptor, length, start)
            if not is_kept:
                os.close(descriptor)
        except OSError as error:
            raise InputError(f'{quoted(path)}: cannot be read ({error.strerror})') from None
        try:
            member = next(members(lambda position, size: content[position:position + size], len(content)))
        except (InputError, StopIteration):
            member = None
        if member is None or member.data + member.size != length:
            raise InputError(f'{quoted(path)}: holds no image at byte {start}, as its index says: was the file changed '
                             'after the start of this run?')
        return ImageBytes(f'{path}#{member.name}', content[member.data:])

    def __del__(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)

    def __getstate__(self) -> Dict[str, int]:
        return {}

    def __setstate__(self, state: Dict[str, int]) -> None:
        self.__init__()


class _Window:
    """Reads a file at positions, a few kB at a time."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.start, self.content = descriptor, 0, b''

    def __call__(self, position: int, size: int) -> bytes:
        begin = position - self.start
        if begin < 0 or begin + size > len(self.content):
            self.start, self.content, begin = position, os.pread(self.descriptor, max(size, WINDOW), position), 0
        return self.content[begin:begin + size]


def members(read: Read, end: int) -> Iterator[Member]:
    """The regular files of a tar of ``end`` bytes; names may be longer than a header holds (GNU and pax)."""
    position, start, long_name = 0, None, None
    while position < end:
        block = read(position, BLOCK)
        start = position if start is None else start
        if not any(block) and len(block) == BLOCK:
            _check_end(read, position, end)
            return
        data = position + BLOCK
        plain = _plain_file(block) if long_name is None else None
        if plain:
            name, size = plain
            if data + size > end:
                raise InputError(_too_short(name, position, data + size - end))
            yield Member(name, start, data, size)
            start, position = None, data + -(-size // BLOCK) * BLOCK
            continue
        try:
            info = tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')
        except tarfile.HeaderError:
            raise InputError(_no_header(read, position, end)) from None
        if info.size < 0:  # which the format can write; reading would go back, and for ever
            raise InputError(f'damaged: {shown(info.name)} at byte {position} has a size below 0')
        has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES or info.type in (_LONG_NAME, _PAX, b'g')
        size = info.size if has_data else 0
        if data + size > end:
            raise InputError(_too_short(info.name, position, data + size - end))
        if info.type in (_LONG_NAME, _PAX):
            text = _text(read, Member(info.name, position, data, size))
            found = text.rstrip(b'\0') if info.type == _LONG_NAME else _pax_path(text, position)
            long_name = found.decode('utf-8', 'surrogateescape') if found is not None else long_name
        else:
            if info.isreg():
                yield Member(long_name or info.name, start, data, size)
            start = long_name = None
        position = data + -(-size // BLOCK) * BLOCK
    raise InputError(f'truncated: ends at byte {end} without the zeros after the last member (if it is complete: '
                     'head -c 1024 /dev/zero >> the file)')


def _plain_file(block: bytes) -> Optional[Tuple[str, int]]:
    """(name, size) from the header of a regular file with a name of at most 100 bytes, which nearly all members are;
    None for anything else. Five times as fast as tarfile, which has the last word on what this does not know."""
    if len(block) < BLOCK or block[156:157] != b'0' or block[257:262] != b'ustar' or block[345:346] != b'\0':
        return None
    digits, checksum = _DIGITS.fullmatch(block, 124, 136), _CHECKSUM.fullmatch(block, 148, 156)
    if not digits or not checksum or int(checksum[1], 8) != sum(block) - sum(block[148:156]) + 8 * ord(' '):
        return None
    return block[:100].split(b'\0', 1)[0].decode('utf-8', 'surrogateescape'), int(digits[1], 8)


def _too_short(name: str, position: int, missing: int) -> str:
    return f'truncated: {shown(name)} at byte {position} needs {missing} bytes more'


def _check_end(read: Read, position: int, end: int) -> None:
    """Only a few zeros may follow: a hole in a download reads as zeros too."""
    rest = read(position, min(end - position, MAX_PADDING + 1))
    if len(rest) > MAX_PADDING or any(rest):
        raise InputError(f'damaged: {end - position} bytes follow the zeros at byte {position}, expected its end there')


def _no_header(read: Read, position: int, end: int) -> str:
    if position == 0:
        kind = _COMPRESSED.get(read(0, 2))
        return f'is compressed ({kind}), expected a plain tar' if kind else 'is no tar, or damaged at its first byte'
    if end - position < BLOCK:
        return f'truncated: ends at byte {end} within a header'
    return f'damaged: no header of a member at byte {position}'


def _pax_path(text: bytes, position: int) -> Optional[bytes]:
    """The path of an extended header, None without one; of its other records only the size matters, and is refused."""
    path = None
    while text:
        length, _, _ = text.partition(b' ')
        if not length.isdigit() or len(length) > 9 or not 0 < int(length) <= len(text):
            raise InputError(f'damaged: extended header at byte {position}')
        key, _, value = text[len(length) + 1:int(length) - 1].partition(b'=')
        if key == b'path':
            path = value
        elif key == b'size' or key.startswith(b'GNU.sparse'):
            raise InputError(f'extended header at byte {position}: found {key.decode("utf-8", "replace")}, expected '
                             'members of less than 8 GB that are not sparse')
        text = text[int(length):]
    return path


def _is_data(name: str) -> bool:
    base = os.path.basename(name)
    return not is_hidden(base) and not (base.startswith('__') and base.endswith('__'))


def _key(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, base.split('.', 1)[0])


def _sample(key: str, group: List[Member], read: Read) -> Optional[Tuple[Member, int]]:
    """(image, label) of the members with one key; None when they have nothing to do with an image."""
    fields: Dict[str, Member] = {}
    for member in group:
        extension = os.path.basename(member.name)[len(os.path.basename(key)):].lower()
        if extension in fields:
            raise InputError(f'sample {shown(key)}: found {extension} twice')
        fields[extension] = member
    images = [field for field in fields if field in IMAGE_EXTENSIONS]
    if len(images) == 1:
        return fields[images[0]], _label(key, fields, read)
    if images or '.cls' in fields or any(map(format_of, fields)):
        raise InputError(f'sample {shown(key)}: found {", ".join(fields)}, expected one image (.jpg, .png, …; the name '
                         'of a sample ends at its first dot)')
    return None


def _label(key: str, fields: Dict[str, Member], read: Read) -> int:
    if '.cls' in fields:
        text = _text(read, fields['.cls'])
        word = text.strip().decode('utf-8', 'replace')
        if not (word.isascii() and word.isdigit() and len(word) <= 9):
            raise InputError(f'sample {shown(key)}: .cls: found {shown(word)!r}, expected a class id')
        return int(word)
    if '.json' in fields:
        try:
            values = safe_json.loads(_text(read, fields['.json']).decode('utf-8'))
        except ValueError as error:  # UnicodeDecodeError is one
            raise InputError(f'sample {shown(key)}: .json: {error}') from None
        label = values.get('label') if isinstance(values, dict) else None
        if label is not None and (type(label) is not int or not 0 <= label < 10**9):
            raise InputError(f'sample {shown(key)}: .json: label: found {shown(repr(label))}, expected a class id')
        return -1 if label is None else label
    return -1


def _text(read: Read, member: Member) -> bytes:
    if member.size > MAX_TEXT:
        raise InputError(f'{shown(member.name)}: found {member.size} bytes, expected at most {MAX_TEXT}')
    return read(member.data, member.size)


def _max_open() -> int:
    """How many shards may stay open: half of the process's limit of open files."""
    try:
        import resource
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, ValueError):
        return 256
    return 4096 if limit < 0 else min(4096, limit // 2)
