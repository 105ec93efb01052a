# SPDX-License-Identifier: Apache-2.0
"""RandAugment, AutoAugment, 3-Augment and colour jitter on [H, W, 3] uint8 RGB arrays, with OpenCV.

Names, magnitudes and policies are timm's (which takes them from Google's code and the papers), so that a published
recipe string means here what it meant there. Operations on single levels give exactly Pillow's result; those that
filter or move pixels agree within a level inside the picture.

- 'rand-m9-mstd0.5-inc1': RandAugment (Cubuk et al. 2019): two operations drawn with replacement, each applied with
  probability 0.5 at magnitude N(9, 0.5) in [0, 10]; 'inc1' is the set whose strength rises with the magnitude. n and p
  may be given ('rand-m7-n3-p0.7-mstd0.5-inc1').
- 'autoaugment': the ImageNet policy of the AutoAugment paper (Cubuk et al. 2018, appendix A), timm's 'original'.
- '3augment': DeiT III (Touvron et al. 2022): one of grey, solarise, Gaussian blur, each as likely.
"""
from __future__ import annotations

import math
import re
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np

from CaiT.errors import InputError

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Colour = Tuple[int, int, int]

MAX_LEVEL = 10.0  # magnitudes are given on a scale from 0 to 10
_LEVELS = np.arange(256, dtype=np.float32)
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # ITU-R 601 luma, Pillow's and OpenCV's grey


def _blend_table(other: float, factor: float) -> np.ndarray:
    """The table of other + factor * (level - other), cut to whole levels in 0..255 as Pillow's blend does."""
    return np.clip(np.float32(other) + np.float32(factor) * (_LEVELS - np.float32(other)), 0, 255).astype(np.uint8)


def _histograms(pixels: np.ndarray) -> List[np.ndarray]:
    """Counts of the 256 levels, one int64 [256] for each channel."""
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
    """Spread the levels of each channel so that all are used about equally."""
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
    """Keep the ``bits`` (1..8) highest bits of each level."""
    return pixels & np.uint8(256 - (1 << (8 - bits)))


def solarize(pixels: np.ndarray, threshold: int) -> np.ndarray:
    """Invert the levels from ``threshold`` (0..256) up."""
    return cv2.LUT(pixels, np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS).astype(np.uint8))


def solarize_add(pixels: np.ndarray, add: int) -> np.ndarray:
    """Add to the levels below 128."""
    return cv2.LUT(pixels, np.where(_LEVELS < 128, np.minimum(_LEVELS + add, 255), _LEVELS).astype(np.uint8))


def brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: 0 is black, 1 the picture itself, more is brighter."""
    return cv2.LUT(pixels, _blend_table(0, factor))


def contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean grey of the picture."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.LUT(pixels, _blend_table(int(cv2.mean(grey)[0] + 0.5), factor))


def color(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey picture: 0 is grey, 1 the picture itself, more is more colourful."""
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = (1 - factor) * np.float32([_RED, _GREEN, _BLUE]) + factor * np.eye(3, dtype=np.float32)
    matrix[:, 3] = 0.0 if factor == 0 else -0.5  # Pillow rounds grey but cuts blends; OpenCV always rounds
    return cv2.transform(pixels, matrix)


