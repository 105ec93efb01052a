# SPDX-License-Identifier: Apache-2.0
"""Runs CaiT/infer.py: ``python infer.py --help``."""
from __future__ import annotations

from typing import Optional

from CaiT import errors


def main() -> Optional[int]:
    from CaiT.infer import main as script  # here, where Ctrl-C is one line: its imports take their time
    return script()


if __name__ == '__main__':
    errors.run(main, fast_exit=True)
