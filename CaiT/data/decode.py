# SPDX-License-Identifier: Apache-2.0
"""Opening image files: always RGB, 8 bits, and one line naming the file when that is impossible."""
from __future__ import annotations

import os
from typing import Union

import numpy as np
from PIL import Image

from CaiT.errors import InputError

PathLike = Union[str, 'os.PathLike[str]']

_JPEG_START = b'\xff\xd8\xff'


def load_image(path: PathLike) -> Image.Image:
    """The image in ``path`` as an RGB Pillow image. Alpha is dropped and 16-bit gray becomes its high byte.

    Raises InputError when the file is missing or is not a whole image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith('I'):  # 16 bits per pixel; Pillow would cut everything above 255 to white
                return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert('RGB')
            image.load()  # all of it, before the file is closed
            return image if image.mode == 'RGB' else image.convert('RGB')
    except FileNotFoundError:
        raise InputError(f'image {os.fspath(path)}: no such file') from None
    # Pillow's decoders raise these for broken files: OSError, SyntaxError (PNG), ValueError, bombs (plain Exception)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f'image {os.fspath(path)}: cannot be decoded ({_one_line(error)})') from None


def decode_fast(path: PathLike) -> np.ndarray:
    """The image in ``path`` as [H, W, 3] uint8 RGB, with OpenCV when it is a JPEG, else with Pillow.

    Both stand on libjpeg-turbo and give the same pixels; OpenCV is quicker. What OpenCV cannot decode is left to
    Pillow, which says what is wrong.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except FileNotFoundError:
        raise InputError(f'image {os.fspath(path)}: no such file') from None
    except OSError as error:
        raise InputError(f'image {os.fspath(path)}: cannot be read ({_one_line(error)})') from None
    if data.startswith(_JPEG_START):
        import cv2  # here: evaluation and inference do without it
        how = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # Pillow, and so published numbers, ignore EXIF too
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how)
        if pixels is not None:
            return pixels
    return np.asarray(load_image(path))


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
