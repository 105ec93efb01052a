# SPDX-License-Identifier: Apache-2.0
"""Jobs that are started, killed and looked for afterwards.

Seconds are counted in short sleeps, not on a clock, and not while what is waited for is stopped (SIGSTOP): a machine
that is busy, or a job that somebody stops for minutes, is no fault of the program.
"""
from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Union

ROOT = Path(__file__).resolve().parents[2]
TICK = 0.01
GONE = 5  # seconds within which all processes of a killed group must have ended
ENVIRONMENT = {**{key: value for key, value in os.environ.items() if not key.startswith(('PADDLE_', 'OMP_'))},
               'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}


def start(words: List[str]) -> subprocess.Popen:
    return subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True, errors='replace', start_new_session=True)


def finish(words: List[str]) -> str:
    """Run to the end: '' or what went wrong."""
    process = start(words)
    error = process.communicate()[1]
    return f'{words[-1]}: ended with {process.returncode}: {error[-500:]}' if process.returncode else ''


def groups(process: subprocess.Popen) -> List[int]:
    """The process groups of a job: its own, and those that a launcher has made for its ranks."""
    listed = subprocess.run(['pgrep', '-P', str(process.pid)], stdout=subprocess.PIPE, text=True).stdout.split()
    found = [process.pid]
    for pid in map(int, listed):
        with contextlib.suppress(ProcessLookupError):
            found += [pid] if os.getpgid(pid) == pid else []
    return found


def members(leaders: List[int]) -> List[int]:
    """All processes of these groups, those whose parent has died too."""
    listed = subprocess.run(['pgrep', '-g', ','.join(map(str, leaders))], stdout=subprocess.PIPE, text=True).stdout
    return [int(pid) for pid in listed.split()]


def seconds_of(pids: Callable[[], List[int]]) -> Iterator[float]:
    """Sleeps shortly and gives the seconds slept so far, those left out in which one of ``pids()`` was stopped."""
    slept = 0.0
    while True:
        yield slept
        time.sleep(TICK)
        slept += 0 if any(is_stopped(pid) for pid in pids()) else TICK


def is_stopped(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] in 'Tt'
    except OSError:
        return False


def killed(process: subprocess.Popen, changed: Callable[[], Any], rng: random.Random, span: float,
           victim: Union[int, str] = 'itself', within: float = 0) -> List[int]:
    """Wait for a drawn moment and kill; the groups of the job, [] when it ended by itself before.

    ``changed()`` differs from its value at the start once something was written; two thirds of the moments are soon
    after that, with ``within`` all of them within that many seconds. ``victim``: the process 'itself', 'all' of the
    job, or a rank.
    """
    before, soon = changed(), within or rng.random() < 0.7
    end = rng.uniform(0, span)
    for slept in seconds_of(lambda: [process.pid]):
        if process.poll() is not None or (changed() != before if soon else slept > end):
            break
    time.sleep(rng.uniform(0, within or min(span / 4, 1.5)) if soon else 0)
    if process.poll() is not None:
        return []
    leaders = groups(process)
    found = members(leaders) if victim == 'all' else [] if victim == 'itself' else _rank(process, victim)
    for pid in found or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return leaders


def nobody_left(process: subprocess.Popen, leaders: List[int], seconds: float = GONE) -> str:
    """'' when the groups have ended in time; what is left is ended."""
    process.stderr.close()
    for slept in seconds_of(lambda: members(leaders)):
        process.poll()
        left = members(leaders)
        if not left:
            return ''
        if slept > seconds:
            names = [command(pid) for pid in left]
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return f'left after {seconds:g} s: {names}'


def command(pid: int) -> str:
    try:
        return Path(f'/proc/{pid}/cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')[:200]
    except OSError:
        return 'ended since'


def _rank(process: subprocess.Popen, rank: int) -> List[int]:
    """The process of a rank, its data workers excluded; [] before it has started."""
    for pid in members(groups(process)):
        try:
            environment = Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
            parent = int(re.sub(r'.*\) ', '', Path(f'/proc/{pid}/stat').read_text()).split()[1])
        except OSError:
            continue
        if f'PADDLE_TRAINER_ID={rank}'.encode() in environment and parent == process.pid:
            return [pid]
    return []


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def stamp(path: Path) -> Any:
    return path.stat().st_mtime_ns if path.exists() else None


def stamps(paths: Iterable[Path]) -> List[Any]:
    return [stamp(path) for path in paths]
