# SPDX-License-Identifier: Apache-2.0
"""The memory of a process as Linux counts it. Standard library only: peers' interpreters run it too."""
from __future__ import annotations

from pathlib import Path
from typing import Union


def status(key: str, pid: Union[int, str] = 'self') -> float:
    """A field of /proc/<pid>/status in MB: VmRSS, what is in memory; VmHWM, the most that was since the program began.

    Not getrusage's maximum, which begins with the memory of the process that started this one.
    """
    lines = Path(f'/proc/{pid}/status').read_text(encoding='utf-8').splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f'{key}:')) / 1024
