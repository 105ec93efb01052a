# SPDX-License-Identifier: Apache-2.0
"""Every operation against Pillow's."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from CaiT.data import operations
from CaiT.data.augment import GEOMETRIC_OPERATIONS

FILL = (124, 116, 104)


@pytest.mark.parametrize('ours,pillows', [
    (operations.auto_contrast, ImageOps.autocontrast),
    (operations.equalize, ImageOps.equalize),
    (operations.invert, ImageOps.invert),
    *[(lambda p, b=bits: operations.posterize(p, b), lambda i, b=bits: ImageOps.posterize(i, b)) for bits in (1, 4, 8)],
    *[(lambda p, t=limit: operations.solarize(p, t), lambda i, t=limit: ImageOps.solarize(i, t))
      for limit in (0, 26, 128, 256)],
    *[(lambda p, f=factor: operations.brightness(p, f), lambda i, f=factor: ImageEnhance.Brightness(i).enhance(f))
      for factor in (0.1, 0.55, 1.0, 1.81)],
    *[(lambda p, f=factor: operations.contrast(p, f), lambda i, f=factor: ImageEnhance.Contrast(i).enhance(f))
      for factor in (0.1, 0.55, 1.0, 1.81)],
], ids=lambda function: None)
def test_level_operations_are_exactly_pillows(pixels, ours, pillows):
    np.testing.assert_array_equal(ours(pixels), np.asarray(pillows(Image.fromarray(pixels))))


def test_level_operations_on_an_image_of_one_level_and_of_few():
    flat = np.full((9, 9, 3), 77, np.uint8)
    few = flat.copy()
    few[0, 0] = 78
    for pixels in (flat, few):
        for ours, pillows in ((operations.auto_contrast, ImageOps.autocontrast),
                              (operations.equalize, ImageOps.equalize)):
            np.testing.assert_array_equal(ours(pixels), np.asarray(pillows(Image.fromarray(pixels))))


def test_solarize_add():
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)
    result = operations.solarize_add(ramp, 99)[..., 0].ravel()
    assert result[[0, 100, 127, 128, 255]].tolist() == [99, 199, 226, 128, 255]


@pytest.mark.parametrize('factor', [0.0, 0.1, 0.55, 1.0, 1.81])
def test_color_and_sharpness_are_pillows_within_a_level(pixels, factor):
    image = Image.fromarray(pixels)
    for ours, pillows in ((operations.color, ImageEnhance.Color), (operations.sharpness, ImageEnhance.Sharpness)):
        difference = ours(pixels, factor).astype(int) - np.asarray(pillows(image).enhance(factor)).astype(int)
        assert np.abs(difference).max() <= 1 + (factor > 1)  # extrapolating from a rounded gray doubles the rounding


def test_gray_and_blur_are_pillows_within_rounding(pixels):
    image = Image.fromarray(pixels)
    gray = operations.grayscale(pixels).astype(int)
    assert np.abs(gray - np.asarray(image.convert('L').convert('RGB'))).max() <= 1
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(1.5))).astype(int)
    difference = operations.gaussian_blur(pixels, 1.5) - blurred
    assert np.abs(difference)[4:-4, 4:-4].max() <= 3  # Pillow's is three box blurs


@pytest.mark.parametrize('name,value', [('Rotate', 27.0), ('Rotate', -9.0), ('ShearX', 0.27), ('ShearY', -0.27),
                                        ('TranslateXRel', 0.405), ('TranslateYRel', -0.135)])
@pytest.mark.parametrize('filter_name,tolerance', [('bilinear', 2), ('bicubic', 8)])
def test_geometric_operations_match_pillow(name, value, filter_name, tolerance, pixels):
    pixels = cv2.GaussianBlur(pixels, (0, 0), 2)
    image, kind = Image.fromarray(pixels), {'bilinear': Image.BILINEAR, 'bicubic': Image.BICUBIC}[filter_name]
    if name == 'Rotate':
        expected = image.rotate(value, resample=kind, fillcolor=FILL)
    else:
        matrix = {'ShearX': (1, value, 0, 0, 1, 0), 'ShearY': (1, 0, 0, value, 1, 0),
                  'TranslateXRel': (1, 0, value * 61, 0, 1, 0), 'TranslateYRel': (1, 0, 0, 0, 1, value * 47)}[name]
        expected = image.transform(image.size, Image.AFFINE, matrix, resample=kind, fillcolor=FILL)
    found = operations.affine(pixels, GEOMETRIC_OPERATIONS[name].matrix(pixels, value), filter_name, FILL)
    difference = np.abs(found.astype(int) - np.asarray(expected).astype(int)).max(2)
    outside = (np.asarray(expected) == FILL).all(2).astype(np.uint8)
    edge = cv2.dilate(outside, np.ones((5, 5))) > 0
    edge[[0, 1, -1, -2]] = edge[:, [0, 1, -1, -2]] = True  # the treatment of pixels beyond the border differs
    assert difference[~edge].max() <= tolerance
    assert (~edge).mean() > 0.25
    assert (found[cv2.erode(outside, np.ones((5, 5))) > 0] == FILL).all()
