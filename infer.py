# SPDX-License-Identifier: Apache-2.0
"""Runs CaiT/infer.py: ``python infer.py --help``."""
from __future__ import annotations

from CaiT import errors
from CaiT.infer import main

if __name__ == '__main__':
    errors.run(main, fast_exit=True)
