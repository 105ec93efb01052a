# SPDX-License-Identifier: Apache-2.0
"""Operations on images, [H, W, 3] uint8 RGB arrays, with OpenCV: each returns a new array.

Pointwise operations are bit-identical to Pillow's; filters and geometric operations differ by a level or two inside the
image.
"""
from __future__ import annotations

import math
from typing import List, Sequence, Tuple

import cv2
import numpy as np

Color = Tuple[int, int, int]

_LEVELS = np.arange(256, dtype=np.float32)
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # ITU-R 601 luma, as in Pillow and OpenCV


def _blend_table(other: float, factor: float) -> np.ndarray:
    """Lookup table of other + factor * (level - other), clipped to 0..255 and truncated as in Pillow's blend."""
    return np.clip(np.float32(other) + np.float32(factor) * (_LEVELS - np.float32(other)), 0, 255).astype(np.uint8)


def _histograms(pixels: np.ndarray) -> List[np.ndarray]:
    """Histogram of the 256 levels, one int64 [256] for each channel."""
    return [cv2.calcHist([pixels], [c], None, [256], [0, 256]).ravel().astype(np.int64) for c in range(3)]


def _by_channel(pixels: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
    return cv2.LUT(pixels, np.stack(tables, axis=-1).astype(np.uint8).reshape(256, 1, 3))


def auto_contrast(pixels: np.ndarray) -> np.ndarray:
    """Stretch each channel so that its darkest level becomes 0 and its brightest 255."""
    tables = []
    for counts in _histograms(pixels):
        used = np.flatnonzero(counts)
        low, high = int(used[0]), int(used[-1])
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        tables.append(np.clip((np.arange(256) * scale + offset).astype(np.int64), 0, 255))
    return _by_channel(pixels, tables)


def equalize(pixels: np.ndarray) -> np.ndarray:
    """Equalize the histogram of each channel."""
    tables = []
    for counts in _histograms(pixels):
        used = counts[counts > 0]
        step = (used.sum() - used[-1]) // 255
        if step == 0:
            tables.append(np.arange(256))
        else:
            tables.append(np.minimum((step // 2 + np.cumsum(counts) - counts) // step, 255))
    return _by_channel(pixels, tables)


def invert(pixels: np.ndarray) -> np.ndarray:
    """255 - level."""
    return cv2.bitwise_not(pixels)


def posterize(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Keep the ``bits`` (1..8) most significant bits of each level."""
    return pixels & np.uint8(256 - (1 << (8 - bits)))


def solarize(pixels: np.ndarray, threshold: int) -> np.ndarray:
    """Invert the levels from ``threshold`` (0..256) on."""
    return cv2.LUT(pixels, np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS).astype(np.uint8))


def solarize_add(pixels: np.ndarray, add: int) -> np.ndarray:
    """Add ``add`` to the levels below 128."""
    return cv2.LUT(pixels, np.where(_LEVELS < 128, np.minimum(_LEVELS + add, 255), _LEVELS).astype(np.uint8))


def brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: factor 0 is black, 1 the identity, above 1 brighter."""
    return cv2.LUT(pixels, _blend_table(0, factor))


def contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean gray level of the image."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.LUT(pixels, _blend_table(int(cv2.mean(gray)[0] + 0.5), factor))


def color(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grayscale image: factor 0 is gray, 1 the identity, above 1 more saturated."""
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = (1 - factor) * np.float32([_RED, _GREEN, _BLUE]) + factor * np.eye(3, dtype=np.float32)
    # Pillow rounds grayscale but truncates blends; OpenCV always rounds, halves to even: at 1 an offset would do harm.
    matrix[:, 3] = 0.0 if factor in (0, 1) else -0.5
    return cv2.transform(pixels, matrix)


def sharpness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the smoothed image (3 x 3, center 5/13, others 1/13); border pixels are unchanged, as in Pillow."""
    kernel = np.full((3, 3), (1 - factor) / 13, np.float32)
    kernel[1, 1] = (1 - factor) * 5 / 13 + factor
    result = cv2.filter2D(pixels, -1, kernel)
    result[0], result[-1], result[:, 0], result[:, -1] = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    return result


def grayscale(pixels: np.ndarray) -> np.ndarray:
    """Grayscale, in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def gaussian_blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of standard deviation ``sigma`` pixels."""
    return cv2.GaussianBlur(pixels, (0, 0), sigma)


def affine(pixels: np.ndarray, matrix: Sequence[float], filter_name: str, fill: Color) -> np.ndarray:
    """Output pixel (x, y) is input (a x + b y + c, d x + e y + f), in Pillow's coordinates: pixel centers at .5.

    Pixels outside the input are ``fill``.
    """
    a, b, c, d, e, f = matrix
    shifted = np.float64([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])  # OpenCV: centers at integers
    flag = cv2.INTER_CUBIC if filter_name == 'bicubic' else cv2.INTER_LINEAR
    return cv2.warpAffine(pixels, shifted, (pixels.shape[1], pixels.shape[0]), flags=flag | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=fill)


def shear_x_matrix(pixels: np.ndarray, factor: float) -> Tuple[float, ...]:
    """x is shifted by ``factor`` times y."""
    return 1, factor, 0, 0, 1, 0


def shear_y_matrix(pixels: np.ndarray, factor: float) -> Tuple[float, ...]:
    """y is shifted by ``factor`` times x."""
    return 1, 0, 0, factor, 1, 0


def translate_x_matrix(pixels: np.ndarray, fraction: float) -> Tuple[float, ...]:
    """Shift by ``fraction`` of the width."""
    return 1, 0, fraction * pixels.shape[1], 0, 1, 0


def translate_y_matrix(pixels: np.ndarray, fraction: float) -> Tuple[float, ...]:
    """Shift by ``fraction`` of the height."""
    return 1, 0, 0, 0, 1, fraction * pixels.shape[0]


def rotate_matrix(pixels: np.ndarray, degrees: float) -> Tuple[float, ...]:
    """Rotate counterclockwise about the image center."""
    angle = -math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = pixels.shape[1] / 2, pixels.shape[0] / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y
