# SPDX-License-Identifier: Apache-2.0
"""Opening image files: always RGB, 8 bits, and one line naming the file when that is impossible.

Training and evaluation see the same pixels, or the same error.
"""
from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import stat
from typing import BinaryIO, Callable, Iterator, Optional, Tuple, Union

import numpy as np
from PIL import Image

from CaiT.data.formats import FORMATS, NEEDS, formats_for
from CaiT.data.text import quoted
from CaiT.errors import InputError
from CaiT.files import PathLike

MAX_BYTES = 2 << 30       # of an image's file, which is read at once
MAX_SCANS = 200           # of a JPEG; progressive ones have about ten, each costs a pass over all pixels
MAX_PIXELS = 178_956_970  # of one image; Pillow's own limit against decompression bombs
INTEGER_TOPS = (255, 4095, 65535)   # white of 8, 12 and 16 bits
FLOAT_TOPS = (1, 255, 65535)
BLOCK = 1 << 20  # values that are converted at a time
_START_OF_SCAN, _END_OF_IMAGE, _PROGRESSIVE = 0xda, 0xd9, 0xc2
_MARKER = re.compile(rb'\xff[^\x00\xff\xd0-\xd7]', re.S)  # 255 before 0 is a plain 255, before 0xd0 to 0xd7 a restart
DARKEST = 16  # an image whose brightest value is below white / 16 would come out black: its range is another


@dataclasses.dataclass(frozen=True)
class ImageBytes:
    """An encoded image in memory; messages name it ``name``, whose ending says the format that is tried first.
    ``max_pixels``: a larger one is refused."""
    name: str
    content: bytes
    max_pixels: int = MAX_PIXELS


Source = Union[PathLike, ImageBytes]


def load_image(path: Source) -> Image.Image:
    """The image in ``path`` as an RGB Pillow image; of several frames or pages the first. Alpha is dropped.

    Gray images of more than 8 bits are scaled by ``to_8_bits``. Raises InputError when the file is missing, is not a
    whole image of a supported format, has more than MAX_PIXELS, or needs more memory than there is.
    """
    with _opened(path) as (image, _):
        return _decode(image)


def decode_fast(path: Source, reduction: Optional[Callable[[int, int], int]] = None) -> np.ndarray:
    """``load_image`` as [H, W, 3] uint8, with OpenCV for JPEGs.

    Both stand on libjpeg-turbo and give the same pixels; OpenCV is quicker. What OpenCV cannot decode is left to
    Pillow, which says what is wrong.

    ``reduction(width, height)`` says by how much (1, 2, 4 or 8) a JPEG is made smaller while it is decoded, which costs
    a fraction of the time; sides are rounded up. It is asked once, for any image.
    """
    import cv2  # here: evaluation and inference do without it
    with _opened(path) as (image, jpeg):
        factor = reduction(image.width, image.height) if reduction else 1
        if jpeg and image.mode in ('RGB', 'L'):  # the libraries turn CMYK to RGB differently
            reduced = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
            how = reduced.get(factor, cv2.IMREAD_COLOR_RGB)
            how |= cv2.IMREAD_IGNORE_ORIENTATION  # as Pillow, and so published numbers
            with contextlib.suppress(cv2.error):
                pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), how)
                if pixels is not None:
                    return pixels if factor == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return np.asarray(_decode(image))


def _checked_jpeg(file: BinaryIO, kind: str) -> bytes:
    """The bytes of a JPEG when it is whole, else none; ValueError when decoding its scans would take minutes."""
    place = file.tell()
    file.seek(0)
    jpeg = file.read()
    file.seek(place)
    scans, is_whole = _scans(jpeg)
    if scans > MAX_SCANS:
        raise ValueError(f'a JPEG of more than {MAX_SCANS} scans')
    return jpeg if is_whole and kind == 'JPEG' else b''


def _scans(jpeg: bytes) -> Tuple[int, bool]:
    """(scans of a JPEG, whether its segments and scans follow each other up to the end-of-image marker).

    Where they do not, OpenCV may give what it has, the rest gray or black, without a word; Pillow refuses. Nor does
    OpenCV look at what follows the first scan of an image that is not progressive. Counting ends above MAX_SCANS. What
    stands in the metadata or behind the image (previews, the video of a motion photo) is not counted.
    """
    place, in_scan, scans, is_whole, is_progressive = 2, False, 0, True, False
    while scans <= MAX_SCANS:
        marker = _MARKER.search(jpeg, place)
        if not marker:
            return scans, False
        kind = marker[0][1]
        is_whole = is_whole and (in_scan or not jpeg[place:marker.start()].strip(b'\xff'))  # 255 fills up
        if kind == _END_OF_IMAGE:
            return scans, is_whole and (is_progressive or scans == 1)
        in_scan = kind == _START_OF_SCAN
        scans, is_progressive = scans + in_scan, is_progressive or kind == _PROGRESSIVE
        place = marker.end() + int.from_bytes(jpeg[marker.end():marker.end() + 2], 'big')
    return scans, False


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Gray levels of 16 or 32 bits or floats as uint8.

    White is 255, 4095 or 65535 for integers and 1, 255 or 65535 for floats: the smallest that holds every value, since
    files do not say which of them they mean. Raises ValueError for values that fit none (negative, not finite, above
    65535) and for an image that would use less than a sixteenth of its range, which is a sign of another range.
    """
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError('gray values that are not finite')
    tops = INTEGER_TOPS if values.dtype.kind in 'iu' else FLOAT_TOPS
    top = next((top for top in tops if high <= top), 0)
    if low < 0 or not top or 0 < high < top / DARKEST:
        raise ValueError(f'gray values from {low:g} to {high:g}, expected a range of 0 to '
                         f'{" or ".join(map(str, tops))}; convert the image to 8 bits')
    result = np.empty(values.shape, np.uint8)
    flat, whole = values.reshape(-1), result.reshape(-1)
    for start in range(0, flat.size, BLOCK):  # at once, an image of 179 million pixels would take 4 GB
        part = flat[start:start + BLOCK]
        if values.dtype.kind in 'iu':
            whole[start:start + BLOCK] = part.astype(np.int64) * 256 // (top + 1)  # the high byte
        else:
            whole[start:start + BLOCK] = np.rint(part * (255 / top))
    return result


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode in RGB; ValueError for gray levels that ``to_8_bits`` refuses."""
    if image.mode[0] in 'IF':  # 16 or 32 bits per pixel; Pillow would clip everything above 255 to white
        image = Image.fromarray(to_8_bits(np.asarray(image)))
    return image if image.mode == 'RGB' else image.convert('RGB')


