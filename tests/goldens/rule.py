# SPDX-License-Identifier: Apache-2.0
"""The tiny CaiT of the golden files, with the generated weights of CaiT/tools/goldens.py."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, Sequence

import numpy as np

from CaiT.tools.goldens import noise, value  # noqa: F401 (for the tests of weights)

FOLDER = Path(__file__).parent


def weights(shapes: Dict[str, Sequence[int]]) -> Dict[str, np.ndarray]:
    """All parameters of a model from their names and PyTorch shapes."""
    return {name: value(name, shape) for name, shape in shapes.items()}


def tiny() -> Dict[str, np.ndarray]:
    """The tiny CaiT, in PyTorch's layout: 32 pixels, patch 16, width 48, 2 blocks, 4 heads, 4 classes."""
    return weights(dict(json.loads((FOLDER / 'cait_tiny.json').read_text())['params']))
