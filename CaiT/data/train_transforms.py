# SPDX-License-Identifier: Apache-2.0
"""The training transform, from an image to a model's input. Decodes and resizes with OpenCV, 3 times as fast as Pillow.

Normalization and DataConfig are those of transforms.py.
"""
from __future__ import annotations

import dataclasses
import math
from typing import Tuple

import cv2
import numpy as np
from PIL import Image

from CaiT import checks
from CaiT.data.augment import auto_augment, color_jitter
from CaiT.data.decode import decode_fast
from CaiT.data.erasing import RandomErasing
from CaiT.data.transforms import DataConfig, ImageLike, as_pillow, normalize, short_side

MAX_ASPECT = 100  # long side / short side of an image that pad_crop resizes as a whole


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of the training transform. The defaults are DeiT's and CaiT's, without RandAugment and erasing.

    ``kind`` 'random_resized_crop' crops a random box (``scale``: fraction of the area, ``ratio``: width / height);
    'pad_crop' is for small images (CIFAR, digits): the evaluation geometry, then a random shift (+- ``shift`` of the
    side), rotation (+- ``rotate`` degrees) and zoom (factor 1 +- ``zoom``), padded with black; with the three at 0 it
    is the evaluation geometry itself. ``interpolation`` is 'random' (bilinear or bicubic per image), a name, or '' for
    that of the DataConfig. ``auto_augment`` is '', 'rand-m9-mstd0.5-inc1' (any m, n, p, mstd), 'autoaugment' or
    '3augment'. ``color_jitter`` (brightness, contrast, saturation, each 1 +- the value) is not applied together with
    RandAugment or AutoAugment, as in timm and DeiT. ``erase_prob`` and ``erase_mode`` configure random erasing.
    """

    kind: str = 'random_resized_crop'
    scale: Tuple[float, float] = (0.08, 1.0)
    ratio: Tuple[float, float] = (3 / 4, 4 / 3)
    shift: float = 0.125
    rotate: float = 0.0
    zoom: float = 0.0
    interpolation: str = 'random'
    hflip: float = 0.5
    color_jitter: float = 0.3
    auto_augment: str = ''
    erase_prob: float = 0.0
    erase_mode: str = 'pixel'

    def __post_init__(self) -> None:
        checks.check_train_options(vars(self))


def train_transform(data: DataConfig, options: TrainOptions, reduced_decode: bool = False) -> TrainTransform:
    """(image, numpy Generator) -> float32 [3, S, S]; all random choices come from the generator.

    With ``reduced_decode`` a JPEG is decoded at 1/2, 1/4 or 1/8 where a random resized crop of it is still at least as
    large as the model's input: other pixels, for a fraction of the time on photographs of many megapixels.
    """
    return TrainTransform(data, options, reduced_decode)


class TrainTransform:
    """See ``train_transform``."""

    def __init__(self, data: DataConfig, options: TrainOptions, reduced_decode: bool = False) -> None:
        self.data, self.options, self.reduced_decode = data, options, reduced_decode
        self.filters = {'random': ('bilinear', 'bicubic'), '': (data.interpolation,)}.get(
            options.interpolation, (options.interpolation,))
        fill = tuple(min(255, round(255 * value)) for value in data.mean)
        self.augment = auto_augment(options.auto_augment, fill, self.filters)
        self.jitter = options.color_jitter if options.auto_augment in ('', '3augment') else 0.0
        self.erase = RandomErasing(options.erase_prob, options.erase_mode)

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> np.ndarray:
        filter_name = self.filters[int(rng.random() * len(self.filters))]
        if self.options.kind != 'random_resized_crop':
            pixels = pad_crop(as_array(image), self.data, self.options, filter_name, rng)
        elif self.reduced_decode and not isinstance(image, (np.ndarray, Image.Image)):
            pixels = reduced_crop(image, self.data.image_size, self.options, filter_name, rng)
        else:
            pixels = random_resized_crop(as_array(image), self.data.image_size, self.options, filter_name, rng)
        if rng.random() < self.options.hflip:
            pixels = cv2.flip(pixels, 1)
        pixels = self.augment(pixels, rng)
        if self.jitter:
            pixels = color_jitter(pixels, self.jitter, rng)
        return self.erase(normalize(pixels, self.data), rng)


def as_array(image: ImageLike) -> np.ndarray:
    """``image`` as [H, W, 3] uint8 RGB; a path is decoded by ``decode_fast``."""
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        return np.asarray(as_pillow(image))
    return decode_fast(image)


def resize(pixels: np.ndarray, width: int, height: int, filter_name: str) -> np.ndarray:
    """OpenCV's resize with the filter that is closest to Pillow's ``filter_name``.

    OpenCV's filters have a fixed support and alias when downscaling; INTER_AREA does not. Mean absolute difference from
    Pillow in gray levels, measured on 40 photographs: for bicubic at factor 1.5, INTER_CUBIC 2.0 and INTER_AREA 0.9,
    equal at 1.2; for bilinear at 1.5, INTER_LINEAR 1.6 and INTER_AREA 0.8, equal at 1.0.
    """
    downscale = max(pixels.shape[1] / width, pixels.shape[0] / height)
    if filter_name == 'nearest':
        flag = cv2.INTER_NEAREST
    elif filter_name == 'bilinear':
        flag = cv2.INTER_AREA if downscale > 1.0 else cv2.INTER_LINEAR
    elif filter_name == 'bicubic':
        flag = cv2.INTER_AREA if downscale > 1.2 else cv2.INTER_CUBIC
    else:
        flag = cv2.INTER_AREA if downscale > 1.2 else cv2.INTER_LANCZOS4
    return cv2.resize(pixels, (width, height), interpolation=flag)


def crop_box(width: int, height: int, options: TrainOptions, rng: np.random.Generator) -> Tuple[int, int, int, int]:
    """(left, top, width, height): area uniform in ``scale``, log ratio uniform in ``ratio``; after ten
    attempts the largest centered box whose ratio is in the range (torchvision's RandomResizedCrop)."""
    low, high = math.log(options.ratio[0]), math.log(options.ratio[1])
    for _ in range(10):
        area = width * height * (options.scale[0] + rng.random() * (options.scale[1] - options.scale[0]))
        ratio = math.exp(low + rng.random() * (high - low))
        w, h = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1)), w, h
    ratio = min(max(width / height, options.ratio[0]), options.ratio[1])
    w, h = min(width, int(round(height * ratio))), min(height, int(round(width / ratio)))
    return (width - w) // 2, (height - h) // 2, w, h


