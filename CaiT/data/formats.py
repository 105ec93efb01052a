# SPDX-License-Identifier: Apache-2.0
"""The image formats that are read, by Pillow's names for them, and the endings of their files.

Formats outside this table are refused, whatever the file is called: Pillow starts Ghostscript for some of them.
"""
from __future__ import annotations

import functools
import importlib.util
import os
from typing import List

FORMATS = {
    'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif'),
    'PNG': ('.png',),
    'BMP': ('.bmp',),
    'DIB': ('.dib',),
    'GIF': ('.gif',),
    'WEBP': ('.webp',),
    'TIFF': ('.tif', '.tiff'),
    'PPM': ('.ppm', '.pgm', '.pbm', '.pnm'),
    'JPEG2000': ('.jp2', '.j2k', '.jpf', '.jpx'),
    'AVIF': ('.avif',),
    'HEIF': ('.heic', '.heif', '.hif'),
}
NEEDS = {'WEBP': 'a Pillow with WebP', 'JPEG2000': 'a Pillow with OpenJPEG', 'AVIF': 'Pillow 11.3 or later',
         'HEIF': 'pip install pillow-heif'}
IMAGE_EXTENSIONS = tuple(ending for endings in FORMATS.values() for ending in endings)
_FORMAT_OF = {ending: name for name, endings in FORMATS.items() for ending in endings}


def format_of(name: str) -> str:
    """The format that a file's ending stands for, '' when it is no image's."""
    return _FORMAT_OF.get(os.path.splitext(name)[1].lower(), '')


@functools.lru_cache(maxsize=None)
def is_supported(image_format: str) -> bool:
    """Whether the installed libraries read a format of the table."""
    from PIL import features
    if image_format == 'HEIF':
        return importlib.util.find_spec('pillow_heif') is not None
    if image_format == 'AVIF':  # older versions of Pillow warn when they are asked for a feature they do not know
        return importlib.util.find_spec('PIL.AvifImagePlugin') is not None and bool(features.check('avif'))
    codec = {'WEBP': 'webp', 'JPEG2000': 'jpg_2000'}.get(image_format)
    return codec is None or bool(features.check(codec))


def formats_for(path: str) -> List[str]:
    """What to give to ``Image.open(path, formats=…)``: all that is supported, the format the ending stands for first.

    Pillow imports all of its plugins when the first one it is asked for is not the file's. HEIF is registered with
    Pillow when a file's ending asks for it.
    """
    first = format_of(path)
    names = [name for name in FORMATS if name not in (first, 'HEIF') and is_supported(name)]
    if not first or not is_supported(first):
        return names
    if first == 'HEIF':
        import pillow_heif
        pillow_heif.register_heif_opener()
    return [first, *names]
