# SPDX-License-Identifier: Apache-2.0
"""Settings of Paddle and the system for a CPU, in one place, for every script. A run on a GPU gets none of them: they
were measured on CPUs, and stride kernels, for one, are what keeps views from being copied there.

Paddle reads these when it is imported; all but MKL's can be changed afterwards:

- threads: Paddle starts with ONE thread unless OMP_NUM_THREADS is set, and prints two lines of warning when it is;
  processes of one job share the cores;
- MKL's instruction set: the MKL inside Paddle's wheel falls back to SSE code on AMD processors. MKL_DEBUG_CPU_TYPE 7
  (AVX-512) or 5 (AVX2) gives the fast path back. It is undocumented, so it is set only when the CPU has the
  instructions, and never on Intel;
- stride kernels: as views, transposes are copied later by one slow thread; off, the training step halves;
- dead tensors: the executor of exported models frees each in another thread, on a core that the operations need.
  Freed in batches of 50 MB, single images are 1.13 to 1.18 times as fast;
- the allocator: glibc returns big blocks to the kernel after every batch; keeping them makes batch 32 as fast
  per image as batch 8.

Each is left alone when the user has set it; CAIT_RUNTIME=off switches all of them off.
"""
from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import signal
import sys
import threading
import warnings
from typing import Dict, Set

from CaiT.errors import InputError

PADDLE = ((3, 0), (3, 3))  # the first and the last minor version that this project was tried with

_AVX512 = ('avx512f', 'avx512dq', 'avx512bw', 'avx512vl', 'avx512cd')
SET_HERE = 'CAIT_OMP_NUM_THREADS'  # for programs started from here: the OMP_NUM_THREADS that no user has set
_report = ''
GPU_REPORT = "runtime: GPU, Paddle's own settings"
CPU_FLAGS = {'FLAGS_use_stride_kernel': (False, True), 'FLAGS_eager_delete_tensor_gb': (0.05, 0.0)}  # ours, Paddle's


def _cpu() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as file:
            return file.read()
    except OSError:
        return ''


def cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.lru_cache(maxsize=None)
def memory() -> int:
    """Bytes of memory of this machine, or of the container; a terabyte where the system does not say."""
    found = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        found.append(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))
    for path in ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'):
        with contextlib.suppress(OSError, ValueError), open(path, encoding='ascii') as file:  # ValueError: 'max'
            found.append(int(file.read()))
    return min([size for size in found if size > 0] or [10 ** 12])


def most_threads() -> int:
    """The largest number of CPU threads that is not taken for a mistake."""
    return max(64, 4 * cores())


def user_threads() -> int:
    """The CPU threads that the user has set with OMP_NUM_THREADS, 0 when that is no positive integer.

    What this process, or a program of ours that started it, has set itself does not count. InputError for more than
    ``most_threads``.
    """
    value = os.environ.get('OMP_NUM_THREADS', '')
    if 'OMP_NUM_THREADS' not in _first_environment() or value == os.environ.get(SET_HERE):
        return 0
    if not (value.isascii() and value.isdigit()):  # OpenMP also takes a list, one number per level of nesting
        return 0
    if len(value) > 9 or int(value) > most_threads():
        raise InputError(f'OMP_NUM_THREADS: found {value}, expected at most {most_threads()} on this machine')
    return int(value)


