# SPDX-License-Identifier: Apache-2.0
"""The weights and inputs behind the golden numbers, from names and shapes alone: no framework, no stored weights.

Every framework that follows this rule starts from the same float32 numbers. A value depends on the public name of its
parameter and on PyTorch's shape of it ([out, in] for a Linear): the name's SHA-256 seeds NumPy's PCG64, whose standard
normal float32 is scaled by the kind of parameter.
"""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Dict, Sequence

import numpy as np

FOLDER = Path(__file__).parent


def noise(shape: Sequence[int], seed: int) -> np.ndarray:
    """Standard normal float32; seed 0 is the input picture batch of the golden logits."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(size=tuple(shape), dtype=np.float32)


def value(name: str, shape: Sequence[int]) -> np.ndarray:
    """The parameter ``name``, float32, in PyTorch's layout."""
    normal = noise(shape, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'little'))
    if name.endswith(('.gamma_1', '.gamma_2')):
        return np.float32(0.1) + np.float32(0.02) * normal
    if name in ('cls_token', 'dist_token', 'pos_embed'):
        return np.float32(0.1) * normal
    if name.endswith('.bias'):
        return np.float32(0.02) * normal
    if len(shape) == 1:  # LayerNorm
        return np.float32(1.0) + np.float32(0.1) * normal
    return normal * np.float32(1.0 / np.sqrt(float(np.prod(shape[1:]))))


def weights(shapes: Dict[str, Sequence[int]]) -> Dict[str, np.ndarray]:
    """All parameters of a model from their names and PyTorch shapes."""
    return {name: value(name, shape) for name, shape in shapes.items()}


def tiny() -> Dict[str, np.ndarray]:
    """The tiny CaiT of the goldens, in PyTorch's layout: 32 pixels, width 48, 2 blocks, 4 heads, 4 classes."""
    return weights(dict(json.loads((FOLDER / 'cait_tiny.json').read_text())['params']))
