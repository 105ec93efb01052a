# SPDX-License-Identifier: Apache-2.0
"""RandAugment, AutoAugment, 3-Augment and color jitter on [H, W, 3] uint8 RGB arrays.

Names, magnitudes and policies are timm's (which takes them from Google's code and the papers), so that a recipe string
has the same meaning here. The operations themselves are in operations.py.

- 'rand-m9-mstd0.5-inc1': RandAugment (Cubuk et al. 2019): two operations sampled with replacement, each applied with
  probability 0.5 at magnitude N(9, 0.5) clipped to [0, 10]. 'inc1' selects operations whose strength increases with the
  magnitude; without it posterize, solarize and the enhancements have AutoAugment's scales. n and p may be given
  ('rand-m7-n3-p0.7-mstd0.5-inc1').
- 'autoaugment': the ImageNet policy of the AutoAugment paper (Cubuk et al. 2018, appendix A), timm's 'original'.
- '3augment': DeiT III (Touvron et al. 2022): one of grayscale, solarize, Gaussian blur, with equal probability.
"""
from __future__ import annotations

import re
from typing import Callable, Dict, NamedTuple, Sequence, Tuple

import numpy as np

from CaiT.data import operations as ops
from CaiT.errors import InputError

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]

MAX_LEVEL = 10.0  # magnitudes are given on a scale from 0 to 10


class Operation(NamedTuple):
    """``apply(pixels, argument(level, sign))``; sign is +1 or -1 at random, for operations with two directions."""

    apply: Callable[..., np.ndarray]
    argument: Callable[[float, int], float]


class GeometricOperation(NamedTuple):
    """``ops.affine`` with ``matrix(pixels, argument(level, sign))``."""

    matrix: Callable[[np.ndarray, float], Tuple[float, ...]]
    argument: Callable[[float, int], float]


def _enhance(level: float, sign: int) -> float:
    """A blend factor from 0.1 to 1.9; level 5 is the identity."""
    return level / MAX_LEVEL * 1.8 + 0.1


def _enhance_increasing(level: float, sign: int) -> float:
    """A blend factor that departs from 1 in either direction as the level increases, 0.1 to 1.9."""
    return max(0.1, 1.0 + sign * level / MAX_LEVEL * 0.9)


def _solarize(level: float, sign: int) -> int:
    return min(256, int(level / MAX_LEVEL * 256))


GEOMETRIC_OPERATIONS: Dict[str, GeometricOperation] = {
    'Rotate': GeometricOperation(ops.rotate_matrix, lambda level, sign: sign * level / MAX_LEVEL * 30),  # degrees
    'ShearX': GeometricOperation(ops.shear_x_matrix, lambda level, sign: sign * level / MAX_LEVEL * 0.3),
    'ShearY': GeometricOperation(ops.shear_y_matrix, lambda level, sign: sign * level / MAX_LEVEL * 0.3),
    'TranslateXRel': GeometricOperation(ops.translate_x_matrix, lambda level, sign: sign * level / MAX_LEVEL * 0.45),
    'TranslateYRel': GeometricOperation(ops.translate_y_matrix, lambda level, sign: sign * level / MAX_LEVEL * 0.45),
}
OPERATIONS: Dict[str, Operation] = {
    # number of bits; 0 would give a black image (an error in Pillow 13), so at least 1
    'PosterizeIncreasing': Operation(ops.posterize, lambda level, sign: max(1, 4 - int(level / MAX_LEVEL * 4))),
    'Posterize': Operation(ops.posterize, lambda level, sign: max(1, int(level / MAX_LEVEL * 4))),
    'PosterizeOriginal': Operation(ops.posterize, lambda level, sign: int(level / MAX_LEVEL * 4) + 4),
    'Solarize': Operation(ops.solarize, _solarize),
    'SolarizeIncreasing': Operation(ops.solarize, lambda level, sign: 256 - _solarize(level, sign)),
    'SolarizeAdd': Operation(ops.solarize_add, lambda level, sign: min(128, int(level / MAX_LEVEL * 110))),
    'Color': Operation(ops.color, _enhance),
    'ColorIncreasing': Operation(ops.color, _enhance_increasing),
    'Contrast': Operation(ops.contrast, _enhance),
    'ContrastIncreasing': Operation(ops.contrast, _enhance_increasing),
    'Brightness': Operation(ops.brightness, _enhance),
    'BrightnessIncreasing': Operation(ops.brightness, _enhance_increasing),
    'Sharpness': Operation(ops.sharpness, _enhance),
    'SharpnessIncreasing': Operation(ops.sharpness, _enhance_increasing),
}
PLAIN: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'AutoContrast': ops.auto_contrast,
    'Equalize': ops.equalize,
    'Invert': ops.invert,
}

