# SPDX-License-Identifier: Apache-2.0
"""The checks of settings that both the configuration and a constructor accept, each in one place.

``CaiT.config`` calls them when a configuration is loaded and names the key (``DATA.CROP_PCT``); DataConfig,
TrainOptions and Mixing call them when they are constructed and name the argument (``crop_pct``). Raise InputError.
"""
from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Sequence

from CaiT.errors import InputError

INTERPOLATIONS = ('bicubic', 'bilinear', 'nearest', 'lanczos')
CROP_KINDS = ('random_resized_crop', 'pad_crop')
ERASE_MODES = ('pixel', 'rand', 'const')
MAX_CLASSES = 1_000_000  # beyond what any dataset has; Paddle fails on some larger sizes without a message
MAX_RESIZED_SIDE = 1_000_000  # pixels of the short side, of which the crop is a part
MIX_MODES = ('batch', 'pair', 'elem')

Name = Callable[[str], str]  # argument name -> the name that messages show


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        choices = ', '.join(word or "''" for word in allowed)
        raise InputError(f'{name}: found {value!r}, expected one of {choices}')


def at_least(name: str, value: float, minimum: float) -> None:
    if not value >= minimum:
        raise InputError(f'{name}: found {value}, expected at least {minimum}')


def between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f'{name}: found {value}, expected a number from {low} to {high}')


def positive(name: str, value: float, maximum: float = math.inf) -> None:
    if not 0 < value <= maximum:
        limit = '' if maximum == math.inf else f', at most {maximum:g}'
        raise InputError(f'{name}: found {value}, expected more than 0{limit}')


def shuffle_block(name: str, value: str) -> int:
    """The N of the setting 'block:N', 0 for 'full' and 'balanced'."""
    word, _, number = value.partition(':')
    if value in ('full', 'balanced'):
        return 0
    if word != 'block' or not (number.isascii() and number.isdigit() and len(number) <= 9 and int(number)):
        raise InputError(f'{name}: found {value!r}, expected full, balanced, or block:N with a number of images of '
                         'at least 1')
    return int(number)


def check_data_config(values: Mapping[str, Any], name: Name = str) -> None:
    """The arguments of ``CaiT.data.transforms.DataConfig``."""
    at_least(name('image_size'), values['image_size'], 1)
    positive(name('crop_pct'), values['crop_pct'], 1)
    if values['image_size'] / values['crop_pct'] > MAX_RESIZED_SIDE:
        raise InputError(f'{name("crop_pct")}: found {values["crop_pct"]} with {name("image_size")} '
                         f'{values["image_size"]}, expected images resized to at most {MAX_RESIZED_SIDE} pixels')
    one_of(name('interpolation'), values['interpolation'], INTERPOLATIONS)
    for key in ('mean', 'std'):
        if len(values[key]) != 3:
            raise InputError(f'{name(key)}: found {len(values[key])} numbers, expected 3 (red, green, blue)')
    for key, low, high in (('mean', 0.0, 1.0), ('std', 1e-3, 1.0)):  # also refuses NaN
        if not all(low <= value <= high for value in values[key]):
            raise InputError(f'{name(key)}: found {tuple(values[key])}, expected numbers from {low:g} to {high:g} '
                             '(of pixels scaled to 0 .. 1)')


def check_train_options(values: Mapping[str, Any], name: Name = str) -> None:
    """The arguments of ``CaiT.data.train_transforms.TrainOptions``; ``auto_augment`` is checked where it is parsed."""
    one_of(name('kind'), values['kind'], CROP_KINDS)
    one_of(name('interpolation'), values['interpolation'], ('', 'random', *INTERPOLATIONS))
    one_of(name('erase_mode'), values['erase_mode'], ERASE_MODES)
    for key, low, high in (('scale', 0, 1), ('ratio', 0, math.inf)):
        pair = tuple(values[key])
        if len(pair) != 2 or not low < pair[0] <= pair[1] <= high:
            raise InputError(f'{name(key)}: found {pair}, expected two increasing numbers above {low}, at most {high}')
    for key, high in (('shift', 1), ('zoom', 0.9), ('hflip', 1), ('erase_prob', 1), ('color_jitter', 1)):
        between(name(key), values[key], 0, high)


# What goes with images of several classes: key -> allowed values, and why no others.
MULTI_LABEL = {
    'DATA.DATASET': (('imagenet2012', 'digits'), 'list files hold several class ids, archives and shards one'),
    'TRAIN.LOSS': (('BCE',), 'softmax cross entropy is for one class per image'),
    'TRAIN.LABEL_SMOOTHING': ((0.0,), 'smoothing is over the classes of one label'),
    'TRAIN.DISTILL.TYPE': (('none',), "the teacher's softmax is for one class per image"),
    'AUG.MIXUP': ((0.0,), 'a class of a mixed image is neither there nor not there'),
    'AUG.CUTMIX': ((0.0,), 'a class may lie outside of the part that is pasted'),
}


def check_multi_label(value: Callable[[str], Any]) -> None:
    """The settings beside DATA.MULTI_LABEL; ``value`` gives that of a key."""
    if not value('DATA.MULTI_LABEL'):
        if value('DATA.THRESHOLDS'):
            raise InputError(f'DATA.THRESHOLDS: found {value("DATA.THRESHOLDS")} beside DATA.MULTI_LABEL False, '
                             'expected it empty: of one class per image the most probable is predicted')
        return
    for key, (allowed, reason) in MULTI_LABEL.items():
        found = value(key)
        if found not in allowed:
            raise InputError(f'{key}: found {found} beside DATA.MULTI_LABEL True, expected '
                             f'{" or ".join(map(str, allowed))}: {reason}')
    if value('DATA.SHUFFLE') == 'balanced':
        raise InputError('DATA.SHUFFLE: found balanced beside DATA.MULTI_LABEL True, expected full or block:N: an '
                         'image of several classes belongs to none of them alone (TRAIN.CLASS_WEIGHTS weights classes)')


def check_mixing(values: Mapping[str, Any], name: Name = str) -> None:
    """The arguments of ``CaiT.data.mixing.Mixing`` that can be checked one by one."""
    one_of(name('mode'), values['mode'], MIX_MODES)
    for key in ('mixup_alpha', 'cutmix_alpha'):
        at_least(name(key), values[key], 0)
    for key in ('prob', 'switch_prob', 'label_smoothing'):
        between(name(key), values[key], 0, 1)
