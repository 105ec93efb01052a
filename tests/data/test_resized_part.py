# SPDX-License-Identifier: Apache-2.0
"""A part of an enlarged image equals Pillow's enlarged whole, cropped: every pixel, every filter."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from CaiT.data import transforms
from CaiT.data.resample import resized_part
from CaiT.data.transforms import PILLOW_FILTERS, DataConfig, eval_transform

SIZES = [((3, 2), (30, 20)), ((1, 1), (9, 7)), ((2, 9), (31, 9)), ((8, 8), (8, 8)), ((7, 5), (8, 6)),
         ((5, 1), (1000, 9))]


@pytest.mark.parametrize('name', PILLOW_FILTERS)
@pytest.mark.parametrize('source, target', SIZES)
def test_every_part_is_pillows(name, source, target, rng):
    pixels = rng.integers(0, 256, (source[1], source[0], 3), dtype=np.uint8)
    whole = Image.fromarray(pixels).resize(target, PILLOW_FILTERS[name])
    width, height = target
    for part in ((0, 0, width, height), (0, 0, 1, 1), (width - 1, height - 1, width, height),
                 (width // 3, height // 2, width // 3 + 2, height)):
        found = resized_part(pixels, target, part, name)
        np.testing.assert_array_equal(found, np.asarray(whole.crop(part)), err_msg=str(part))


@pytest.mark.parametrize('name', PILLOW_FILTERS)
@pytest.mark.parametrize('size', [(40, 3), (3, 40), (5, 4), (24, 24), (30, 40)])
def test_large_images_get_the_same_pixels(monkeypatch, name, size, rng):
    """As if every enlarged image were too large to be made as a whole."""
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    transform = eval_transform(DataConfig(24, 0.875, name, (0.5,) * 3, (0.5,) * 3), normalize=False)
    expected, calls = transform(image), []
    monkeypatch.setattr(transforms, 'MAX_RESIZED', 0)
    monkeypatch.setattr(transforms, 'resized_part', lambda *given: calls.append(1) or resized_part(*given))
    np.testing.assert_array_equal(transform(image), expected)
    assert bool(calls) is (min(size) < 27)  # the short side becomes floor(24 / 0.875): larger ones shrink