def sharpness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the smoothed picture (3 x 3, centre 5/13, others 1/13); the outermost pixels stay, as in Pillow."""
    kernel = np.full((3, 3), (1 - factor) / 13, np.float32)
    kernel[1, 1] = (1 - factor) * 5 / 13 + factor
    result = cv2.filter2D(pixels, -1, kernel)
    result[0], result[-1], result[:, 0], result[:, -1] = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    return result


def grey(pixels: np.ndarray) -> np.ndarray:
    """The picture without colour, in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def gaussian_blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of standard deviation ``sigma`` pixels."""
    return cv2.GaussianBlur(pixels, (0, 0), sigma)


def affine(pixels: np.ndarray, matrix: Sequence[float], filter_name: str, fill: Colour) -> np.ndarray:
    """Output pixel (x, y) shows input (a x + b y + c, d x + e y + f), positions as in Pillow: pixel centres at .5.

    What comes from outside is ``fill``.
    """
    a, b, c, d, e, f = matrix
    shifted = np.float64([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])  # OpenCV: centres at whole numbers
    flag = cv2.INTER_CUBIC if filter_name == 'bicubic' else cv2.INTER_LINEAR
    return cv2.warpAffine(pixels, shifted, (pixels.shape[1], pixels.shape[0]), flags=flag | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=fill)


def shear_x_matrix(pixels: np.ndarray, factor: float) -> Tuple[float, ...]:
    """x slides by ``factor`` times y."""
    return 1, factor, 0, 0, 1, 0


def shear_y_matrix(pixels: np.ndarray, factor: float) -> Tuple[float, ...]:
    """y slides by ``factor`` times x."""
    return 1, 0, 0, factor, 1, 0


def translate_x_matrix(pixels: np.ndarray, share: float) -> Tuple[float, ...]:
    """Shift by ``share`` of the width."""
    return 1, 0, share * pixels.shape[1], 0, 1, 0


def translate_y_matrix(pixels: np.ndarray, share: float) -> Tuple[float, ...]:
    """Shift by ``share`` of the height."""
    return 1, 0, 0, 0, 1, share * pixels.shape[0]


def rotate_matrix(pixels: np.ndarray, degrees: float) -> Tuple[float, ...]:
    """Turn counter-clockwise about the centre of the picture."""
    angle = -math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = pixels.shape[1] / 2, pixels.shape[0] / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


class Operation(NamedTuple):
    """``argument(level, sign)`` gives what ``apply`` gets; sign is +1 or -1 by chance, for operations with two ends."""

    apply: Callable[..., np.ndarray]
    argument: Callable[[float, int], float]


class Movement(NamedTuple):
    """A geometric operation: ``matrix(pixels, argument(level, sign))`` goes to ``affine``."""

    matrix: Callable[[np.ndarray, float], Tuple[float, ...]]
    argument: Callable[[float, int], float]


def _enhance(level: float, sign: int) -> float:
    """A blend factor from 0.1 to 1.9 in which 5 changes nothing."""
    return level / MAX_LEVEL * 1.8 + 0.1


def _enhance_increasing(level: float, sign: int) -> float:
    """A blend factor that leaves 1 in either direction as the level rises, 0.1 to 1.9."""
    return max(0.1, 1.0 + sign * level / MAX_LEVEL * 0.9)


def _solarize(level: float, sign: int) -> int:
    return min(256, int(level / MAX_LEVEL * 256))


MOVEMENTS: Dict[str, Movement] = {
    'Rotate': Movement(rotate_matrix, lambda level, sign: sign * level / MAX_LEVEL * 30),  # degrees
    'ShearX': Movement(shear_x_matrix, lambda level, sign: sign * level / MAX_LEVEL * 0.3),
    'ShearY': Movement(shear_y_matrix, lambda level, sign: sign * level / MAX_LEVEL * 0.3),
    'TranslateXRel': Movement(translate_x_matrix, lambda level, sign: sign * level / MAX_LEVEL * 0.45),
    'TranslateYRel': Movement(translate_y_matrix, lambda level, sign: sign * level / MAX_LEVEL * 0.45),
}
OPERATIONS: Dict[str, Operation] = {
    # bits kept; 0 would be a black picture (Pillow 13 refuses it), so at least 1
    'PosterizeIncreasing': Operation(posterize, lambda level, sign: max(1, 4 - int(level / MAX_LEVEL * 4))),
    'PosterizeOriginal': Operation(posterize, lambda level, sign: int(level / MAX_LEVEL * 4) + 4),
    'Solarize': Operation(solarize, _solarize),
    'SolarizeIncreasing': Operation(solarize, lambda level, sign: 256 - _solarize(level, sign)),
    'SolarizeAdd': Operation(solarize_add, lambda level, sign: min(128, int(level / MAX_LEVEL * 110))),
    'Color': Operation(color, _enhance),
    'ColorIncreasing': Operation(color, _enhance_increasing),
    'Contrast': Operation(contrast, _enhance),
    'ContrastIncreasing': Operation(contrast, _enhance_increasing),
    'BrightnessIncreasing': Operation(brightness, _enhance_increasing),
    'Sharpness': Operation(sharpness, _enhance),
    'SharpnessIncreasing': Operation(sharpness, _enhance_increasing),
}
PLAIN: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'AutoContrast': auto_contrast,
    'Equalize': equalize,
    'Invert': invert,
}

RANDAUGMENT = (
    'AutoContrast', 'Equalize', 'Invert', 'Rotate', 'PosterizeIncreasing', 'SolarizeIncreasing', 'SolarizeAdd',
    'ColorIncreasing', 'ContrastIncreasing', 'BrightnessIncreasing', 'SharpnessIncreasing', 'ShearX', 'ShearY',
    'TranslateXRel', 'TranslateYRel',
)
# (operation, probability, level) twice for each of the 25 sub-policies of arXiv:1805.09501, table 9
AUTOAUGMENT = (
    (('PosterizeOriginal', 0.4, 8), ('Rotate', 0.6, 9)),
    (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
    (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
    (('PosterizeOriginal', 0.6, 7), ('PosterizeOriginal', 0.6, 6)),
    (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
    (('Equalize', 0.4, 4), ('Rotate', 0.8, 8)),
    (('Solarize', 0.6, 3), ('Equalize', 0.6, 7)),
    (('PosterizeOriginal', 0.8, 5), ('Equalize', 1.0, 2)),
    (('Rotate', 0.2, 3), ('Solarize', 0.6, 8)),
    (('Equalize', 0.6, 8), ('PosterizeOriginal', 0.4, 6)),
    (('Rotate', 0.8, 8), ('Color', 0.4, 0)),
    (('Rotate', 0.4, 9), ('Equalize', 0.6, 2)),
    (('Equalize', 0.0, 7), ('Equalize', 0.8, 8)),
    (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
    (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
    (('Rotate', 0.8, 8), ('Color', 1.0, 2)),
    (('Color', 0.8, 8), ('Solarize', 0.8, 7)),
    (('Sharpness', 0.4, 7), ('Invert', 0.6, 8)),
    (('ShearX', 0.6, 5), ('Equalize', 1.0, 9)),
    (('Color', 0.4, 0), ('Equalize', 0.6, 3)),
    (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
    (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
    (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
    (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
    (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
)


class Applier:
    """Applies an operation by name at a level; knows the fill colour and the filters to draw from."""

    def __init__(self, fill: Colour, filters: Sequence[str]) -> None:
        self.fill, self.filters = fill, filters

    def __call__(self, pixels: np.ndarray, name: str, level: float, rng: np.random.Generator) -> np.ndarray:
        if name in PLAIN:
            return PLAIN[name](pixels)
        sign = 1 if rng.random() < 0.5 else -1
        if name in OPERATIONS:
            operation = OPERATIONS[name]
            return operation.apply(pixels, operation.argument(level, sign))
        movement = MOVEMENTS[name]
        filter_name = self.filters[int(rng.random() * len(self.filters))]
        return affine(pixels, movement.matrix(pixels, movement.argument(level, sign)), filter_name, self.fill)


class RandAugment:
    """See the head of this file."""

    def __init__(self, text: str, applier: Applier) -> None:
        parts = dict(re.findall(r'-(mstd|m|n|p|inc)(\d+(?:\.\d+)?)(?=-|$)', text))
        if text != 'rand' + ''.join(re.findall(r'-(?:mstd|m|n|p|inc)\d+(?:\.\d+)?(?=-|$)', text)) or 'm' not in parts \
                or parts.get('inc') != '1' or not parts.get('n', '2').isdigit():
            raise InputError(f"auto_augment: found {text!r}, expected 'rand-m<0..10>[-n<count>][-p<probability>]"
                             "[-mstd<number>]-inc1' (only the increasing set is here)")
        self.applier = applier
        self.level, self.deviation = float(parts['m']), float(parts.get('mstd', 0))
        self.count, self.prob = int(parts.get('n', 2)), float(parts.get('p', 0.5))

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for _ in range(self.count):
            name = RANDAUGMENT[int(rng.random() * len(RANDAUGMENT))]
            if rng.random() < self.prob:
                level = min(max(self.level + self.deviation * rng.standard_normal(), 0.0), MAX_LEVEL)
                pixels = self.applier(pixels, name, level, rng)
        return pixels


class AutoAugment:
    """One of the 25 sub-policies, its two operations each with its own probability and level."""

    def __init__(self, applier: Applier) -> None:
        self.applier = applier

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for name, prob, level in AUTOAUGMENT[int(rng.random() * len(AUTOAUGMENT))]:
            if rng.random() < prob:
                pixels = self.applier(pixels, name, level, rng)
        return pixels


def three_augment(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey, solarise at 128, or blur with sigma uniform in [0.1, 2]: one of the three."""
    choice = int(rng.random() * 3)
    if choice == 0:
        return grey(pixels)
    if choice == 1:
        return solarize(pixels, 128)
    return gaussian_blur(pixels, 0.1 + 1.9 * rng.random())


def unchanged(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The augmentation of ``auto_augment=''``."""
    return pixels


def auto_augment(text: str, fill: Colour, filters: Sequence[str]) -> Augmentation:
    """The augmentation a recipe string means: (pixels, generator) -> pixels.

    ``fill`` is the colour behind moved pictures (timm: the mean), ``filters`` the interpolations to draw from.
    """
    if text == '':
        return unchanged
    if text.startswith('rand'):
        return RandAugment(text, Applier(fill, filters))
    if text == 'autoaugment':
        return AutoAugment(Applier(fill, filters))
    if text == '3augment':
        return three_augment
    raise InputError(f"auto_augment: found {text!r}, expected '', 'rand-m9-mstd0.5-inc1', 'autoaugment' or '3augment'")


def color_jitter(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation in random order, each by a factor uniform in 1 +- ``strength``."""
    for index in rng.permutation(3):
        factor = 1 + strength * (2 * rng.random() - 1)
        pixels = (brightness, contrast, color)[index](pixels, factor)
    return pixels
