# SPDX-License-Identifier: Apache-2.0
"""Runs CaiT/export_model.py: ``python export_model.py --help``."""
from __future__ import annotations

from typing import Optional

from CaiT import errors


def main() -> Optional[int]:
    from CaiT.export_model import main as script  # here, where Ctrl-C is one line: its imports take their time
    return script()


if __name__ == '__main__':
    errors.run(main)
