# SPDX-License-Identifier: Apache-2.0
"""Check this project on a GPU, which its authors never had: one command, under fifteen minutes, one file to send.

    python -m CaiT.tools.gpu_check                     all checks; writes gpu_check.txt
    python -m CaiT.tools.gpu_check --only amp          those whose name contains a word
    python -m CaiT.tools.gpu_check --output FILE

Each check runs in a process of its own and ends as "passed", "failed", or "not possible here" with the reason. Without
a GPU, what can be simulated on a CPU is ("passed, simulated"), which shows that the code runs, not that it is right on
a GPU. The exit status is 1 when a check failed. Please attach the file to an issue, whatever it says.
"""
from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import List, NamedTuple, Optional

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CaiT import safe_json
from CaiT.cli import Parser
from CaiT.errors import InputError, run
from CaiT.files import atomic_write

TIME_LIMIT = 240  # seconds per check
RESULT = 'gpu_check result: '  # before the JSON of a check's process


class Result(NamedTuple):
    name: str
    status: str  # passed | passed, simulated | failed | not possible here
    detail: str
    seconds: float


def run_check(name: str) -> Result:
    """Run one check in a process of its own. What it prints is shown when it fails."""
    started = time.monotonic()
    command = [sys.executable, '-W', 'ignore', '-m', 'CaiT.tools.gpu_check', '--run', name]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIME_LIMIT,
                              errors='replace')
    except subprocess.TimeoutExpired:
        return Result(name, 'failed', f'no result within {TIME_LIMIT} s', time.monotonic() - started)
    lines = done.stdout.splitlines()
    found = [line[len(RESULT):] for line in lines if line.startswith(RESULT)]
    seconds = time.monotonic() - started
    if done.returncode or not found:
        print('\n'.join(lines[-40:]))
        said = next((line for line in reversed(lines) if 'rror' in line), lines[-1] if lines else 'no output')
        return Result(name, 'failed', f'status {done.returncode}: {said.strip()[:300]}', seconds)
    try:
        status, detail = map(str, safe_json.loads(found[-1]))
    except (InputError, TypeError, ValueError):
        return Result(name, 'failed', f'its result cannot be read: {found[-1][:300]}', seconds)
    return Result(name, status, detail, seconds)


def table(results: List[Result]) -> List[str]:
    """The lines of the report."""
    lines = [f'{"check":<28}{"result":<20}{"seconds":>8}  detail']
    for result in results:
        first, *rest = result.detail.splitlines() or ['']
        lines.append(f'{result.name:<28}{result.status:<20}{result.seconds:>8.0f}  {first}')
        lines += [f'{"":<58}{line}' for line in rest]
    counted = {status: sum(result.status == status for result in results)
               for status in ('passed', 'passed, simulated', 'failed', 'not possible here')}
    return [*lines, '', ', '.join(f'{status}: {count}' for status, count in counted.items())]


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.flag('only', nargs='+', default=[], metavar='WORD', help='checks whose name contains one of the words')
    parser.flag('output', default='gpu_check.txt', metavar='FILE', help='default: gpu_check.txt')
    parser.flag('run', default='', metavar='NAME', help='run one check here and print its result as JSON')
    args = parser.parse_args(arguments)
    from CaiT.tools import gpu_checks
    if args.run:
        print(RESULT + json.dumps(gpu_checks.CHECKS[args.run]()), flush=True)
        return 0
    names = [name for name in gpu_checks.CHECKS if not args.only or any(word in name for word in args.only)]
    if not names:
        raise InputError(f'--only: found {" ".join(args.only)}, expected a part of {", ".join(gpu_checks.CHECKS)}')
    results = []
    for name in names:
        print(f'{name} ...', flush=True)
        results.append(run_check(name))
        print(f'{name}: {results[-1].status}: {results[-1].detail}', flush=True)
    lines = table(results)
    with atomic_write(args.output) as file:
        file.write('\n'.join(lines) + '\n')
    print('\n'.join(['', *lines, f'written to {args.output}; please attach it to an issue']))
    return int(any(result.status == 'failed' for result in results))


if __name__ == '__main__':
    run(main)
