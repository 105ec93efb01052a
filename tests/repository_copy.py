# SPDX-License-Identifier: Apache-2.0
"""A fresh copy of the repository, for programs that change files in it."""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy(folder: str) -> Path:
    """A copy, in ``folder``, of all files that git would commit."""
    root = Path(folder) / 'clone'
    names = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout
    for name in names.split('\0'):
        if name and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
    return root
