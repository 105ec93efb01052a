# SPDX-License-Identifier: Apache-2.0
"""Golden values of the reference, and the weights and inputs from which they were computed.

Weights and inputs are not stored but generated with NumPy alone, so that any framework can reproduce them: the SHA-256
of a parameter's public name seeds PCG64, whose standard normal float32 numbers are scaled by the kind of parameter. The
results of the reference (timm on PyTorch) are in a folder of golden files: ``MANIFEST.json`` (parameter counts, MACs,
settings of the training steps), ``names/<model>.json`` (public names with PyTorch's shapes), ``<model>.npz``
(``logits_f64``: float32 weights and input, computed in float64; sometimes intermediates) and
``train_<model>_nc<classes>.npz`` (AdamW steps). The repository contains the small ones in tests/goldens.
"""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

import numpy as np

from CaiT.errors import InputError

if TYPE_CHECKING:
    from paddle import nn

FOLDER = Path(__file__).resolve().parents[2] / 'tests' / 'goldens'
TRAINING = 'train_cait_xxs24_224_nc10'
TRAINING_LABELS = (3, 1, 7, 5)


def noise(shape: Sequence[int], seed: int) -> np.ndarray:
    """Standard normal float32. Seed 0 gives the image batch of the logits, seed 1 that of the training steps."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(size=tuple(shape), dtype=np.float32)


def value(name: str, shape: Sequence[int]) -> np.ndarray:
    """The parameter ``name``, float32, in PyTorch's layout and ``shape`` (Linear [out, in])."""
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


def public_shapes(model: 'nn.Layer') -> Dict[str, Tuple[int, ...]]:
    """Parameter names with the shapes PyTorch gives them: Paddle's Linear weight is the transpose."""
    return {name: tuple(p.shape[::-1] if p.ndim == 2 else p.shape) for name, p in model.named_parameters()}


def fill(model: 'nn.Layer') -> None:
    """Set every parameter of ``model`` to its generated value, one at a time to save memory."""
    parameters = dict(model.named_parameters())
    for name, shape in public_shapes(model).items():
        array = value(name, shape)
        parameters[name].set_value(np.ascontiguousarray(array.T) if array.ndim == 2 else array)


def manifest(folder: Path) -> Dict[str, Any]:
    """``MANIFEST.json`` of a folder of golden files."""
    return json.loads(_existing(folder, 'MANIFEST.json').read_text(encoding='utf-8'))


def names(folder: Path, model: str) -> List[Tuple[str, Tuple[int, ...]]]:
    """The reference's parameter names and shapes, in its order."""
    values = json.loads(_existing(folder, f'names/{model}.json').read_text(encoding='utf-8'))
    return [(name, tuple(shape)) for name, shape in values['params']]


def arrays(folder: Path, name: str) -> Dict[str, np.ndarray]:
    """The arrays of the golden file ``<name>.npz``."""
    with np.load(_existing(folder, f'{name}.npz'), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _existing(folder: Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise InputError(f'golden file {path}: no such file; a clone of the repository has some in tests/goldens, '
                         '-goldens names another folder')
    return path
