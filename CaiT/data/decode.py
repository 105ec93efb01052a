# SPDX-License-Identifier: Apache-2.0
"""Decoding image files to 8-bit RGB. A missing or broken file raises InputError, one line that names it."""
from __future__ import annotations

import os

import numpy as np
from PIL import Image

from CaiT.errors import InputError
from CaiT.files import PathLike

_JPEG_MAGIC = b'\xff\xd8\xff'


def load_image(path: PathLike) -> Image.Image:
    """The image in ``path`` as an RGB Pillow image. Alpha is dropped; 16-bit grayscale is reduced to its high byte.

    Raises InputError when the file is missing or cannot be decoded completely.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith('I'):  # 16 bits per pixel; Pillow would clip values above 255 to white
                return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert('RGB')
            image.load()  # decode before the file is closed
            return image if image.mode == 'RGB' else image.convert('RGB')
    except FileNotFoundError:
        raise InputError(f'image {os.fspath(path)}: no such file') from None
    # What Pillow's decoders raise for broken files: SyntaxError is PNG's
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f'image {os.fspath(path)}: cannot be decoded ({_one_line(error)})') from None


def decode_fast(path: PathLike) -> np.ndarray:
    """The image in ``path`` as [H, W, 3] uint8 RGB: JPEG files by OpenCV, others by Pillow.

    Both use libjpeg-turbo and give the same pixels; OpenCV is faster. A JPEG that OpenCV cannot decode goes to Pillow,
    for its error message.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except FileNotFoundError:
        raise InputError(f'image {os.fspath(path)}: no such file') from None
    except OSError as error:
        raise InputError(f'image {os.fspath(path)}: cannot be read ({_one_line(error)})') from None
    if data.startswith(_JPEG_MAGIC):
        import cv2  # imported here because evaluation and inference do not need it
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # Pillow too ignores EXIF orientation
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if pixels is not None:
            return pixels
    return np.asarray(load_image(path))


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
