# SPDX-License-Identifier: Apache-2.0
"""A part of an enlarged image without the rest of it: Pillow's 8-bit resampling, bit for bit, for chosen pixels.

Enlarging the short side of an image of 65,000 x 1 pixels to 248 makes one of 16 million x 248, of which the crop keeps
224 x 224. For enlarging only: when it shrinks, Pillow's order of the two passes depends on its version.
"""
from __future__ import annotations

import math
from typing import Callable, Dict, List, Tuple

import numpy as np

_BITS = 22  # Pillow's coefficients are whole numbers: weight * 2**22


def resized_part(pixels: np.ndarray, size: Tuple[int, int], part: Tuple[int, int, int, int],
                 interpolation: str) -> np.ndarray:
    """``Image.resize(size)`` of [H, W, 3] uint8, then ``crop(part)``; ``part`` is left, top, right, bottom.

    ``size`` (width, height) must not be smaller than the image's.
    """
    left, top, right, bottom = part
    if interpolation == 'nearest':
        rows = _nearest(pixels.shape[0], size[1], top, bottom)
        return pixels[rows][:, _nearest(pixels.shape[1], size[0], left, right)]
    rows = _weights(pixels.shape[0], size[1], top, bottom, interpolation)
    first, last = rows[0][0], rows[-1][0] + len(rows[-1][1])  # source rows that the part needs
    pixels = _resampled(pixels[first:last], 1, _weights(pixels.shape[1], size[0], left, right, interpolation))
    return _resampled(pixels, 0, [(start - first, weights) for start, weights in rows])


def _nearest(length: int, target: int, start: int, stop: int) -> np.ndarray:
    """Source positions of the target positions ``start`` to ``stop``; Pillow adds the step up, rounding each time."""
    steps = np.full(stop, length / target)
    steps[0] *= 0.5
    return np.add.accumulate(steps)[start:].astype(np.int64)


def _weights(length: int, target: int, start: int, stop: int, interpolation: str) -> List[Tuple[int, np.ndarray]]:
    """For each target position the first source position and the integer weights from there on."""
    support, function = _FILTERS[interpolation]
    scale = length / target
    result = []
    for position in range(start, stop):
        center = (position + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), length)
        values = [function(x - center + 0.5) for x in range(first, last)]
        total = sum(values)
        result.append((first, np.array([int(math.copysign(0.5, value) + value / total * (1 << _BITS))
                                        for value in values], np.int64)))
    return result


def _resampled(pixels: np.ndarray, axis: int, weights: List[Tuple[int, np.ndarray]]) -> np.ndarray:
    lines = np.moveaxis(pixels, axis, -1)
    half = 1 << (_BITS - 1)
    result = [((lines[..., first:first + len(values)] @ values + half) >> _BITS).clip(0, 255)
              for first, values in weights]
    return np.moveaxis(np.stack(result, -1), -1, axis).astype(np.uint8)


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2.0 else 0.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


_FILTERS: Dict[str, Tuple[float, Callable[[float], float]]] = {
    'bilinear': (1.0, _bilinear), 'bicubic': (2.0, _bicubic), 'lanczos': (3.0, _lanczos)}