RANDAUGMENT = (
    'AutoContrast', 'Equalize', 'Invert', 'Rotate', 'PosterizeIncreasing', 'SolarizeIncreasing', 'SolarizeAdd',
    'ColorIncreasing', 'ContrastIncreasing', 'BrightnessIncreasing', 'SharpnessIncreasing', 'ShearX', 'ShearY',
    'TranslateXRel', 'TranslateYRel',
)
RANDAUGMENT_PLAIN = tuple(name.replace('Increasing', '') for name in RANDAUGMENT)  # timm's set without 'inc1'
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
    """Applies an operation by name at a level, with ``fill`` as border color and one of ``filters`` at random."""

    def __init__(self, fill: ops.Color, filters: Sequence[str]) -> None:
        self.fill, self.filters = fill, filters

    def __call__(self, pixels: np.ndarray, name: str, level: float, rng: np.random.Generator) -> np.ndarray:
        if name in PLAIN:
            return PLAIN[name](pixels)
        sign = 1 if rng.random() < 0.5 else -1
        if name in OPERATIONS:
            operation = OPERATIONS[name]
            return operation.apply(pixels, operation.argument(level, sign))
        operation = GEOMETRIC_OPERATIONS[name]
        filter_name = self.filters[int(rng.random() * len(self.filters))]
        return ops.affine(pixels, operation.matrix(pixels, operation.argument(level, sign)), filter_name, self.fill)


class RandAugment:
    """See the module docstring."""

    def __init__(self, text: str, applier: Applier) -> None:
        parts = dict(re.findall(r'-(mstd|m|n|p|inc)(\d+(?:\.\d+)?)(?=-|$)', text))
        if text != 'rand' + ''.join(re.findall(r'-(?:mstd|m|n|p|inc)\d+(?:\.\d+)?(?=-|$)', text)) or 'm' not in parts \
                or parts.get('inc', '1') != '1' or not parts.get('n', '2').isdecimal():
            raise InputError(f"auto_augment: found {text!r}, expected 'rand-m<0..10>[-n<count>][-p<probability>]"
                             "[-mstd<number>][-inc1]'")
        self.applier = applier
        self.names = RANDAUGMENT if 'inc' in parts else RANDAUGMENT_PLAIN
        self.level, self.level_std = float(parts['m']), float(parts.get('mstd', 0))
        self.count, self.prob = int(parts.get('n', 2)), float(parts.get('p', 0.5))

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for _ in range(self.count):
            name = self.names[int(rng.random() * len(self.names))]
            if rng.random() < self.prob:
                level = min(max(self.level + self.level_std * rng.standard_normal(), 0.0), MAX_LEVEL)
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
    """One of grayscale, solarize at 128, and Gaussian blur with sigma uniform in [0.1, 2]."""
    choice = int(rng.random() * 3)
    if choice == 0:
        return ops.grayscale(pixels)
    if choice == 1:
        return ops.solarize(pixels, 128)
    return ops.gaussian_blur(pixels, 0.1 + 1.9 * rng.random())


def identity(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The augmentation of ``auto_augment=''``."""
    return pixels


def auto_augment(text: str, fill: ops.Color, filters: Sequence[str]) -> Augmentation:
    """The augmentation of a recipe string: (pixels, generator) -> pixels.

    ``fill`` is the border color of geometric operations (timm: the mean), ``filters`` are their interpolations.
    """
    if text == '':
        return identity
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
        pixels = (ops.brightness, ops.contrast, ops.color)[index](pixels, factor)
    return pixels
