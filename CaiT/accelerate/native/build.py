# SPDX-License-Identifier: Apache-2.0
"""Compiles ``talking_heads.cpp`` for one number of heads, once per user.

The library is kept in $CAIT_HOME/native, else $XDG_CACHE_HOME/cait/native, else ~/.cache/cait/native, under a name made
of everything that it depends on: source, compiler, flags, Paddle and processor. It takes a compiler some 5 seconds.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator, List

import paddle

from CaiT import runtime
from CaiT.files import cache_folder

SOURCES = [Path(__file__).with_name(name) for name in ('talking_heads.cpp', 'products.h')]
NEEDED = ('avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'fma')  # instructions, by Linux' and the compilers' names
COMPILERS = ('g++', 'clang++', 'c++')
TIMEOUT = 120  # seconds


class BuildError(Exception):
    """Why there is no library, in one line."""


def library_path(heads: int) -> Path:
    """The library for this number of heads, compiled when there is none yet. Raises BuildError."""
    missing = [name for name in NEEDED if name not in runtime.cpu_flags()]
    if missing:
        raise BuildError(f'this processor has no {missing[0]}')
    compiler = _compiler()
    openmp = Path(paddle.__file__).parent / 'libs' / 'libiomp5.so'
    if not openmp.is_file():
        raise BuildError("Paddle's wheel has no libiomp5.so")
    flags = ['-std=c++17', '-O3', '-fPIC', '-w', '-fopenmp', f'-DHEADS={heads}', *(f'-m{name}' for name in NEEDED)]
    if 'avx512_bf16' in runtime.cpu_flags():
        flags.append('-mavx512bf16')
    try:
        folder = cache_folder('native')
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'talking_heads_{heads}_{_key(compiler, flags, openmp)}.so'
        with _locked(folder / 'lock'):
            if not path.is_file():
                _compile(compiler, flags, openmp, path)
    except OSError as error:
        raise BuildError(f'{error.filename or "cache"}: {error.strerror}') from error
    return path


def _compiler() -> List[str]:
    for name in (os.environ.get('CXX', ''), *COMPILERS):
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return words
    raise BuildError(f'no C++ compiler ({", ".join(COMPILERS)}, or the variable CXX)')


def _key(compiler: List[str], flags: List[str], openmp: Path) -> str:
    parts = [_run([*compiler, '--version']), *compiler, *flags, str(openmp), paddle.__version__,
             *sorted(runtime.cpu_flags()), *(source.read_text() for source in SOURCES)]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def _compile(compiler: List[str], flags: List[str], openmp: Path, path: Path) -> None:
    """Linked with Paddle's own OpenMP instead of the compiler's: two in one process would start twice the threads."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        compiled, linked = Path(folder) / 'talking_heads.o', Path(folder) / 'talking_heads.so'
        _run([*compiler, *flags, '-c', str(SOURCES[0]), '-o', str(compiled)])
        _run([*compiler, '-shared', str(compiled), str(openmp), f'-Wl,-rpath,{openmp.parent}', '-o', str(linked)])
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
    with open(path, 'w', encoding='utf-8') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
