# SPDX-License-Identifier: Apache-2.0
"""Settings before the import of Paddle: they depend on the processor and the user can override them."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from CaiT import runtime
from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
AVX512 = 'avx2 avx512f avx512dq avx512bw avx512vl avx512cd'
KEYS = ('OMP_NUM_THREADS', 'FLAGS_use_stride_kernel', 'FLAGS_eager_delete_tensor_gb', 'MKL_DEBUG_CPU_TYPE',
        'CAIT_RUNTIME', 'GLOG_minloglevel', runtime.SET_HERE)


@pytest.mark.parametrize('cpuinfo, kind', [
    (f'vendor_id : AuthenticAMD\nflags : fpu {AVX512}', '7'),
    ('vendor_id : AuthenticAMD\nflags : fpu avx2 avx512f', '5'),  # half of AVX-512 is none
    ('vendor_id : AuthenticAMD\nflags : fpu sse2', None),
    (f'vendor_id : GenuineIntel\nflags : fpu {AVX512}', None),
    ('', None)])
def test_settings_follow_the_processor(cpuinfo, kind):
    found = runtime.settings(cpuinfo, 3)
    assert found.get('MKL_DEBUG_CPU_TYPE') == kind
    assert found['OMP_NUM_THREADS'] == '3' and found['FLAGS_use_stride_kernel'] == '0'


def script(code: str, **environment: str) -> str:
    """Output of ``code`` in a process of its own, with nothing set but ``environment``."""
    inherited = {key: value for key, value in os.environ.items() if key not in KEYS}
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, env={**inherited, **environment}, check=True,
                          stdout=subprocess.PIPE, text=True, timeout=60).stdout


PREPARE = 'import os; from CaiT import runtime; print(runtime.prepare()); '


def test_prepare_sets_and_reports():
    found = script(PREPARE + 'print(os.environ["OMP_NUM_THREADS"], os.environ["FLAGS_use_stride_kernel"]); '
                             'assert runtime.prepare(5) == runtime.prepare()')
    line, values = found.splitlines()
    assert values == f'{runtime.cores()} 0'
    assert f'OMP_NUM_THREADS={runtime.cores()}' in line and 'FLAGS_use_stride_kernel=0' in line and 'malloc=' in line


@pytest.mark.parametrize('prepare, handler, caught', [
    ('runtime.prepare()', 'signal.SIG_DFL', 0), ('runtime.prepare()', 'lambda *_: print("mine")', 1),
    ('runtime.prepare(device="gpu"); import paddle; runtime.follow("cpu")', 'signal.SIG_DFL', 0),
    ('import paddle; runtime.prepare()', 'signal.SIG_DFL', 0)])
def test_sigterm_is_not_paddles(prepare, handler, caught):
    """Paddle's handler can wait forever for a lock of malloc."""
    look = 'int(open("/proc/self/status").read().split("SigCgt:")[1].split()[0], 16) >> signal.SIGTERM - 1 & 1'
    found = script(f'import signal; from CaiT import runtime; signal.signal(signal.SIGTERM, {handler}); {prepare}; '
                   f'print({look}); {"signal.raise_signal(signal.SIGTERM)" if caught else "pass"}')
    assert found.split() == [str(caught)] + ['mine'] * caught


@pytest.mark.parametrize('environment', [{}, {'CAIT_RUNTIME': 'off'}])
def test_a_current_folder_that_was_removed_is_one_line(tmp_path, environment):
    """Paddle's import would end with a traceback."""
    code = ('import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); from CaiT import errors, runtime; '
            'errors.run(runtime.prepare)')
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(ROOT), **environment})
    assert (done.returncode, done.stderr) == (2, 'error: the current folder was removed; change to one that is there\n')


def test_paddle_reads_them():
    found = script(PREPARE + 'import paddle; flags = ["FLAGS_use_stride_kernel", "FLAGS_eager_delete_tensor_gb"]; '
                             'print(*paddle.get_flags(flags).values())')
    assert found.splitlines()[-1] == 'False 0.05'


def stderr_of(code: str, **environment: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if key not in KEYS}
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, env={**inherited, **environment}, check=True,
                          capture_output=True, text=True, timeout=60).stderr


def test_a_run_opens_without_a_warning_and_with_all_threads():
    """Of Paddle about OMP_NUM_THREADS, which is set here. What else is printed meanwhile still is."""
    code = ('from CaiT import runtime; runtime.prepare(2); import paddle, ctypes; '
            'assert paddle.matmul(paddle.ones([2, 2]), paddle.ones([2, 2])).sum().item() == 8')
    assert stderr_of(code) == ''
    assert stderr_of(code, OMP_NUM_THREADS='2', **{runtime.SET_HERE: '2'}) == stderr_of(code)  # as of our programs
    assert 'PLEASE USE OMP_NUM_THREADS WISELY.' in stderr_of(code, OMP_NUM_THREADS='2')  # the user's own doing
    noisy = 'import sys; sys.path.insert(0, sys.argv[1]); from CaiT import runtime; runtime.prepare(2)'
    assert stderr_of(noisy.replace('sys.argv[1]', repr(str(ROOT / 'tests/fake_paddle')))) == 'something else\n'