def threads_per_process() -> int:
    """The cores of this process; of several processes of a job (PADDLE_LOCAL_SIZE) that share them, its part.

    They share them unless the launcher has bound each to cores of its own: then all together fit into what the programs
    that started them may use.
    """
    processes = os.environ.get('PADDLE_LOCAL_SIZE', '1')
    processes = int(processes) if processes.isdecimal() and len(processes) <= 9 else 1
    if processes < 2 or cores() * processes <= _cores_of_parents():
        return cores()
    return max(1, cores() // processes)


def _cores_of_parents() -> int:
    """The largest number of cores that a process above this one may use; 0 where Linux does not say."""
    most, pid = 0, os.getppid()
    try:
        while pid > 0:
            most = max(most, len(os.sched_getaffinity(pid)))
            with open(f'/proc/{pid}/stat', encoding='utf-8', errors='replace') as file:
                pid = int(file.read().rpartition(')')[2].split()[1])
    except (OSError, AttributeError, ValueError, IndexError):
        _take_back_sigterm()
    return most


def cpu_flags() -> Set[str]:
    """Names of this processor's instruction sets, as Linux reports them; empty elsewhere."""
    return set(_cpu().split())


def settings(cpuinfo: str, threads: int) -> Dict[str, str]:
    """The environment for a processor described by ``cpuinfo`` (text of /proc/cpuinfo)."""
    values = {'OMP_NUM_THREADS': str(threads), 'FLAGS_use_stride_kernel': '0', 'FLAGS_eager_delete_tensor_gb': '0.05',
              'GLOG_minloglevel': '2'}
    if 'AuthenticAMD' in cpuinfo:
        flags = set(cpuinfo.split())
        if flags.issuperset(_AVX512):
            values['MKL_DEBUG_CPU_TYPE'] = '7'
        elif 'avx2' in flags:
            values['MKL_DEBUG_CPU_TYPE'] = '5'
    return values


def _keep_big_blocks() -> bool:
    """mallopt(M_MMAP_THRESHOLD 32 MiB, M_TRIM_THRESHOLD 2 GiB, M_TOP_PAD 256 MiB); glibc only."""
    import ctypes  # here: engines other than Paddle start without it
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(-3, 1 << 25), mallopt(-1, 2**31 - 1), mallopt(-2, 1 << 28)])


def off() -> bool:
    """Whether the user has switched all of it off (CAIT_RUNTIME=off)."""
    return os.environ.get('CAIT_RUNTIME', '').lower() in ('off', '0', 'false')


def _first_environment() -> Set[str]:
    """Names of the variables with which this process was started; empty where Linux does not say."""
    try:
        with open('/proc/self/environ', encoding='utf-8', errors='replace') as file:
            return {entry.partition('=')[0] for entry in file.read().split('\0')}
    except OSError:
        return set()


def gpu_is_visible() -> bool:
    """Whether an NVIDIA GPU may be used by this process; before Paddle is imported, which would know."""
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES', '0') in ('', '-1')
    return not hidden and any(map(os.path.exists, ('/dev/nvidiactl', '/dev/nvidia0', '/dev/dxg')))


def prepare(threads: int = 0, device: str = 'auto') -> str:
    """Set what Paddle reads at import and return one line saying what is in force; idempotent.

    ``threads`` is the number of CPU threads, 0 for all cores of this process. ``device`` is the run's: 'cpu', 'gpu',
    'gpu:N', or 'auto', which is a GPU if one is visible; nothing is set for a GPU. Belongs before ``import paddle``,
    and imports it for a CPU; after it, what can still be set is set (``apply``). Also hides Paddle's warnings that no
    ccache was found and that OMP_NUM_THREADS is set, where it is set here. InputError for a Paddle before 3.0.
    """
    global _report
    if _report:
        return _report
    try:
        os.getcwd()
    except FileNotFoundError:  # Paddle asks for it at its import
        raise InputError('the current folder was removed; change to one that is there') from None
    warnings.filterwarnings('ignore', message='No ccache found')
    if off():
        _report = 'runtime: settings off (CAIT_RUNTIME)'
    elif device.startswith('gpu') or (device == 'auto' and gpu_is_visible()):
        os.environ.setdefault('GLOG_minloglevel', '2')
        _report = GPU_REPORT
    elif 'paddle' in sys.modules:
        _report = f'runtime: paddle was imported first, set afterwards: {apply(threads)}'
    else:
        values = settings(_cpu(), threads or threads_per_process())
        if 'OMP_NUM_THREADS' not in os.environ:
            os.environ[SET_HERE] = values['OMP_NUM_THREADS']
        for key, value in values.items():
            os.environ.setdefault(key, value)
        is_set = _keep_big_blocks()
        _import_paddle(silent=os.environ['OMP_NUM_THREADS'] == os.environ.get(SET_HERE))
        shown = ', '.join(f'{key}={os.environ[key]}' for key in sorted(values) if key != 'GLOG_minloglevel')
        _report = f'runtime: {shown}, malloc={"kept blocks" if is_set else "system default"}'
    if 'paddle' in sys.modules:
        _take_back_sigterm()
        _check_version(getattr(sys.modules['paddle'], '__version__', ''))
    return _report


