# SPDX-License-Identifier: Apache-2.0
"""Resampling of position embeddings to another number of patches."""
from __future__ import annotations

import math

import numpy as np

from CaiT.errors import InputError

_A = -0.75  # coefficient of the cubic kernel in torch's interpolate (Pillow's differs)


def grid_side(rows: int, name: str) -> int:
    """Patches per side of a square image of ``rows`` patches."""
    side = math.isqrt(max(rows, 0))
    if side * side != rows or side == 0:
        raise InputError(f'{name} has {rows} patch rows, expected a square number')
    return side


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """Matrix [target, source] of bicubic interpolation along one axis, float64.

    torch.nn.functional.interpolate(mode='bicubic', align_corners=False) without antialiasing, as in
    facebookresearch: pixel centers at half-integers, four taps, border replicated.
    """
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    first = np.floor(position).astype(np.int64)
    matrix = np.zeros((target, source))
    for tap in range(-1, 3):
        distance = np.abs(position - (first + tap))
        near = ((_A + 2) * distance - (_A + 3)) * distance ** 2 + 1  # |distance| <= 1
        far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A  # 1 < |distance| < 2
        np.add.at(matrix, (np.arange(target), np.clip(first + tap, 0, source - 1)), np.where(distance <= 1, near, far))
    return matrix


def resample(rows: np.ndarray, side: int) -> np.ndarray:
    """Patch rows [1, n * n, C] of a position embedding to [1, side * side, C] of the same dtype."""
    _, count, channels = rows.shape
    source = grid_side(count, 'the position embedding')
    matrix = bicubic_matrix(source, side)
    grid = rows.reshape(source, source, channels)
    grid = np.einsum('yi,xj,ijc->yxc', matrix, matrix, grid, optimize=True)  # [side, side, C]
    return grid.reshape(1, side * side, channels).astype(rows.dtype)
