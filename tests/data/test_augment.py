# SPDX-License-Identifier: Apache-2.0
"""Augmentation magnitudes, recipe strings and frequencies."""
from __future__ import annotations

import collections
import math

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from CaiT.data import augment
from CaiT.data.augment import GEOMETRIC_OPERATIONS, OPERATIONS, Applier, auto_augment
from CaiT.errors import InputError

FILL = (124, 116, 104)
RECIPE = 'rand-m9-mstd0.5-inc1'


# What timm 1.0.31 hands to each operation at levels 0, 3, 5, 9, 9.5 and 10, without the random sign
SIGNED = {'Rotate': 30.0, 'ShearX': 0.3, 'ShearY': 0.3, 'TranslateXRel': 0.45, 'TranslateYRel': 0.45}
FIXED = {
    'PosterizeIncreasing': [4, 3, 2, 1, 1, 1],  # timm's last is 0, a black image that Pillow 13 refuses
    'PosterizeOriginal': [4, 5, 6, 7, 7, 8],
    'Solarize': [0, 76, 128, 230, 243, 256],
    'SolarizeIncreasing': [256, 180, 128, 26, 13, 0],
    'SolarizeAdd': [0, 33, 55, 99, 104, 110],
    'Color': [0.1, 0.64, 1.0, 1.72, 1.81, 1.9],
    'Contrast': [0.1, 0.64, 1.0, 1.72, 1.81, 1.9],
    'Sharpness': [0.1, 0.64, 1.0, 1.72, 1.81, 1.9],
}
ENDS = {1: [1.0, 1.27, 1.45, 1.81, 1.855, 1.9], -1: [1.0, 0.73, 0.55, 0.19, 0.145, 0.1]}
LEVELS = (0, 3, 5, 9, 9.5, 10)


@pytest.mark.parametrize('name', sorted(FIXED))
def test_magnitudes_without_sign(name):
    for sign in (1, -1):
        found = [OPERATIONS[name].argument(level, sign) for level in LEVELS]
        np.testing.assert_allclose(found, FIXED[name], atol=1e-12)


@pytest.mark.parametrize('name', ['Color', 'Contrast', 'Brightness', 'Sharpness'])
def test_increasing_magnitudes_leave_1_in_both_directions(name):
    for sign, expected in ENDS.items():
        found = [OPERATIONS[name + 'Increasing'].argument(level, sign) for level in LEVELS]
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize('name', sorted(SIGNED))
def test_magnitudes_of_geometric_operations(name):
    for sign in (1, -1):
        found = [GEOMETRIC_OPERATIONS[name].argument(level, sign) for level in LEVELS]
        np.testing.assert_allclose(found, [sign * level / 10 * SIGNED[name] for level in LEVELS], atol=1e-12)


class Recorder(Applier):
    """Records the operations instead of applying them."""

    def __init__(self) -> None:
        super().__init__(FILL, ('bilinear',))
        self.calls = []

    def __call__(self, pixels, name, level, rng):
        self.calls.append((name, level))
        return pixels


def test_randaugment_samples_two_of_fifteen_with_probability_one_half(pixels, rng):
    recorder = Recorder()
    randaugment = augment.RandAugment(RECIPE, recorder)
    runs = 6000
    for _ in range(runs):
        randaugment(pixels, rng)
    counts = collections.Counter(name for name, _ in recorder.calls)
    assert sorted(counts) == sorted(augment.RANDAUGMENT) and len(counts) == 15
    assert abs(len(recorder.calls) / runs - 1.0) < 0.03  # two draws, each with probability 0.5
    assert all(abs(count / runs - 1 / 15) < 0.014 for count in counts.values())
    levels = np.array([level for _, level in recorder.calls])
    assert abs(levels.mean() - 9) < 0.03 and 0.45 < levels.std() < 0.5 and levels.max() == 10.0


def test_randaugment_parses_its_recipe():
    randaugment = augment.RandAugment('rand-m7-n3-p0.7-mstd1-inc1', Recorder())
    assert (randaugment.level, randaugment.level_std, randaugment.count, randaugment.prob) == (7, 1, 3, 0.7)


def test_randaugment_without_inc1_keeps_the_first_scales():
    """timm's other set: at magnitude 9, posterize to 3 bits, solarize from 230, blend factor 1.72."""
    names = augment.RandAugment('rand-m9-mstd0.5', Recorder()).names
    assert len(set(names)) == 15 and {'Posterize', 'Solarize', 'Color', 'Brightness', 'Sharpness'} < {*names}
    assert not any('Increasing' in name for name in names)
    found = {name: OPERATIONS[name].argument(9, 1) for name in names if name in OPERATIONS}
    assert found == pytest.approx({'Posterize': 3, 'Solarize': 230, 'SolarizeAdd': 99, 'Color': 1.72, 'Contrast': 1.72,
                                   'Brightness': 1.72, 'Sharpness': 1.72})
    assert OPERATIONS['Posterize'].argument(0, 1) == 1  # no bit at all would be a black image


