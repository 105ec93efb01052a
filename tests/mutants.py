# SPDX-License-Identifier: Apache-2.0
"""Mutation tests: does a test fail when a line is wrong?

python tests/mutants.py                   every fault of tests/mutants.tsv (make mutants)
python tests/mutants.py training optim    only those whose file name contains one of these words
python tests/mutants.py --check           only whether each fault can still be applied (seconds)

A row of mutants.tsv is one fault: file, tests (space-separated; empty: those of the file's package), the text to
replace (occurs exactly once in the file; \\n is a new line), what replaces it, and for an accepted survivor the reason.
Each fault is applied to a copy of the repository in a temporary folder, where its tests run until the first failure.
Exit status 1 when fewer than 95 % are killed, 2 when a row does not apply or its tests fail without any fault.
"""
from __future__ import annotations

import argparse
import collections
import concurrent.futures
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tests.repository_copy import ROOT, copy

TABLE = Path(__file__).with_suffix('.tsv')
REQUIRED = 95.0  # percent
TIMEOUT = 900    # seconds; a fault that makes the tests hang is killed


class Fault(NamedTuple):
    file: str
    tests: str
    old: str
    new: str
    reason: str = ''

    @property
    def package(self) -> str:
        parts = Path(self.file).parts
        return parts[1] if parts[0] == 'CaiT' and len(parts) > 2 else parts[0] if len(parts) > 1 else 'scripts'

    @property
    def arguments(self) -> List[str]:
        return self.tests.split() or [f'tests/{self.package}']


def read(path: Path = TABLE) -> List[Fault]:
    lines = [line for line in path.read_text(encoding='utf-8').splitlines() if line and not line.startswith('#')]
    return [Fault(*(cell.replace('\\n', '\n') for cell in line.split('\t'))) for line in lines]


def problem(fault: Fault, root: Path = ROOT) -> Optional[str]:
    """Why this fault cannot be applied, or None."""
    path = root / fault.file
    if not path.is_file():
        return 'no such file'
    count = path.read_text(encoding='utf-8').count(fault.old)
    if count != 1:
        return f'{fault.old!r} occurs {count} times, expected once'
    if fault.old == fault.new:
        return 'replaces a text by itself'
    missing = [word for word in fault.arguments if not has_test(root, word)]
    return f'no such test: {missing[0]}' if missing else None


def has_test(root: Path, word: str) -> bool:
    """Whether a folder, a file or ``file::test`` of pytest's arguments is there."""
    file, _, name = word.partition('::')
    path = root / file
    return path.exists() and (not name or f'def {name.split("[")[0]}(' in path.read_text(encoding='utf-8'))


def run_tests(root: Path, arguments: Sequence[str], timeout: Optional[float] = TIMEOUT,
              output: Optional[int] = subprocess.DEVNULL) -> int:
    """pytest's exit status in that copy; 1 when it takes more than ``timeout`` seconds. ``output``: of pytest."""
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider', *arguments]
    environment = {**os.environ, 'PYTHONPATH': str(root), 'PYTHONDONTWRITEBYTECODE': '1'}
    try:
        return subprocess.run(command, cwd=root, env=environment, stdout=output, stderr=output,
                              timeout=timeout).returncode
    except subprocess.TimeoutExpired:
        return 1


def is_killed(fault: Fault) -> bool:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='mutant-') as folder:
        root = copy(folder)
        path = root / fault.file
        path.write_text(path.read_text(encoding='utf-8').replace(fault.old, fault.new), encoding='utf-8')
        status = run_tests(root, fault.arguments)
    if status not in (0, 1, 2):  # 1: a test fails, 2: the file cannot even be imported
        raise RuntimeError(f'{" ".join(fault.arguments)}: pytest ends with status {status}')
    verdict = 'killed' if status else 'SURVIVED'
    print(f'{verdict:8} {time.monotonic() - begun:5.1f} s  {fault.file}: {fault.old} -> {fault.new}', flush=True)
    return bool(status)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('words', nargs='*', help='only files whose name contains one of these')
    parser.add_argument('--jobs', type=int, default=2, help='copies at the same time')
    parser.add_argument('--check', action='store_true', help='only check that each fault can be applied')
    parser.add_argument('--unchecked', action='store_true', help='do not run the tests without a fault first')
    options = parser.parse_args(arguments)
    faults = [fault for fault in read() if not options.words or any(word in fault.file for word in options.words)]
    problems = [f'{fault.file}: {problem(fault)}' for fault in faults if problem(fault)]
    print(*problems, f'{len(faults)} faults, {len(problems)} cannot be applied', sep='\n')
    if problems or options.check:
        return 2 if problems else 0
    if not options.unchecked:
        with tempfile.TemporaryDirectory(prefix='mutant-') as folder:
            words = sorted({word for fault in faults for word in fault.arguments})
            if run_tests(copy(folder), ['-n', str(options.jobs), '--dist', 'loadfile', *words], None, None):
                print('the tests fail without any fault')
                return 2
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        verdicts = list(pool.map(is_killed, faults))
    total, killed = collections.Counter(), collections.Counter()
    for fault, verdict in zip(faults, verdicts):
        for name in (fault.package, 'all'):
            total[name] += 1
            killed[name] += verdict
    for fault, verdict in zip(faults, verdicts):
        if not verdict:
            print(f'survived: {fault.file}: {fault.old} -> {fault.new}: {fault.reason or "not explained"}')
    for name in total:
        print(f'{name}: {killed[name]} of {total[name]} killed ({100 * killed[name] / total[name]:.0f} %)')
    return 0 if 100 * killed['all'] >= REQUIRED * total['all'] else 1


if __name__ == '__main__':
    sys.exit(main())