@pytest.mark.parametrize('version', ['2.6.2', '2.5.0rc1', '1.8.5'])
def test_an_old_paddle_is_refused_in_one_line(version):
    with pytest.raises(InputError, match=f'^Paddle {version} is not supported, expected 3.0 to 3.3: pip install '):
        runtime._check_version(version)


@pytest.mark.parametrize('version, said', [('3.0.0', ''), ('3.3.1', ''), ('0.0.0', ''), ('3.3.0.dev2025', ''), ('', ''),
                                           ('3.4.0', 'was not tried with Paddle 3.4.0, only with 3.0 to 3.3')])
def test_other_versions(version, said, capsys):
    runtime._check_version(version)
    found = capsys.readouterr().err
    assert said in found and found.count('\n') == bool(said)


def test_the_users_settings_win():
    assert 'OMP_NUM_THREADS=7' in script(PREPARE, OMP_NUM_THREADS='7')
    found = script(PREPARE + 'print("FLAGS_use_stride_kernel" in os.environ)', CAIT_RUNTIME='off')
    assert found.splitlines() == ['runtime: settings off (CAIT_RUNTIME)', 'False']


ASKED = 'from CaiT import runtime; print(runtime.user_threads()); '
CHILD = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {ASKED!r}], check=True); '


@pytest.mark.parametrize('code, environment, threads', [
    (ASKED, {'OMP_NUM_THREADS': '3'}, '3'), (ASKED, {}, '0'),
    (PREPARE + ASKED, {}, '0'), (PREPARE + ASKED, {'OMP_NUM_THREADS': '3'}, '3'),
    ('import paddle; ' + ASKED, {}, '0'), ('import paddle; ' + ASKED, {'OMP_NUM_THREADS': '1'}, '1'),
    (PREPARE + CHILD, {}, '0'), (PREPARE + CHILD, {'OMP_NUM_THREADS': '3'}, '3'),
    ('import paddle; ' + PREPARE + CHILD, {}, '0'),
    (PREPARE + 'os.environ["OMP_NUM_THREADS"] = "63"; ' + CHILD, {}, '63')])
@pytest.mark.slow
def test_threads_that_the_user_has_set(code, environment, threads):
    """Not those of Paddle's import or of prepare, in this process or in the one that started it."""
    assert script(code, **environment).split()[-1] == threads


def test_more_threads_than_any_machine_has(monkeypatch):
    monkeypatch.setattr(runtime, '_first_environment', lambda: {'OMP_NUM_THREADS'})
    monkeypatch.setattr(runtime, 'cores', lambda: 2)
    for value in ('65', '9' * 5000):
        monkeypatch.setenv('OMP_NUM_THREADS', value)
        with pytest.raises(InputError, match=f'^OMP_NUM_THREADS: found {value}, expected at most 64 on this machine$'):
            runtime.user_threads()


VISIBLE = "import os; os.path.exists = lambda path: path == '/dev/nvidiactl'; "
FLAGS = 'import paddle; print(*paddle.get_flags(["FLAGS_use_stride_kernel", "FLAGS_eager_delete_tensor_gb"]).values())'


@pytest.mark.parametrize('start, environment, line, values', [
    (f'{VISIBLE}from CaiT import runtime; print(runtime.prepare()); ', {}, runtime.GPU_REPORT, 'True 0.0'),
    ('from CaiT import runtime; print(runtime.prepare(device="gpu:1")); ', {}, runtime.GPU_REPORT, 'True 0.0'),
    (f'{VISIBLE}from CaiT import runtime; print(runtime.prepare(device="cpu")); ', {}, 'runtime: FLAGS_', 'False 0.05'),
    (f'{VISIBLE}from CaiT import runtime; print(runtime.prepare()); ', {'CUDA_VISIBLE_DEVICES': ''}, 'runtime: FLAGS_',
     'False 0.05'),
    ('from CaiT import runtime; runtime.prepare(); print(runtime.follow("gpu:0")); ', {},
     f'{runtime.GPU_REPORT}; CPU threads', 'True 0.0'),
    ('from CaiT import runtime; runtime.prepare(); print(runtime.follow("gpu:0")); ',
     {'FLAGS_use_stride_kernel': '0', 'FLAGS_eager_delete_tensor_gb': '1'}, f'{runtime.GPU_REPORT}; CPU threads',
     'False 1.0'),
    ('from CaiT import runtime; runtime.prepare(device="gpu"); print(runtime.follow("cpu")); ', {},
     'runtime: a GPU is visible and not used, set afterwards: ', 'False 0.05'),
    ('from CaiT import runtime; runtime.prepare(); print(runtime.follow("cpu")); ', {}, 'runtime: FLAGS_',
     'False 0.05')])
@pytest.mark.slow
def test_a_run_on_a_gpu_gets_none_of_them(start, environment, line, values):
    found = script(start + FLAGS, **environment).splitlines()
    assert found[-2].startswith(line) and found[-1] == values


def test_what_is_set_after_the_import_is_said():
    found = script('import paddle; ' + PREPARE + 'print(paddle.get_flags("FLAGS_use_stride_kernel"))')
    line, flag = found.splitlines()[-2:]
    assert line.startswith(f'runtime: paddle was imported first, set afterwards: {runtime.cores()} threads')
    assert flag == "{'FLAGS_use_stride_kernel': False}"
