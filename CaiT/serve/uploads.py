# SPDX-License-Identifier: Apache-2.0
"""The image of a request: the body itself, or the one file of a multipart form."""
from __future__ import annotations

import re
from typing import List

from python_multipart.multipart import MultipartParser, parse_options_header

from CaiT.errors import InputError

MAX_PARTS = 16


def image_bytes(content_type: str, body: bytes) -> bytes:
    """The encoded image of a body; InputError when there is none or more than one."""
    if not body:
        raise InputError('body: found no bytes, expected an image')
    kind, options = parse_options_header(content_type.encode('latin-1', 'replace'))
    if kind != b'multipart/form-data':
        return body
    if not options.get(b'boundary'):
        raise InputError('content-type: found multipart/form-data without a boundary')
    files = _Form(options[b'boundary'], body).files
    if len(files) != 1:
        raise InputError(f'form: found {len(files)} files, expected one image')
    return files[0]


class _Form:
    """The contents of the files of a multipart form."""

    def __init__(self, boundary: bytes, body: bytes) -> None:
        self.files: List[bytes] = []
        self.parts, self.is_whole = 0, False
        parser = MultipartParser(boundary, {
            'on_part_begin': self._begin, 'on_header_field': self._field, 'on_header_value': self._value,
            'on_header_end': self._header, 'on_part_data': self._data, 'on_part_end': self._end,
            'on_end': self._whole})
        try:
            parser.write(body)
            parser.finalize()
        except InputError:
            raise
        except Exception as error:  # of the parser, which has one class for each fault
            raise InputError(f'form: not multipart/form-data ({" ".join(str(error).split())[:80]})') from None
        if not self.is_whole:
            raise InputError('form: ends before its last boundary')

    def _begin(self) -> None:
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise InputError(f'form: found more than {MAX_PARTS} parts')
        self.field, self.value, self.is_file = b'', b'', False
        self.content = bytearray()

    def _field(self, data: bytes, start: int, end: int) -> None:
        self.field += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def _header(self) -> None:
        if self.field.lower() == b'content-disposition':
            self.is_file = bool(re.search(rb';\s*filename\*?=', self.value, re.I))
        self.field = self.value = b''

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.content += data[start:end]

    def _end(self) -> None:
        if self.is_file:
            self.files.append(bytes(self.content))

    def _whole(self) -> None:
        self.is_whole = True
