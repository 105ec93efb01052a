# SPDX-License-Identifier: Apache-2.0
"""From an image to the array a model reads: the one builder for eval, pred, the export check and infer.

Evaluation goes through Pillow, because published numbers do: short side to floor(image_size / crop_pct), center
crop, /255, (x - mean) / std; every pixel equals what timm feeds its models. Training's transform is in
train_transforms.py. Needs numpy and Pillow only: inference imports neither Paddle nor OpenCV.
"""
from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, Dict, Mapping, Tuple, Union

import numpy as np
from PIL import Image

from CaiT.data.decode import load_image
from CaiT.errors import InputError

ImageLike = Union[str, 'os.PathLike[str]', Image.Image, np.ndarray]  # an array is [H, W, 3] uint8, RGB

INTERPOLATIONS = {
    'nearest': Image.NEAREST,
    'bilinear': Image.BILINEAR,
    'bicubic': Image.BICUBIC,
    'lanczos': Image.LANCZOS,
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How one model wants its images; stored beside exported models, so that nobody has to guess."""

    image_size: int
    crop_pct: float
    interpolation: str
    mean: Tuple[float, float, float]
    std: Tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise InputError(f'image_size: found {self.image_size}, expected a positive number of pixels')
        if not 0 < self.crop_pct <= 1:
            raise InputError(f'crop_pct: found {self.crop_pct}, expected a number in (0, 1]')
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(f'interpolation: found {self.interpolation!r}, '
                             f'expected one of {", ".join(INTERPOLATIONS)}')
        for name in ('mean', 'std'):
            values = getattr(self, name)
            if len(values) != 3:
                raise InputError(f'{name}: found {len(values)} numbers, expected 3 (red, green, blue)')
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if min(self.std) <= 0:
            raise InputError(f'std: found {self.std}, expected positive numbers')

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataConfig:
        """The inverse of ``as_dict``; other keys are refused, so that a misspelled one cannot be lost."""
        names = [field.name for field in dataclasses.fields(cls)]
        if sorted(values) != sorted(names):
            raise InputError(f'data config: found keys {sorted(values)}, expected {sorted(names)}')
        return cls(**values)

    def as_dict(self) -> Dict[str, Any]:
        """Plain values (lists, not tuples), as JSON and YAML would give them back."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def eval_transform(data: DataConfig, normalize: bool = True) -> EvalTransform:
    """ImageLike -> float32 [3, S, S], or with ``normalize=False`` uint8 [S, S, 3] for graphs that normalize."""
    return EvalTransform(data, normalize)


class EvalTransform:
    """See ``eval_transform``; an object rather than a closure, so that it can be sent to worker processes."""

    def __init__(self, data: DataConfig, normalize: bool = True) -> None:
        self.data, self.normalize = data, normalize

    def __call__(self, image: ImageLike) -> np.ndarray:
        pixels = np.asarray(eval_crop(as_pillow(image), self.data))
        return normalize(pixels, self.data) if self.normalize else pixels


def as_pillow(image: ImageLike) -> Image.Image:
    """The image as a Pillow image in RGB; a path is opened."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return image if image.mode == 'RGB' else image.convert('RGB')
    return load_image(image)


def normalize(pixels: np.ndarray, data: DataConfig) -> np.ndarray:
    """[H, W, 3] uint8 -> float32 [3, H, W]: / 255, - mean, / std, each in float32, as torchvision does them in turn."""
    result = pixels.transpose(2, 0, 1).astype(np.float32, order='C')
    result /= np.float32(255)
    result -= np.float32(data.mean)[:, None, None]
    result /= np.float32(data.std)[:, None, None]
    return result


def short_side(width: int, height: int, target: int) -> Tuple[int, int]:
    """(width, height) with the short side at ``target``, the long one cut to whole pixels as torchvision does."""
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def eval_crop(image: Image.Image, data: DataConfig) -> Image.Image:
    """Resize and center crop to image_size x image_size; Python's round (half to even) is torchvision's."""
    size = data.image_size
    image = image.resize(short_side(*image.size, math.floor(size / data.crop_pct)), INTERPOLATIONS[data.interpolation])
    left, top = (int(round((side - size) / 2.0)) for side in image.size)
    return image.crop((left, top, left + size, top + size))
