# SPDX-License-Identifier: Apache-2.0
"""For all tests: the package of this checkout, and Paddle with the settings the scripts use."""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CaiT import runtime

runtime.prepare()
