# SPDX-License-Identifier: Apache-2.0
"""Compiles the attention kernel (``talking_heads.h``) for one number of heads, once per user: for Paddle, and as an
operation of OpenVINO.

The library is kept in $CAIT_HOME/native, else $XDG_CACHE_HOME/cait/native, else ~/.cache/cait/native, under a name made
of everything that it depends on: source, compiler, flags, the package that loads it and processor. It takes a compiler
some 5 seconds.
"""
from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator, List, NamedTuple

from CaiT import runtime
from CaiT.files import cache_folder

HEADERS = [Path(__file__).with_name(name) for name in ('talking_heads.h', 'products.h')]
NEEDED = ('avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'fma')  # instructions, by Linux' and the compilers' names
COMPILERS = ('g++', 'clang++', 'c++')
TIMEOUT = 120  # seconds
HEAD_DIM = 48      # channels of a head, in every published CaiT
MAX_TOKENS = 1024  # tested up to 785, CaiT-M48-448's


class BuildError(Exception):
    """Why there is no library, in one line."""


class Target(NamedTuple):
    """What a library is compiled for."""
    source: Path
    version: str           # of the package that loads it
    flags: List[str]
    libraries: List[Path]  # of that package: a second OpenMP or TBB in the process would start twice the threads


def off() -> bool:
    return os.environ.get('CAIT_NATIVE', '').lower() in ('off', '0', 'false')


def for_paddle(heads: int) -> Path:
    """The library for this number of heads on Paddle's OpenMP, compiled when there is none yet. Raises BuildError."""
    return _library(_paddle(), heads, True)


def for_openvino(heads: int, version: str, compile_missing: bool) -> Path:
    """The library for the installed OpenVINO (``version``). Raises BuildError, also when there is no library yet
    and none is to be compiled."""
    return _library(_openvino(version), heads, compile_missing)


def _paddle() -> Target:
    import paddle
    openmp = Path(paddle.__file__).parent / 'libs' / 'libiomp5.so'
    return Target(Path(__file__).with_name('talking_heads.cpp'), paddle.__version__, ['-fopenmp'], [openmp])


def _openvino(version: str) -> Target:
    package = Path(importlib.util.find_spec('openvino').origin).parent
    libraries = [path for name in ('libopenvino.so.*', 'libtbb.so.*') for path in sorted((package / 'libs').glob(name))]
    return Target(Path(__file__).with_name('openvino_attention.cpp'), version, [f'-I{package / "include"}'], libraries)


def _library(target: Target, heads: int, compile_missing: bool) -> Path:
    missing = [name for name in NEEDED if name not in runtime.cpu_flags()]
    if missing:
        raise BuildError(f'this processor has no {missing[0]}')
    compiler = _compiler()
    absent = [path.name for path in target.libraries if not path.is_file()]
    if absent or not target.libraries:
        raise BuildError(f'the wheel for {target.source.name} has no {(absent or ["libraries"])[0]}')
    flags = ['-std=c++17', '-O3', '-fPIC', '-w', f'-DHEADS={heads}', *target.flags, *(f'-m{name}' for name in NEEDED)]
    if 'avx512_bf16' in runtime.cpu_flags():
        flags.append('-mavx512bf16')
    try:
        folder = cache_folder('native')
        path = folder / f'{target.source.stem}_{heads}_{_key(compiler, flags, target)}.so'
        if path.is_file():
            return path
        if not compile_missing:
            raise BuildError('not compiled yet')
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / 'lock'):
            if not path.is_file():
                _compile(compiler, flags, target, path)
    except OSError as error:
        raise BuildError(f'{error.filename or "cache"}: {error.strerror}') from error
    return path


def _compiler() -> List[str]:
    for name in (os.environ.get('CXX', ''), *COMPILERS):
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return words
    raise BuildError(f'no C++ compiler ({", ".join(COMPILERS)}, or the variable CXX)')


def _key(compiler: List[str], flags: List[str], target: Target) -> str:
    parts = [_run([*compiler, '--version']), *compiler, *flags, *map(str, target.libraries), target.version,
             *sorted(runtime.cpu_flags()), *(path.read_text() for path in (target.source, *HEADERS))]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def _compile(compiler: List[str], flags: List[str], target: Target, path: Path) -> None:
    """Linked with the package's own libraries instead of the compiler's."""
    libraries = [str(library) for library in target.libraries]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        compiled, linked = Path(folder) / 'kernel.o', Path(folder) / 'kernel.so'
        _run([*compiler, *flags, '-c', str(target.source), '-o', str(compiled)])
        _run([*compiler, '-shared', str(compiled), *libraries, f'-Wl,-rpath,{target.libraries[0].parent}',
              '-o', str(linked)])
        os.replace(linked, path)


def _run(command: List[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BuildError(f'{command[0]} took more than {TIMEOUT} seconds') from None
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if 'error' in line] or result.stderr.splitlines()
        raise BuildError(f'{command[0]} failed: {lines[0].strip() if lines else f"status {result.returncode}"}')
    return result.stdout


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the others find its library."""
    import fcntl  # not on every system; the processors that get here are run with Linux
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # nothing in it is changed
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
