# SPDX-License-Identifier: Apache-2.0
"""One run, one folder: locks, and folders made exclusively."""
from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from CaiT.errors import InputError
from CaiT.training import jobs, meter, run_folder
from CaiT.training.run_folder import LOCK, lock

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from CaiT.training.run_folder import lock
with lock(Path(sys.argv[2])):
    print('locked', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path``."""
    process = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', HOLDER, ROOT, tmp_path], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'locked\n'
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize('job', ['train', 'evaluate', 'predict'])
def test_a_folder_in_use_is_refused_naming_who(config, tmp_path, holder, job):
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        getattr(jobs, job)(config(output_dir=str(tmp_path), resume='auto', pretrained='x'))
    assert re.fullmatch(rf'{tmp_path}: is in use by \w+ on {socket.gethostname()}, process {holder.pid}, since '
                        r'[-\d]+ [:\d]+; expected another -output_dir, or the end of that run', str(caught.value))
    assert sorted(path.name for path in tmp_path.iterdir()) == before == [LOCK]


@pytest.mark.parametrize('modules', [('fcntl', 'pwd'), ('pwd',)])
def test_a_system_without_locks_or_users_like_windows(tmp_path, monkeypatch, modules):
    """The run says who it is and removes the file at its end; what nobody can check is taken over."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    for variable in ('LOGNAME', 'USER', 'LNAME', 'USERNAME'):
        monkeypatch.delenv(variable, raising=False)
    for name in ('O_NOFOLLOW', 'getuid', 'pread', 'pwrite'):
        monkeypatch.delattr(os, name)
    (tmp_path / LOCK).write_text(json.dumps({'owner': 'a', 'host': socket.gethostname(), 'pid': 2**30, 'since': 'b'}))
    with lock(tmp_path):
        found = json.loads((tmp_path / LOCK).read_text())
        assert found['pid'] == os.getpid() and found['owner'] == 'somebody'
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize('missing', [True, False])
def test_peak_memory_where_the_system_does_not_tell_it(monkeypatch, missing):
    if missing:
        monkeypatch.setitem(sys.modules, 'resource', None)
    assert (meter.peak_memory() == 0.0) is missing


def test_what_a_killed_run_left_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / LOCK).read_text())['pid'] == holder.pid
    with lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())['pid'] == os.getpid()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize('made, message', [
    (lambda path, other: path.symlink_to(other), 'is a link, expected the lock file of a run; remove the link'),
    (lambda path, other: path.symlink_to('nowhere'), 'is a link, expected the lock file of a run; remove the link'),
    (lambda path, other: os.link(other, path), 'is not the lock file of a run, expected another -output_dir'),
    (lambda path, other: path.mkdir(), 'is no regular file, expected the lock file of a run'),
    (lambda path, other: socket.socket(socket.AF_UNIX).bind(str(path)),
     'is no regular file, expected the lock file of a run'),
    (lambda path, other: os.mkfifo(path), 'is no regular file, expected the lock file of a run')],
    ids=['link', 'dangling', 'hard link', 'folder', 'socket', 'FIFO'])
def test_a_lock_file_that_is_none_is_not_written_to(tmp_path, made, message):
    (tmp_path / 'notes.txt').write_text('mine')
    made(tmp_path / LOCK, tmp_path / 'notes.txt')
    with pytest.raises(InputError, match=re.escape(f'{tmp_path / LOCK}: {message}')), lock(tmp_path):
        pass
    assert (tmp_path / 'notes.txt').read_text() == 'mine' and os.path.lexists(tmp_path / LOCK)


def test_an_empty_file_that_was_there_stays(tmp_path):
    """Other programs lock with empty files, of this name too."""
    (tmp_path / LOCK).touch()
    before = (tmp_path / LOCK).stat().st_ino
    with lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())['pid'] == os.getpid()
    assert ((tmp_path / LOCK).stat().st_ino, (tmp_path / LOCK).read_bytes()) == (before, b'')


@pytest.mark.parametrize('there', [True, False])
def test_a_lock_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch, there):
    def full(*_):
        raise OSError(28, 'No space left on device')
    if there:
        (tmp_path / LOCK).touch()
    monkeypatch.setattr(run_folder.os, 'write', full)
    with pytest.raises(OSError, match='No space left'), lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == [LOCK] * there and tmp_path.resolve() not in run_folder._held


def test_another_hosts_lock_is_not_taken_over(tmp_path):
    owner = {'owner': 'ann', 'host': 'node-7', 'pid': 12, 'since': '2026-01-02 03:04:05'}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    with pytest.raises(InputError) as caught, lock(tmp_path):
        pass
    assert str(caught.value) == (
        f'{tmp_path}: is in use by ann on node-7, process 12, since 2026-01-02 03:04:05; expected another -output_dir, '
        f'or the end of that run; if that run has ended, delete {tmp_path}/{LOCK}')
    assert json.loads((tmp_path / LOCK).read_text()) == owner


@pytest.mark.parametrize('pid, stale', [(os.getpid(), False), (2**22 + 5, True)], ids=['alive', 'ended'])
def test_without_locks_of_the_file_system_the_process_decides(tmp_path, monkeypatch, pid, stale):
    def unsupported(*_):
        raise OSError(95, 'Operation not supported')

    monkeypatch.setattr('fcntl.lockf', unsupported)
    (tmp_path / LOCK).write_text(json.dumps({'owner': 'a', 'host': socket.gethostname(), 'pid': pid, 'since': 'now'}))
    if stale:
        with lock(tmp_path):
            pass
    else:
        with pytest.raises(InputError, match=f'is in use by a on .*, process {pid}, '), lock(tmp_path):
            pass


def test_one_process_cannot_hold_it_twice(tmp_path):
    with lock(tmp_path):
        with pytest.raises(InputError, match='is in use by another run of this process'), lock(tmp_path / '.' / ''):
            pass
        assert (tmp_path / LOCK).exists()


def test_runs_of_the_same_second_have_folders_of_their_own(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.time, 'strftime', lambda *_: 'train-x')
    made = []
    for _ in range(3):
        with run_folder.open_folder(config(), 'train') as folder:
            (folder / 'file').touch()
            made.append(folder.name)
    assert made == ['train-x', 'train-x-2', 'train-x-3']


@pytest.mark.parametrize('named', [True, False])
def test_a_run_that_is_refused_leaves_no_folder(config, tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    options = {'output_dir': str(tmp_path / 'run')} if named else {}
    with pytest.raises(InputError, match='no such file'):
        jobs.train(config(data_path='/is/not/there', **options))
    assert [path for path in tmp_path.rglob('*') if path.name != 'output'] == []


def test_what_a_killed_run_left_unfinished_is_swept(config, tmp_path):
    left = [f'.{name}.x1y2.tmp' for name in ('curves.png', 'log.jsonl', 'config.yaml', 'best_ema.pdparams', 'run.html')]
    for name in left:
        (tmp_path / name).write_text('half')
    mine = {'.keep.tmp.txt', '.notes.tmp', '.draft.md.tmp'}
    for name in mine:
        (tmp_path / name).write_text('mine')
    (tmp_path / '.folder.tmp').mkdir()
    jobs.train(config(epochs=1, output_dir=str(tmp_path)))
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & set(left) and {*mine, '.folder.tmp'} <= names and LOCK not in names
