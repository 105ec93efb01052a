# SPDX-License-Identifier: Apache-2.0
"""Atomic output."""
from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize('kind', ['folder', 'FIFO', 'socket', 'device', 'link to a device', 'link to a folder'])
def test_only_a_file_is_replaced(tmp_path, kind):
    """A rename would put a file into the place of a FIFO or, as root, of /dev/null."""
    path, other = tmp_path / 'a.json', tmp_path / 'other'
    make = {'folder': os.mkdir, 'FIFO': os.mkfifo, 'socket': lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
            'device': lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3)),
            'link to a device': lambda path: path.symlink_to('/dev/null'),
            'link to a folder': lambda path: (other.mkdir(), path.symlink_to(other))}[kind]
    try:
        make(path)
    except PermissionError:
        pytest.skip('only root makes devices')
    before = os.lstat(path)
    with pytest.raises(InputError) as caught:
        write_json(path, {})
    assert str(caught.value) == f'{path}: is no regular file'
    assert os.path.samestat(os.lstat(path), before) and sorted(os.listdir(tmp_path)) == sorted(
        ['a.json', 'other'] if kind == 'link to a folder' else ['a.json'])


@pytest.mark.parametrize('name, message', [
    ('/proc/1/a.json', '/proc/1/a.json: cannot be written'), ('/proc/1/new/a.json', '/proc/1/new: cannot be made'),
    ('a.json', 'a.json: cannot be written'), ('new/a.json', 'new: cannot be made')])
def test_a_folder_in_which_there_can_be_no_file(tmp_path, monkeypatch, name, message):
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    (tmp_path / 'here').rmdir()
    with pytest.raises(InputError) as caught:
        write_json(name, {})
    assert str(caught.value) == f'{message}: No such file or directory'


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


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from CaiT.files import atomic_write
with atomic_write(sys.argv[2]) as file:
    file.write('half')
    file.flush()
    print('writing', flush=True)
    sys.stdin.read()
"""


def writing(path):
    """A process in the middle of writing ``path``."""
    process = subprocess.Popen([sys.executable, '-c', WRITER, Path(__file__).resolve().parents[1], path],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'writing\n'
    return process


@pytest.mark.parametrize('name', ['a.txt', 'a[0-9]*.txt', 'ü' * 125 + '.txt'], ids=['plain', 'pattern', 'long'])
def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_not_disturbed(tmp_path, name):
    other = tmp_path / f'.{name}.notes.tmp' if len(name) < 99 else tmp_path / 'notes'  # the user's
    other.write_text('mine')
    killed = writing(tmp_path / name)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(os.listdir(tmp_path)) == 2
    living = writing(tmp_path / name)
    assert len(os.listdir(tmp_path)) == 2
    with atomic_write(tmp_path / name) as file:
        file.write('mine')
        assert len(os.listdir(tmp_path)) == 3
    living.communicate('')
    assert living.returncode == 0 and (tmp_path / name).read_text() == 'half'
    assert sorted(os.listdir(tmp_path)) == sorted([name, other.name]) and other.read_text() == 'mine'


@pytest.mark.parametrize('length', [255, 210, 196])
def test_a_name_of_any_length_can_be_written(tmp_path, length):
    with atomic_write(tmp_path / ('n' * length)) as file:
        file.write('x')
    assert os.listdir(tmp_path) == ['n' * length]


@pytest.mark.parametrize('name', ['n' * 256, 'a.txt/b.txt/c.txt'])
def test_an_error_names_the_file_and_not_its_temporary_one(tmp_path, name):
    (tmp_path / 'a.txt').write_text('before')
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / name) as file:
        file.write('x')
    assert str(tmp_path / 'a.txt') in caught.value.filename or caught.value.filename == str(tmp_path / name)
    assert os.listdir(tmp_path) == ['a.txt']
