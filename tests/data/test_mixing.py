# SPDX-License-Identifier: Apache-2.0
"""Mixup and CutMix: images, targets, probabilities and errors."""
from __future__ import annotations

import numpy as np
import pytest

from CaiT.data.mixing import MODES, Mixing, random_box, smooth_one_hot
from CaiT.errors import InputError

CLASSES = 7


def batch(count: int = 6, size: int = 20):
    """Images filled with their index, and labels."""
    images = np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1) * np.ones((1, 3, size, size), np.float32)
    return images, np.arange(count) % CLASSES


def own_weight(images: np.ndarray) -> np.ndarray:
    """Of each image, the weight of the image itself; the rest is its partner."""
    count = len(images)
    own, other = np.arange(count), np.arange(count)[::-1]
    return (images.mean((1, 2, 3)) - other) / (own - other)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('mixup,cutmix', [(0.8, 0), (0, 1.0), (0.8, 1.0)])
def test_targets_have_the_weights_of_the_images(mode, mixup, cutmix, rng):
    mixing = Mixing(mixup, cutmix, CLASSES, 6, mode=mode, label_smoothing=0.1)
    images, labels = batch()
    before, lams = images.copy(), []
    for _ in range(40):
        mixed, targets = mixing(images, labels, rng)
        lam = own_weight(mixed)[:, None]
        clean = smooth_one_hot(labels, CLASSES, 0.1)
        assert mixed.dtype == targets.dtype == np.float32 and mixed.shape == images.shape
        np.testing.assert_allclose(targets, clean * lam + clean[::-1] * (1 - lam), atol=2e-6)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        lams.append(lam[:, 0])
    lams = np.array(lams)
    assert len(np.unique(lams.round(3))) > 15
    assert np.ptp(lams, axis=1).max() < 1e-5 if mode == 'batch' else np.ptp(lams[:, :3], axis=1).max() > 0.5
    difference = np.abs(lams - lams[:, ::-1]).max()  # from image to partner
    assert difference > 0.5 if mode == 'elem' else difference < 1e-5
    np.testing.assert_array_equal(images, before)


def test_mixup_blends_and_cutmix_pastes(rng):
    images, labels = batch()
    blended, _ = Mixing(0.8, 0, CLASSES, 6, mode='batch')(images, labels, rng)
    assert (np.ptp(blended, axis=(1, 2, 3)) < 1e-5).all()
    pasted, _ = Mixing(0, 1.0, CLASSES, 6, mode='elem')(images, labels, rng)
    for i, image in enumerate(pasted):
        assert set(np.unique(image)) <= {float(i), float(5 - i)}
        rows, columns = np.nonzero(image[0] == 5 - i)
        if len(rows):  # what is pasted is one whole box, the same in all channels
            assert (image[:, rows.min():rows.max() + 1, columns.min():columns.max() + 1] == 5 - i).all()


def test_label_smoothing_by_value():
    targets = smooth_one_hot(np.array([2]), 5, 0.1)
    np.testing.assert_allclose(targets, [[0.02, 0.02, 0.92, 0.02, 0.02]], atol=1e-7)
    np.testing.assert_array_equal(smooth_one_hot(np.array([1]), 3, 0.0), [[0, 1, 0]])


def test_box_area_and_lam_of_boxes_clipped_at_the_border(rng):
    found = [random_box((100, 80), 0.64, rng) for _ in range(500)]
    sizes = np.array([[b.stop - b.start for b in box] for box, _ in found])
    assert sizes.max(0).tolist() == [60, 48]  # sqrt(1 - 0.64) = 0.6 of each side
    left = np.array([lam for _, lam in found])
    np.testing.assert_allclose(left, 1 - sizes.prod(1) / 8000)
    assert left.min() == pytest.approx(0.64) and left.max() > 0.8


def test_probabilities(rng):
    images, labels = batch(2, 8)
    kinds = {'none': 0, 'cut': 0, 'mix': 0}
    mixing = Mixing(1.0, 1.0, CLASSES, 2, prob=0.5, switch_prob=0.25)
    for _ in range(2000):
        mixed, _ = mixing(images, labels, rng)
        levels = len(np.unique(mixed[0]))
        own = float(mixed[0].max())
        kinds['none' if levels == 1 and own == 0 else 'mix' if levels == 1 and own < 1 else 'cut'] += 1
    assert abs(kinds['mix'] - 750) < 80 and abs(kinds['cut'] - 250) < 60  # a box of no pixels counts as none


def test_mixing_is_a_function_of_the_generator():
    images, labels = batch()
    mixing = Mixing(0.8, 1.0, CLASSES, 6, mode='elem')
    first, second = (mixing(images, labels, np.random.Generator(np.random.PCG64(3))) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize('mode', MODES)
def test_odd_batches(mode, rng):
    images, labels = batch(5)
    if mode == 'pair':
        with pytest.raises(InputError, match="'pair': found a batch of 5, expected an even number"):
            Mixing(0.8, 1.0, CLASSES, 5, mode=mode)
    mixed, targets = Mixing(0.8, 1.0, CLASSES, 4, mode=mode)(images, labels, rng)
    np.testing.assert_allclose(mixed[2], 2)  # the one in the middle is its own partner
    np.testing.assert_allclose(targets[2], smooth_one_hot(labels[2:3], CLASSES, 0.1)[0], atol=1e-6)


@pytest.mark.parametrize('change', [{'mode': 'half'}, {'mixup_alpha': 0, 'cutmix_alpha': 0}, {'mixup_alpha': -1},
                                    {'prob': 1.5}, {'switch_prob': -0.1}, {'label_smoothing': 2}])
def test_invalid_arguments(change):
    with pytest.raises(InputError, match='expected'):
        Mixing(**{'mixup_alpha': 0.8, 'cutmix_alpha': 1.0, 'num_classes': 5, 'batch_size': 4, **change})
