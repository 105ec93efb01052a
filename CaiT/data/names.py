# SPDX-License-Identifier: Apache-2.0
"""File names in text files and on the screen: one line each, whatever bytes a name is made of."""
from __future__ import annotations

import os
import re
from typing import Union

PathLike = Union[str, 'os.PathLike[str]']

# Control characters, the two line ends of Unicode, and what os.fsdecode makes of bytes that are not UTF-8.
_ODD = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_QUOTED = re.compile(r"\$'((?:[^'\\]|\\.)*)'")


def quoted(path: PathLike) -> str:
    """``path`` as one line of valid Unicode: itself nearly always, else as bash would quote it, ``$'caf\\xe9.png'``.

    ``unquoted`` is the inverse.
    """
    path = os.fspath(path)
    if not _ODD.search(path) and not path.startswith("$'"):
        return path
    text = path.replace('\\', '\\\\').replace("'", "\\'")
    return "$'" + _ODD.sub(lambda odd: ''.join(f'\\x{byte:02x}' for byte in os.fsencode(odd[0])), text) + "'"


def unquoted(text: str) -> str:
    """The path that ``quoted`` turned into ``text``."""
    match = _QUOTED.fullmatch(text)
    if not match:
        return text
    whole = os.fsencode(match[1])
    return os.fsdecode(re.sub(rb'\\(?:x([0-9a-f]{2})|(.))', lambda m: bytes([int(m[1], 16)]) if m[1] else m[2], whole))


def is_utf8(path: str) -> bool:
    """Whether the bytes of a file name are UTF-8."""
    return not any('\ud800' <= letter <= '\udfff' for letter in path)
