# SPDX-License-Identifier: Apache-2.0
"""Lines of text files, and file names in them and on the screen: one line each, whatever bytes a name is made of."""
from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import unicodedata
from typing import Any, Iterator, Sequence, Tuple

from CaiT.errors import InputError
from CaiT.files import PathLike

# Control characters, the two line ends of Unicode, and what os.fsdecode makes of bytes that are not UTF-8.
_ODD = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_NOT_UTF8 = re.compile("[\ud800-\udfff]|^\\$'")  # or could be taken for a quoted path
_QUOTED = re.compile(r"\$'((?:[^'\\]|\\.)*)'")


def quoted(path: PathLike, always: bool = False) -> str:
    """``path`` as one line of valid Unicode: itself nearly always, else as bash would quote it, ``$'caf\\xe9.png'``.

    ``unquoted`` is the inverse. ``always`` quotes a path that could be written as it is.
    """
    path = os.fspath(path)
    if not always and not _ODD.search(path) and not path.startswith("$'"):
        return path
    text = path.replace('\\', '\\\\').replace("'", "\\'")
    return "$'" + _ODD.sub(lambda odd: ''.join(f'\\x{byte:02x}' for byte in _bytes(odd[0])), text) + "'"


def _bytes(character: str) -> bytes:
    try:
        return os.fsencode(character)
    except UnicodeEncodeError:  # half of a pair, as JSON can write it: "\ud800"
        return character.encode('utf-8', 'surrogatepass')


def unquoted(text: str) -> str:
    """The path that ``quoted`` turned into ``text``."""
    match = _QUOTED.fullmatch(text)
    if not match:
        return text
    whole = os.fsencode(match[1])
    return os.fsdecode(re.sub(rb'\\(?:x([0-9a-f]{2})|(.))', lambda m: bytes([int(m[1], 16)]) if m[1] else m[2], whole))


def is_line(text: str) -> bool:
    """Whether ``text`` is one line of valid Unicode, which does not steer a terminal; it may hold tabs."""
    return not _ODD.search(text.replace('\t', ' '))


def json_line(value: Any) -> str:
    """JSON as one line for every reader: control characters, Unicode's line ends and bytes other than UTF-8 escaped."""
    return _ODD.sub(lambda odd: f'\\u{ord(odd[0]):04x}', json.dumps(value, ensure_ascii=False)) + '\n'


def csv_line(values: Sequence[Any]) -> str:
    """A row of a CSV file in UTF-8. Text that UTF-8 cannot hold is written as ``quoted`` does; see ``unquoted``."""
    row = [quoted(value) if isinstance(value, str) and _NOT_UTF8.search(value) else value for value in values]
    line = io.StringIO()
    csv.writer(line, lineterminator='\r\n').writerow(row)  # puts quotes around a value with either of its line end
    return line.getvalue()[:-2] + '\n'


def display_width(text: str) -> int:
    """Columns that a text takes on a terminal: two for wide characters (Chinese, emoji), none for combining marks."""
    return sum(0 if unicodedata.combining(one) or unicodedata.category(one) in ('Cf', 'Me') else
               2 if unicodedata.east_asian_width(one) in 'WF' else 1 for one in text)


def padded(text: str, width: int) -> str:
    """``text`` with blanks up to ``width`` columns of a terminal."""
    return text + ' ' * (width - display_width(text))


def read_lines(path: PathLike) -> Iterator[Tuple[int, str]]:
    """(line number from 1, line without the blanks around it) of the lines of a UTF-8 text that hold something."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f'{quoted(path)}: is no regular file, expected a text file')
        with open(path, encoding='utf-8-sig') as file:
            for number, line in enumerate(file, 1):
                if line.strip(' \t\n'):
                    yield number, line.strip(' \t\n')
    except FileNotFoundError:
        raise InputError(f'{quoted(path)}: no such file') from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{quoted(path)}: cannot be read as UTF-8 text ({error})') from None
