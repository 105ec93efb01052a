# SPDX-License-Identifier: Apache-2.0
"""The checks of settings that both the configuration and a constructor accept, each in one place.

``CaiT.config`` calls them when a configuration is loaded and names the key (``DATA.CROP_PCT``); DataConfig,
TrainOptions and Mixing call them when they are constructed and name the argument (``crop_pct``). Raise InputError.
"""
from __future__ import annotations

import math
import numbers
from typing import Any, Callable, Mapping, Sequence

from CaiT import runtime
from CaiT.errors import InputError

INTERPOLATIONS = ('bicubic', 'bilinear', 'nearest', 'lanczos')
CROP_KINDS = ('random_resized_crop', 'pad_crop')
ERASE_MODES = ('pixel', 'rand', 'const')
MAX_CLASSES = 1_000_000  # beyond what any dataset has; Paddle fails on some larger sizes without a message
MAX_RESIZED_SIDE = 1_000_000  # pixels of the short side, of which the crop is a part
MIX_MODES = ('batch', 'pair', 'elem')
# Sizes of a transformer of ordinary memory: of one that is too large, a message names what differs most from them.
ORDINARY = {'image_size': 224, 'patch_size': 16, 'in_channels': 3, 'embed_dim': 192, 'depth': 24,
            'depth_token_only': 2, 'num_heads': 4, 'mlp_ratio': 4.0, 'num_classes': 1000}
BLOCK_BYTES = 128 << 10   # the objects of a block, without its weights
WORKER_BYTES = 30 << 20   # a data worker, without the batches that it makes

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


def whole(name: str, value: Any, minimum: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < minimum:
        raise InputError(f'{name}: found {value!r}, expected a whole number of at least {minimum}')


def fits_memory(name: str, value: Any, needed: int, what: str) -> None:
    """InputError when ``needed`` bytes are more than half of the memory: what trains or loads them takes as much."""
    limit = runtime.memory() // 2
    if needed > limit:
        raise InputError(f'{name}: found {value}, with which {what} {needed / 1e9:,.1f} GB, expected at most '
                         f'{limit / 1e9:,.1f} GB, half of the memory of this machine')


def check_batch(name: str, batch_size: int, image_size: int) -> None:
    """The images of a batch, in float32."""
    fits_memory(name, batch_size, 12 * batch_size * image_size ** 2,
                f'a batch of images of {image_size}x{image_size} pixels takes')


def check_workers(name: str, count: int) -> None:
    fits_memory(name, count, count * WORKER_BYTES, 'the worker processes take')


def check_transformer(values: Mapping[str, Any], name: Name = str) -> None:
    """Those arguments of a transformer that say how large it is; keys of ORDINARY, some may be missing."""
    for key, value in values.items():
        if key != 'mlp_ratio':
            whole(name(key), value, 0 if key == 'num_classes' else 1)
    ratio = values.get('mlp_ratio', 1)
    if not isinstance(ratio, numbers.Real) or not 1 <= values['embed_dim'] * ratio < math.inf:
        raise InputError(f'{name("mlp_ratio")}: found {ratio!r}, expected a number above 0, with which the MLPs have '
                         'channels')
    needed = _transformer_bytes(values)
    ordinary = {key: ORDINARY[key] if key == 'patch_size' else min(one, ORDINARY[key]) for key, one in values.items()}
    key = min(ordinary, key=lambda key: _transformer_bytes({**values, key: ordinary[key]}))
    fits_memory(name(key), values[key], needed, 'the weights and the attention of an image take')


def _transformer_bytes(values: Mapping[str, Any]) -> int:
    """Weights in float32, the objects of the blocks and the attention of one image in one block."""
    size = {key: int(value) for key, value in {**dict.fromkeys(ORDINARY, 0), 'patch_size': 1, **values}.items()}
    dim, heads, tokens = size['embed_dim'], size['num_heads'], (size['image_size'] // size['patch_size']) ** 2
    blocks = size['depth'] + size['depth_token_only']
    block = 4 * dim ** 2 + 2 * dim * int(dim * values.get('mlp_ratio', 0)) + 2 * heads ** 2
    rest = dim * (size['in_channels'] * size['patch_size'] ** 2 + tokens + size['num_classes'])
    return 4 * (blocks * block + rest + heads * tokens ** 2) + blocks * BLOCK_BYTES


def check_data_config(values: Mapping[str, Any], name: Name = str) -> None:
    """The arguments of ``CaiT.data.transforms.DataConfig``."""
    at_least(name('image_size'), values['image_size'], 1)
    positive(name('crop_pct'), values['crop_pct'], 1)
    if values['image_size'] / values['crop_pct'] > MAX_RESIZED_SIDE:
        raise InputError(f'{name("crop_pct")}: found {values["crop_pct"]} with {name("image_size")} '
                         f'{values["image_size"]}, expected images resized to at most {MAX_RESIZED_SIDE} pixels')
    one_of(name('interpolation'), values['interpolation'], INTERPOLATIONS)
    fits_memory(name('image_size'), values['image_size'], 12 * values['image_size'] ** 2, 'an image takes')
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
