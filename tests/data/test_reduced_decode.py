# SPDX-License-Identifier: Apache-2.0
"""Large JPEGs decoded at a fraction of their size: the same crops of nearly the same pixels; all else unchanged."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from CaiT.data.decode import ImageBytes, decode_fast
from CaiT.data.train_transforms import TrainOptions, train_transform
from CaiT.data.transforms import DataConfig
from CaiT.errors import InputError

DATA = DataConfig(32, 1.0, 'bicubic', (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PLAIN = TrainOptions(color_jitter=0, hflip=0)


@pytest.fixture
def photo(tmp_path):
    """A smooth image of 803 x 601 pixels with a gradient in each color."""
    y, x = np.mgrid[0:601, 0:803]
    pixels = np.stack([x * 255 / 803, y * 255 / 601, (x + y) * 255 / 1404], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.jpg', quality=95)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    return tmp_path


def generator(seed):
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('in_memory', [False, True])
def test_the_same_crop(photo, seed, in_memory):
    path = str(photo / 'photo.jpg')
    image = ImageBytes('photo.jpg', (photo / 'photo.jpg').read_bytes()) if in_memory else path
    rngs = [generator(seed), generator(seed)]
    full = train_transform(DATA, PLAIN)(path, rngs[0])
    reduced = train_transform(DATA, PLAIN, True)(image, rngs[1])
    assert rngs[0].random() == rngs[1].random()  # as many random numbers
    assert np.abs(full - reduced).max() * 127.5 < 6 and not np.array_equal(full, reduced)


@pytest.mark.parametrize('factor, shape', [(1, (601, 803)), (2, (301, 402)), (4, (151, 201)), (8, (76, 101))])
def test_the_reduction_is_asked_once_and_done(photo, factor, shape):
    asked = []
    pixels = decode_fast(str(photo / 'photo.jpg'), lambda *size: asked.append(size) or factor)
    assert asked == [(803, 601)] and pixels.shape == (*shape, 3)
    whole = decode_fast(str(photo / 'photo.jpg'))
    small = cv2.resize(whole, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - pixels).max() < 6  # colors in this order, not mirrored


@pytest.mark.parametrize('name, size, options', [
    ('photo.png', 32, PLAIN), ('photo.jpg', 400, PLAIN), ('photo.jpg', 32, TrainOptions(kind='pad_crop'))],
    ids=['no jpeg', 'a small crop', 'pad_crop'])
def test_where_nothing_is_reduced_every_pixel_is_the_same(photo, name, size, options):
    data = DataConfig(size, 1.0, 'bicubic', (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    found = [train_transform(data, options, reduced)(str(photo / name), generator(3)) for reduced in (False, True)]
    np.testing.assert_array_equal(*found)


def test_a_truncated_jpeg_is_refused_all_the_same(photo):
    content = (photo / 'photo.jpg').read_bytes()
    (photo / 'photo.jpg').write_bytes(content[:len(content) // 2])
    with pytest.raises(InputError, match='photo.jpg: cannot be decoded'):
        train_transform(DATA, PLAIN, True)(str(photo / 'photo.jpg'), generator(0))
