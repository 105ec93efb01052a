# SPDX-License-Identifier: Apache-2.0
"""For all tests: the package of this checkout, and Paddle with the settings the scripts use."""
from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CaiT import runtime

workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
if workers > 1:  # processes that share the cores: without this each would use all of them
    os.environ['OMP_NUM_THREADS'] = str(max(1, runtime.cores() // workers))
runtime.prepare()
