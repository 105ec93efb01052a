# SPDX-License-Identifier: Apache-2.0
"""The report of gpu_check, and what it says without a GPU."""
from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from CaiT.errors import InputError
from CaiT.tools import gpu_check, gpu_checks
from CaiT.tools.gpu_check import RESULT, Result, main, run_check, table


def process(monkeypatch, output='', status=0, error=None):
    commands = []

    def run(command, **options):
        commands.append(command)
        if error:
            raise error
        return SimpleNamespace(stdout=output, returncode=status)

    monkeypatch.setattr(gpu_check.subprocess, 'run', run)
    return commands


@pytest.mark.parametrize('output, status, expected', [
    (f'a line\n{RESULT}["passed", "x 1"]\n', 0, ('passed', 'x 1')),
    (f'{RESULT}["not possible here", "no GPU"]\nlater', 0, ('not possible here', 'no GPU')),
    (f'{RESULT}["passed", "x"]\n', -11, ('failed', f'status -11: {RESULT}["passed", "x"]')),
    ('Traceback\nValueError: b\nend\n', 1, ('failed', 'status 1: ValueError: b')),
    ('', 0, ('failed', 'status 0: no output'))])
def test_a_check_is_a_process(monkeypatch, output, status, expected):
    commands = process(monkeypatch, output, status)
    found = run_check('amp O1 float16')
    assert (found.status, found.detail) == expected and commands[0][-2:] == ['--run', 'amp O1 float16']


def test_a_check_that_hangs(monkeypatch):
    process(monkeypatch, error=subprocess.TimeoutExpired('x', 240))
    assert run_check('throughput')[1:3] == ('failed', 'no result within 240 s')


@pytest.mark.parametrize('statuses, status, counted', [
    (['passed', 'passed, simulated', 'not possible here'], 0,
     'passed: 1, passed, simulated: 1, failed: 0, not possible here: 1'),
    (['passed', 'failed', 'failed'], 1, 'passed: 1, passed, simulated: 0, failed: 2, not possible here: 0')])
def test_the_file_and_the_status(monkeypatch, tmp_path, capsys, statuses, status, counted):
    given = iter(statuses)
    monkeypatch.setattr(gpu_check, 'run_check', lambda name: Result(name, next(given), 'one\ntwo', 1.6))
    path = tmp_path / 'report.txt'
    assert main(['--only', 'inference fp', 'TensorRT', '--output', str(path)]) == status
    lines = path.read_text().splitlines()
    assert lines[-1] == counted and lines[1].split()[0] == 'inference' and lines[2].strip() == 'two'
    assert f'written to {path}; please attach it to an issue' in capsys.readouterr().out


def test_a_word_without_a_check(tmp_path):
    with pytest.raises(InputError, match='^--only: found amps, expected a part of installation, logits float32, '):
        main(['--only', 'amps', '--output', str(tmp_path / 'x')])


@pytest.mark.parametrize('name', ['installation', 'two processes', 'inference fp32', 'inference fp16',
                                  'inference TensorRT fp16', 'throughput', 'throughput timm', 'certification'])
def test_what_a_cpu_cannot_check(name):
    status, detail = gpu_checks.CHECKS[name]()
    assert status == 'not possible here' and 'GPU' in detail


@pytest.mark.parametrize('found', [0.021, float('nan'), float('inf')])
def test_a_difference_that_is_too_large(found):
    assert gpu_checks.expect('logits', 0.02, 0.02) == 'logits 0.02 (limit 0.02)'
    with pytest.raises(AssertionError, match='^logits: found (0.021|nan|inf), expected at most 0.02$'):
        gpu_checks.expect('logits', found, 0.02)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_attention_without_a_gpu(dtype):
    status, detail = gpu_checks.CHECKS[f'attention {dtype}']()
    assert status == 'passed, simulated' and detail.endswith('the fused kernel was not run')


def test_long_details_stay_in_their_column():
    lines = table([Result('a', 'passed', 'x\ny', 2.0)])
    assert lines[0].index('detail') == lines[1].index('x') == lines[2].index('y')
