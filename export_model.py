# SPDX-License-Identifier: Apache-2.0
"""Runs CaiT/export_model.py: ``python export_model.py --help``."""
from __future__ import annotations

from CaiT import errors
from CaiT.export_model import main

if __name__ == '__main__':
    errors.run(main)
