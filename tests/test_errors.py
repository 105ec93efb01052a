# SPDX-License-Identifier: Apache-2.0
"""Exit of the scripts: one line and a status for the user's errors, a traceback for bugs."""
from __future__ import annotations

import subprocess
import sys

import pytest

from CaiT.errors import InputError, run


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
