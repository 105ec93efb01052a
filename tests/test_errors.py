# SPDX-License-Identifier: Apache-2.0
"""Exit of the scripts: one line and a status for the user's errors, a traceback for bugs."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import CaiT
from CaiT.errors import InputError, NonFiniteError, WorkerError, run


def status_of(main) -> object:
    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code


def fail(error):
    raise error


def test_return_value_is_the_status():
    assert status_of(lambda: None) is None and status_of(lambda: 0) == 0 and status_of(lambda: 1) == 1


def test_input_error_is_one_line(capsys):
    assert status_of(lambda: fail(InputError('a.yaml: found 1,\nexpected 2'))) == 2
    assert capsys.readouterr().err == 'error: a.yaml: found 1, expected 2\n'


@pytest.mark.parametrize('found, printed', [
    ('a\x1b[2J\r', '\\x1b[2J\\r'), ('a\u2028\u202eb', '\\u2028\\u202eb'), ('a\x85\udcff\x00', '\\x85\\udcff\\x00'),
    ('aé 中', 'é 中')])
def test_a_name_in_an_error_does_not_steer_the_terminal(found, printed, capsys):
    assert status_of(lambda: fail(InputError(found))) == 2
    assert capsys.readouterr().err == f'error: a{printed}\n'


@pytest.mark.parametrize('error', [InputError, NonFiniteError, WorkerError])
def test_errors_of_training_are_one_line_too(error, capsys):
    assert status_of(lambda: fail(error('a'))) == 2
    assert capsys.readouterr().err == 'error: a\n'
    assert getattr(CaiT, error.__name__) is error


def test_what_library_users_catch():
    assert issubclass(InputError, ValueError) and issubclass(NonFiniteError, ArithmeticError)
    assert issubclass(WorkerError, RuntimeError) and not issubclass(NonFiniteError, InputError)


@pytest.mark.parametrize('make, message', [
    (lambda path: path.symlink_to(path), 'Too many levels of symbolic links'),
    (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), 'No such device or address')])
def test_an_output_that_is_a_loop_or_a_socket_is_one_line(tmp_path, capsys, make, message):
    make(tmp_path / 'a')
    assert status_of(lambda: open(tmp_path / 'a', 'w')) == 2
    assert capsys.readouterr().err == f'error: {tmp_path}/a: {message}\n'


@pytest.mark.parametrize('name', ['/dev/full', '{}/missing/a', '{}/file/a', '{}'],
                         ids=['full', 'missing', 'file', 'folder'])
def test_output_that_cannot_be_written_is_one_line(tmp_path, capsys, name):
    """A missing folder is the exception: it may be a mistake of ours."""
    (tmp_path / 'file').touch()
    name = name.format(tmp_path)

    def write():
        with open(name, 'w') as file:
            file.write('a' * 100)

    if 'missing' in name:
        with pytest.raises(FileNotFoundError):
            run(write)
        return
    assert status_of(write) == 2
    found = {'/dev/full': 'output: No space left on device', f'{tmp_path}': f'{tmp_path}: Is a directory'}
    assert capsys.readouterr().err == f'error: {found.get(name, name + ": Not a directory")}\n'


def test_interruption_with_a_reason(capsys):
    assert status_of(lambda: fail(KeyboardInterrupt('stopped at step 3'))) == 130
    assert capsys.readouterr().err == 'interrupted stopped at step 3\n'


@pytest.mark.parametrize('close', ['>&-', '<&- >&- 2>&-', '2>&-'])
def test_what_is_printed_never_lands_in_a_file(tmp_path, close):
    """A closed descriptor's number is given to the next file that is opened."""
    code = ('import os, sys\n'
            'from CaiT.errors import run\n'
            'def main():\n'
            '    with open(sys.argv[1], "w") as file:\n'
            '        print("printed"), print("printed", file=sys.stderr)\n'
            '        os.write(1, b"raw"), os.write(2, b"raw")\n'
            '        file.write(str(file.fileno() > 2))\n'
            'run(main)\n')
    done = subprocess.run(['bash', '-c', f'"$@" {close}', '-', sys.executable, '-c', code, str(tmp_path / 'file')],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, (tmp_path / 'file').read_text()) == (0, 'True'), done.stderr


@pytest.mark.parametrize('close', ['>/dev/full 2>/dev/full', '>/dev/full 2>&-', '2>/dev/full'])
@pytest.mark.parametrize('raised, status', [('InputError("no")', 2), ('KeyboardInterrupt', 130),
                                            ('OSError(28, "full")', 2)])
def test_an_error_that_nobody_can_read_keeps_its_status(close, raised, status):
    code = f'from CaiT.errors import InputError, run\ndef main():\n    print("a")\n    raise {raised}\nrun(main)'
    done = subprocess.run(['bash', '-c', f'exec "$@" {close}', 'bash', sys.executable, '-c', code], timeout=30,
                          cwd=Path(__file__).resolve().parents[1], capture_output=True,
                          env={**os.environ, 'PYTHONUNBUFFERED': ''})
    assert done.returncode == status


def test_interruption(capsys):
    assert status_of(lambda: fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == 'interrupted\n'


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_a_closed_pipe_is_no_error():
    """As in `… | head -1`."""
    code = ('from CaiT.errors import run\n'
            'def main():\n'
            '    for i in range(100000): print("line", i)\n'
            'run(main)\n')
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'line 0\n'
    process.stdout.close()
    assert (process.wait(30), process.stderr.read()) == (141, '')
    process.stderr.close()


@pytest.mark.parametrize('raised', ['ImportError("initialization failed") from error', 'InputError("a worker died")',
                                    'OSError(5, "Input/output error")'])
def test_an_interrupt_that_a_library_turns_into_another_error(raised):
    """Ctrl-C while Paddle's library is imported is an ImportError."""
    code = ('import os, signal\nfrom CaiT.errors import InputError, run\n'
            'def main():\n'
            '    try: os.kill(os.getpid(), signal.SIGINT)\n'
            f'    except KeyboardInterrupt as error: raise {raised}\n'
            'run(main)\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=30,
                          cwd=Path(__file__).resolve().parents[1])
    assert (done.returncode, done.stderr) == (130, 'interrupted\n')


SLOW_END = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from CaiT.errors import run

def images():
    try:
        yield
    finally:
        for _ in range(int(sys.argv[2])):
            os.kill(os.getpid(), signal.SIGINT)
        print('put in order')

def main():
    for _ in images():
        os.kill(os.getpid(), signal.SIGINT)

run(main)
"""


@pytest.mark.parametrize('more, out', [(0, 'put in order\n'), (1, ''), (2, '')])
def test_a_second_interrupt_ends_the_process_at_once(more, out):
    ended = subprocess.run([sys.executable, '-c', SLOW_END, Path(__file__).resolve().parents[1], str(more)],
                           capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, out, 'interrupted\n')