def _take_back_sigterm() -> None:
    """Install the handler of SIGTERM that was there before ``import paddle``.

    Paddle's own writes a report, which allocates memory: a process that is ended while it allocates waits forever."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _import_paddle(silent: bool) -> None:
    """Import Paddle, if it is installed; with ``silent`` without its two lines about OMP_NUM_THREADS."""
    if importlib.util.find_spec('paddle') is None:
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed) if silent else contextlib.nullcontext():
            import paddle  # noqa: F401
    finally:
        rest = [line for line in printed.getvalue().splitlines(keepends=True) if 'OMP_NUM_THREADS' not in line]
        if rest and sys.stderr is not None:
            sys.stderr.write(''.join(rest))


def _check_version(version: str) -> None:
    """Say that a Paddle was not tried; InputError for one that does not work."""
    numbers = version.split('.')[:2]
    if not all(number.isdecimal() for number in numbers) or version.startswith('0.'):  # a build of one's own
        return
    found = tuple(map(int, numbers))
    expected = ' to '.join('.'.join(map(str, one)) for one in PADDLE)
    if found < PADDLE[0]:
        raise InputError(f'Paddle {version} is not supported, expected {expected}: pip install paddlepaddle==3.3.1')
    if found > PADDLE[1]:
        print(f'warning: this project was not tried with Paddle {version}, only with {expected}', file=sys.stderr)


def follow(device: str) -> str:
    """Once Paddle's device is known: the settings for it and the line that says what is in force.

    A CPU run beside a visible GPU gets those of CPUs (``apply``); a GPU run for which they were set gets Paddle's own
    flags back, unless the user has set them.
    """
    global _report
    if 'paddle' in sys.modules:  # on a GPU it is imported after ``prepare``
        _take_back_sigterm()
    if device.startswith('gpu') and _report and not _report.startswith(GPU_REPORT) and not off():
        import paddle
        mine = [flag for flag in CPU_FLAGS if flag not in _first_environment()]
        paddle.set_flags({flag: CPU_FLAGS[flag][1] for flag in mine})
        _report = f'{GPU_REPORT}; CPU threads and malloc as they were set before the device was known'
    elif device == 'cpu' and _report.startswith(GPU_REPORT):
        _report = f'runtime: a GPU is visible and not used, set afterwards: {apply()}'
    return _report


def apply(threads: int = 0) -> str:
    """Set what an imported Paddle still accepts and return what is in force, in words.

    Sets Paddle's number of threads (unless OMP_NUM_THREADS gives it), its flags FLAGS_use_stride_kernel and
    FLAGS_eager_delete_tensor_gb (unless the environment has them) and glibc's handling of large blocks.
    """
    import paddle
    values = settings(_cpu(), threads or threads_per_process())
    count = os.environ.get('OMP_NUM_THREADS', '1')
    if count == '1' and not _report and 'OMP_NUM_THREADS' not in _first_environment():
        count = values['OMP_NUM_THREADS']  # the 1 is Paddle's: it sets the variable when it is imported
        os.environ[SET_HERE] = '1'
        paddle.base.core.set_num_threads(int(count))
    for flag, (value, _) in CPU_FLAGS.items():
        if flag not in os.environ:
            paddle.set_flags({flag: value})
    _keep_big_blocks()
    if values.get('MKL_DEBUG_CPU_TYPE') and 'MKL_DEBUG_CPU_TYPE' not in os.environ:
        os.environ['MKL_DEBUG_CPU_TYPE'] = values['MKL_DEBUG_CPU_TYPE']  # works if MKL has not computed yet
        return (f'{count} threads; matrix products may be slow on this AMD processor: call CaiT.runtime.prepare() '
                'before import paddle')
    return f'{count} threads'
