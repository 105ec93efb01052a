# SPDX-License-Identifier: Apache-2.0
"""The evaluation transform, from an image to a model's input: used by eval, pred, the export check and infer.

It uses Pillow, as published accuracies do: resize the short side to floor(image_size / crop_pct), center crop, /255,
(x - mean) / std; every pixel equals timm's. The training transform is in train_transforms.py. This module needs NumPy
and Pillow only, so that inference imports neither Paddle nor OpenCV.
"""
from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, Dict, Mapping, Tuple, Union

import numpy as np
from PIL import Image

from CaiT import checks
from CaiT.data.decode import ImageBytes, load_image, to_rgb
from CaiT.data.resample import resized_part
from CaiT.data.text import quoted
from CaiT.errors import InputError, shown
from CaiT.files import PathLike

# A path, the bytes of an image file (in ``ImageBytes`` with a name), a Pillow image, or an array: uint8, [H, W, 3] in
# RGB or [H, W] in gray.
ImageLike = Union[PathLike, bytes, ImageBytes, Image.Image, np.ndarray]

PILLOW_FILTERS = {  # by the names of checks.INTERPOLATIONS
    'nearest': Image.NEAREST,
    'bilinear': Image.BILINEAR,
    'bicubic': Image.BICUBIC,
    'lanczos': Image.LANCZOS,
}
MAX_RESIZED = 25_000_000  # pixels of an enlarged image; of a larger one, only what the crop keeps is computed


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Preprocessing of one model's input: side in pixels, crop fraction, resize filter, normalization per channel."""

    image_size: int
    crop_pct: float
    interpolation: str
    mean: Tuple[float, float, float]
    std: Tuple[float, float, float]

    def __post_init__(self) -> None:
        checks.check_data_config(vars(self))
        for name in ('mean', 'std'):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))

    @classmethod
    def of(cls, model: Any) -> DataConfig:
        """That of a model of ``create_model``, or of the weights that it was made with; InputError for another layer.
        """
        known = getattr(model, 'default_cfg', None) or {}
        names = [field.name for field in dataclasses.fields(cls)]
        if any(name not in known for name in names):
            raise InputError(f'data config: found {type(model).__name__} without default_cfg of {", ".join(names)}, '
                             'expected a model of create_model')
        return cls(**{name: known[name] for name in names})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataConfig:
        """The inverse of ``as_dict``; unknown and missing keys raise InputError."""
        names = [field.name for field in dataclasses.fields(cls)]
        if sorted(values) != sorted(names):
            raise InputError(f'data config: found keys {shown(str(sorted(values)), 200)}, expected {sorted(names)}')
        return cls(**values)

    def as_dict(self) -> Dict[str, Any]:
        """Plain values with lists instead of tuples, for JSON and YAML."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def eval_transform(data: DataConfig, normalize: bool = True) -> EvalTransform:
    """Image -> float32 [3, S, S], or with ``normalize=False`` uint8 [S, S, 3] for graphs that normalize."""
    return EvalTransform(data, normalize)


class EvalTransform:
    """See ``eval_transform``; an object rather than a closure, so that it can be pickled for worker processes."""

    def __init__(self, data: DataConfig, normalize: bool = True) -> None:
        self.data, self.normalize = data, normalize

    def __call__(self, image: ImageLike) -> np.ndarray:
        try:
            pixels = np.asarray(eval_crop(as_pillow(image), self.data))
            return normalize(pixels, self.data) if self.normalize else pixels
        except MemoryError:
            name = f'image {quoted(image)}' if isinstance(image, (str, os.PathLike)) else 'image'
            raise InputError(f'{name}: not enough memory to resize it') from None


def as_pillow(image: ImageLike) -> Image.Image:
    """``image`` as an RGB Pillow image; a path is opened. InputError for what is not or holds no image."""
    if isinstance(image, (str, os.PathLike, ImageBytes)):
        return load_image(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return load_image(ImageBytes('', bytes(image)))
    try:
        if isinstance(image, Image.Image):
            image.load()  # it is decoded when it is first used: here, where errors are caught
            return to_rgb(image)
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3) \
                and image.shape[2:] in ((), (3,)) and image.size:
            return to_rgb(Image.fromarray(image))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f'image: cannot be decoded ({" ".join(str(error).split())})') from None
    found = f'an array of {image.dtype} {list(image.shape)}' if isinstance(image, np.ndarray) else type(image).__name__
    raise InputError(f'image: found {found}, expected a path, the bytes of an image file, a Pillow image, or an array '
                     'of uint8 [H, W, 3] (RGB) or [H, W]')


def normalize(pixels: np.ndarray, data: DataConfig) -> np.ndarray:
    """[H, W, 3] uint8 -> float32 [3, H, W]: x / 255, - mean, / std, in this order in float32, as torchvision does."""
    result = pixels.transpose(2, 0, 1).astype(np.float32, order='C')
    result /= np.float32(255)
    result -= np.float32(data.mean)[:, None, None]
    result /= np.float32(data.std)[:, None, None]
    return result


def short_side(width: int, height: int, target: int) -> Tuple[int, int]:
    """(width, height) with the short side at ``target``, the long one rounded down as in torchvision."""
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def eval_crop(image: Image.Image, data: DataConfig) -> Image.Image:
    """Resize and center crop to image_size x image_size; rounds half to even, as torchvision does."""
    size = data.image_size
    width, height = short_side(*image.size, math.floor(size / data.crop_pct))
    left, top = (int(round((side - size) / 2.0)) for side in (width, height))
    box = (left, top, left + size, top + size)
    if width * height > MAX_RESIZED and width >= image.width and height >= image.height:
        return Image.fromarray(resized_part(np.asarray(image), (width, height), box, data.interpolation))
    return image.resize((width, height), PILLOW_FILTERS[data.interpolation]).crop(box)