def _decode(image: Image.Image) -> Image.Image:
    deep = ';16' in str(getattr(image, 'tile', ''))  # 16-bit colors, of which Pillow keeps the high byte
    image.load()  # all of it, before the file is closed
    image.info.pop('transparency', None)  # Pillow warns of some forms of it, though the alpha is dropped
    image = to_rgb(image)
    if deep and 0 < max(high for _, high in image.getextrema()) < 256 // DARKEST:
        raise ValueError('16-bit colors that use less than a sixteenth of their range; convert the image to 8 bits')
    return image


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Tuple[Image.Image, bytes]]:
    """The image with its header read, and all bytes if they are a JPEG that OpenCV may read; whatever goes wrong, here
    or in the block, becomes an InputError."""
    path = source.name if isinstance(source, ImageBytes) else source
    name = f'image {quoted(path)}' if path else 'image'
    try:
        with _file(source, name) as file:
            try:
                with Image.open(file, formats=formats_for(os.fspath(path))) as image:
                    limit = source.max_pixels if isinstance(source, ImageBytes) else MAX_PIXELS
                    if image.width * image.height > limit:
                        raise ValueError(f'{image.width}x{image.height} are more than {limit} pixels')
                    yield image, _checked_jpeg(file, image.format) if image.format in ('JPEG', 'MPO') else b''
            except Image.UnidentifiedImageError:
                raise InputError(f'{name}: cannot be decoded ({_unidentified(file)})') from None
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f'{name}: no such file') from None
    except MemoryError:
        raise InputError(f'{name}: cannot be decoded (not enough memory)') from None
    except Exception as error:  # a broken file can make Pillow's decoders raise anything
        raise InputError(f'{name}: cannot be decoded ({_one_line(error)})') from None


def _file(source: Source, name: str) -> BinaryIO:
    if isinstance(source, ImageBytes):
        return io.BytesIO(source.content)
    status = os.stat(source)
    mode, size = status.st_mode, status.st_size
    if not stat.S_ISREG(mode):  # opening a FIFO would wait for ever
        what = 'a folder' if stat.S_ISDIR(mode) else 'no regular file'
        raise InputError(f'{name}: cannot be read (it is {what}, expected an image file)')
    if size > MAX_BYTES:
        raise InputError(f'{name}: cannot be read (found {size:,} bytes, expected at most {MAX_BYTES:,})')
    return open(source, 'rb')


def _unidentified(file: BinaryIO) -> str:
    file.seek(0)
    start = file.read(12)
    if start[4:8] == b'ftyp' and start[8:12] in (b'heic', b'heix', b'hevc', b'mif1', b'msf1'):
        return f'it is a HEIC or HEIF file: {NEEDS["HEIF"]}, and name it .heic'
    return f'it is damaged, or of none of the formats {", ".join(FORMATS)}' if start else 'the file is empty'


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


def initialize_opencv() -> None:
    """Use each function of OpenCV that transforms use, once in this thread.

    At its first use a function takes a lock of OpenCV's. If another thread holds it while a worker is forked, the
    worker waits forever for it at its own first use; later uses take no lock."""
    import cv2  # as above
    pixels = np.zeros((4, 4, 3), np.uint8)
    cv2.imdecode(cv2.imencode('.jpg', pixels)[1], cv2.IMREAD_COLOR_RGB)
    cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    cv2.resize(pixels, (2, 2), interpolation=cv2.INTER_AREA)
    cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_CUBIC)
    cv2.warpAffine(pixels, cv2.getRotationMatrix2D((2, 2), 10, 1), (4, 4))
    cv2.filter2D(cv2.GaussianBlur(pixels, (3, 3), 1), -1, np.ones((3, 3), np.float32))
    cv2.LUT(cv2.bitwise_not(cv2.flip(pixels, 1)), np.arange(256, dtype=np.uint8))
    cv2.calcHist([pixels], [0], None, [256], [0, 256])
    cv2.transform(pixels, np.eye(3, dtype=np.float32))
    cv2.mean(pixels)