@pytest.mark.parametrize('text', ['rand', 'rand-mstd0.5', 'rand-m9-mstd0.5-inc0', 'rand-m9-x3-inc1', 'rand-9-inc1',
                                  'rand-m9-n1.5-inc1', 'randaugment', 'rand-m9-inc1x', 'original', 'autoaugment-mstd1'])
def test_unknown_recipes_are_one_line(text):
    with pytest.raises(InputError, match='auto_augment: found'):
        auto_augment(text, FILL, ('bilinear',))


def test_every_operation_of_every_recipe_runs(pixels, rng):
    names = {name for policy in augment.AUTOAUGMENT for name, _, _ in policy}
    names |= {*augment.RANDAUGMENT, *augment.RANDAUGMENT_PLAIN}
    assert len(names) == 22 and names == {*augment.PLAIN, *GEOMETRIC_OPERATIONS, *OPERATIONS}
    applier = Applier(FILL, ('bilinear', 'bicubic'))
    before = pixels.copy()
    for name in sorted(names):
        for level in (0, 10):
            result = applier(pixels, name, level, rng)
            assert result.shape == pixels.shape and result.dtype == np.uint8
    np.testing.assert_array_equal(pixels, before)  # the input is never changed in place


def test_geometric_operations_have_both_signs(rng):
    line = np.zeros((21, 21, 3), np.uint8)
    line[:, 10] = 255
    applier = Applier((0, 0, 0), ('bilinear',))
    places = {int(applier(line, 'TranslateXRel', 10, rng)[10, :, 0].argmax()) for _ in range(30)}
    assert places == {1, 19}  # 0.45 * 21 = 9.45 pixels to the left or right


def test_autoaugment_is_the_papers_policy(pixels, rng):
    names = collections.Counter(name for policy in augment.AUTOAUGMENT for name, _, _ in policy)
    assert len(augment.AUTOAUGMENT) == 25
    assert names == {'Equalize': 17, 'Solarize': 7, 'Rotate': 6, 'Color': 6, 'PosterizeOriginal': 5, 'Invert': 3,
                     'AutoContrast': 2, 'Contrast': 2, 'Sharpness': 1, 'ShearX': 1}
    probability = sum(prob for policy in augment.AUTOAUGMENT for _, prob, _ in policy)
    assert math.isclose(probability, 31.0, abs_tol=1e-9)
    assert sum(level for policy in augment.AUTOAUGMENT for _, _, level in policy) == 287
    recorder = Recorder()
    policy = augment.AutoAugment(recorder)
    for _ in range(5000):
        policy(pixels, rng)
    assert abs(len(recorder.calls) / 5000 - probability / 25) < 0.03


def test_three_augment_is_one_of_three(pixels, rng):
    counts, spreads = collections.Counter(), []
    for _ in range(1500):
        result = augment.three_augment(pixels, rng)
        if (result[..., 0] == result[..., 1]).all():
            counts['gray'] += 1
        elif np.array_equal(result, np.asarray(ImageOps.solarize(Image.fromarray(pixels), 128))):
            counts['solarize'] += 1
        else:
            counts['blur'] += 1
            spreads.append(result.std())
    assert all(430 <= counts[name] <= 570 for name in ('gray', 'solarize', 'blur'))  # 500 +- 4 sigma
    most, least = cv2.GaussianBlur(pixels, (0, 0), 2.0).std(), pixels.std()
    assert most - 0.01 <= min(spreads) < most + 0.5 and least - 0.5 < max(spreads) <= least


def test_no_augmentation_is_the_same_image(pixels, rng):
    assert auto_augment('', FILL, ('bilinear',))(pixels, rng) is pixels


def test_color_jitter_stays_within_its_strength(rng):
    flat = np.full((4, 4, 3), 100, np.uint8)  # contrast and saturation leave a gray image as it is
    levels = np.array([augment.color_jitter(flat, 0.4, rng)[0, 0, 0] for _ in range(600)])
    assert 59 <= levels.min() <= 62 and 138 <= levels.max() <= 140 and abs(levels.mean() - 99.5) < 3
    spread = np.zeros((4, 4, 3), np.uint8)
    spread[:, :2] = (200, 50, 50)
    results = [augment.color_jitter(spread, 0.4, rng) for _ in range(50)]
    assert len({result.tobytes() for result in results}) > 40
