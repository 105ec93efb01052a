# SPDX-License-Identifier: Apache-2.0
"""Random erasing: probability, area and fill."""
from __future__ import annotations

import numpy as np
import pytest

from CaiT.data.erasing import RandomErasing
from CaiT.errors import InputError


def boxes(mode: str, prob: float, rng: np.random.Generator, runs: int):
    """The erased image and the box that changed, for each run that erased."""
    erase = RandomErasing(prob, mode)
    for _ in range(runs):
        image = erase(np.full((3, 50, 60), 7, np.float32), rng)
        rows, columns = np.nonzero((image != 7).any(0))
        if len(rows):
            yield image, (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))


def test_probability_area_and_aspect(rng):
    found = [box for _, box in boxes('pixel', 0.25, rng, 4000)]
    assert abs(len(found) / 4000 - 0.25) < 0.03
    height, width = (np.array([part.stop - part.start for part in parts]) for parts in zip(*found))
    area, aspect = height * width / 3000, height / width
    assert 0.018 < area.min() < 0.04 and 0.30 < area.max() <= 0.34 and abs(area.mean() - 0.17) < 0.015
    assert 0.27 < aspect.min() < 0.40 and 2.5 < aspect.max() < 3.7 and abs(np.log(aspect).mean()) < 0.12


def test_pixel_noise_is_standard_normal_for_every_pixel(rng):
    noise = np.concatenate([image[(slice(None), *box)].ravel() for image, box in boxes('pixel', 1, rng, 200)])
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert len(np.unique(noise)) > 0.99 * len(noise)


def test_rand_is_one_color_and_const_is_the_mean(rng):
    for image, box in boxes('rand', 1, rng, 20):
        assert (np.ptp(image[(slice(None), *box)], axis=(1, 2)) == 0).all() and len(np.unique(image)) == 4
    for image, box in boxes('const', 1, rng, 20):
        assert (image[(slice(None), *box)] == 0).all()


def test_never_and_unknown_mode(rng):
    assert not list(boxes('pixel', 0, rng, 50))
    with pytest.raises(InputError, match="found 'white'"):
        RandomErasing(0.25, 'white')
