# SPDX-License-Identifier: Apache-2.0
"""The checkouts that a benchmark with --before compares."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from CaiT.errors import InputError


def sides(before: Optional[str], root: Path) -> Dict[str, Path]:
    """'before' (where it is given) and 'now', in this order; InputError when ``before`` is no checkout: an installed
    package would be measured in its place."""
    if not before:
        return {'now': root}
    folder = Path(before).resolve()
    if not (folder / 'CaiT' / '__init__.py').is_file():
        raise InputError(f'--before {before}: no checkout of this project, found no CaiT/__init__.py in it')
    return {'before': folder, 'now': root}


def environment(checkout: Path) -> Dict[str, str]:
    """The variables of a process that runs a benchmark with the package of ``checkout``."""
    return {**os.environ, 'CAIT_CHECKOUT': str(checkout), 'PYTHONPATH': str(checkout)}


def measured_in(checkout: Path, program: str, words: List[str], text: str = '') -> Any:
    """The last line of JSON that ``program`` prints in such a process, with ``text`` as its input."""
    done = subprocess.run([sys.executable, program, *words], env=environment(checkout), input=text,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f'{checkout}: {" ".join(words)} ended with status {done.returncode}: '
                         f'{done.stderr.strip()[-300:]}')
    return json.loads(done.stdout.splitlines()[-1])