def random_resized_crop(pixels: np.ndarray, size: int, options: TrainOptions, filter_name: str,
                        rng: np.random.Generator) -> np.ndarray:
    """A random crop of the image as [size, size, 3]."""
    left, top, width, height = crop_box(pixels.shape[1], pixels.shape[0], options, rng)
    return resize(pixels[top:top + height, left:left + width], size, size, filter_name)


def reduced_crop(image: ImageLike, size: int, options: TrainOptions, filter_name: str,
                 rng: np.random.Generator) -> np.ndarray:
    """``random_resized_crop`` of a file that is decoded no larger than its crop needs: the same box, other pixels."""
    full = box = (0, 0, 0, 0)

    def reduction(width: int, height: int) -> int:
        nonlocal full, box
        full, box = (width, height), crop_box(width, height, options, rng)
        return next((factor for factor in (8, 4, 2) if min(box[2:]) >= factor * size), 1)
    pixels = decode_fast(image, reduction)
    factor = max(1, round(full[0] / pixels.shape[1]))
    left, top, width, height = (side // factor for side in box)
    return resize(pixels[top:top + height, left:left + width], size, size, filter_name)


def middle(pixels: np.ndarray) -> np.ndarray:
    """The image, or of one that is very long the middle 4 to 5 squares: the center crop drops what is outside."""
    long, short = max(pixels.shape[:2]), min(pixels.shape[:2])
    if long <= MAX_ASPECT * short:
        return pixels
    cut = (long - 4 * short) // 2
    return pixels[cut:-cut] if pixels.shape[0] == long else pixels[:, cut:-cut]


def pad_crop(pixels: np.ndarray, data: DataConfig, options: TrainOptions, filter_name: str,
             rng: np.random.Generator) -> np.ndarray:
    """Evaluation geometry, then a random similarity transform about the center, padded with black: [size, size, 3]."""
    size = data.image_size
    pixels = middle(pixels)
    width, height = short_side(pixels.shape[1], pixels.shape[0], math.floor(size / data.crop_pct))
    pixels = resize(pixels, width, height, filter_name)
    left, top = int(round((width - size) / 2.0)), int(round((height - size) / 2.0))
    pixels = pixels[top:top + size, left:left + size]
    angle, zoom, x, y = 2 * rng.random(4) - 1
    if not (options.shift or options.rotate or options.zoom):
        return np.ascontiguousarray(pixels)
    center = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((center, center), angle * options.rotate, 1 + zoom * options.zoom)
    matrix[:, 2] += (round(x * options.shift * size), round(y * options.shift * size))
    return cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
