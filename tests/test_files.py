# SPDX-License-Identifier: Apache-2.0
"""Atomic output."""
from __future__ import annotations

import os
import shutil
import stat

import pytest

from CaiT.errors import InputError
from CaiT.files import atomic_write, write_json


def test_written_atomically(tmp_path):
    with atomic_write(tmp_path / 'new' / 'a.txt') as file:
        file.write('é\r\nb\n')
        assert not (tmp_path / 'new' / 'a.txt').exists()
    assert (tmp_path / 'new' / 'a.txt').read_bytes() == 'é\r\nb\n'.encode()
    with atomic_write(tmp_path / 'b.bin', 'wb') as file:
        file.write(b'\0\n')
    assert (tmp_path / 'b.bin').read_bytes() == b'\0\n'
    assert sorted(os.listdir(tmp_path)) == ['b.bin', 'new'] and os.listdir(tmp_path / 'new') == ['a.txt']


def test_unchanged_after_an_error(tmp_path):
    (tmp_path / 'a.txt').write_text('before')
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), atomic_write(tmp_path / 'a.txt') as file:
            file.write('half')
            raise error
    assert (tmp_path / 'a.txt').read_text() == 'before' and os.listdir(tmp_path) == ['a.txt']


def test_a_folder_removed_meanwhile_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r'run/last\.pdstate: its folder was removed while the file was written$'):
        with atomic_write(tmp_path / 'run' / 'last.pdstate') as file:
            file.write('x')
            shutil.rmtree(tmp_path / 'run')


def test_file_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / 'a.txt') as file:
            file.write('x')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'a.txt').stat().st_mode) == 0o640


def test_json_has_one_item_per_line(tmp_path):
    write_json(tmp_path / 'deep' / 'a.json', {'b': [1, 2.5]})
    assert (tmp_path / 'deep' / 'a.json').read_text() == '{\n "b": [\n  1,\n  2.5\n ]\n}\n'
