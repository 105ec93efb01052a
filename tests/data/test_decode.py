# SPDX-License-Identifier: Apache-2.0
"""Image files of all modes are decoded to RGB; a broken file is a one-line error."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from CaiT.data.decode import ImageBytes, decode_fast, load_image
from CaiT.errors import InputError


@pytest.mark.parametrize('mode,ending', [('L', 'png'), ('P', 'png'), ('RGBA', 'png'), ('LA', 'png'), ('1', 'png'),
                                         ('L', 'jpg'), ('RGB', 'bmp'), ('P', 'gif')])
def test_modes(pixels, tmp_path, mode, ending):
    path = tmp_path / f'image.{ending}'
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    expected = np.asarray(Image.open(path).convert('RGB'))
    for found in (np.asarray(load_image(path)), decode_fast(path)):
        assert found.shape == (47, 61, 3) and found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def test_alpha_is_dropped_not_blended(tmp_path):
    Image.new('RGBA', (4, 4), (10, 20, 30, 0)).save(tmp_path / 'clear.png')
    assert load_image(tmp_path / 'clear.png').getpixel((0, 0)) == (10, 20, 30)


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    levels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 99
    Image.fromarray(levels).save(tmp_path / 'deep.png')
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / 'deep.png'))[..., 1].ravel(), np.arange(256))


def test_cmyk_jpeg(pixels, tmp_path):
    Image.fromarray(pixels).convert('CMYK').save(tmp_path / 'print.jpg', quality=95)
    pillow = np.asarray(load_image(tmp_path / 'print.jpg')).astype(int)
    assert np.abs(pillow - pixels).mean() < 6
    assert np.abs(decode_fast(tmp_path / 'print.jpg') - pillow).mean() < 2


def test_orientation_tags_are_ignored_by_both_decoders(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels).save(tmp_path / 'turned.jpg', exif=exif)
    for found in (np.asarray(load_image(tmp_path / 'turned.jpg')), decode_fast(tmp_path / 'turned.jpg')):
        assert found.shape == (47, 61, 3)


@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('more', [b'\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00' + bytes(20),
                                  b'\xff\xda\xff\xff' + bytes(9)], ids=['empty', 'long'])
def test_a_second_scan_means_the_same_to_both_decoders(pixels, tmp_path, mode, more):
    """Of an image that is not progressive OpenCV never looks at it; Pillow refuses."""
    path = tmp_path / 'two.jpg'
    Image.fromarray(pixels).convert(mode).save(path)
    path.write_bytes(path.read_bytes()[:-2] + more + b'\xff\xd9')
    said = []
    for decode in (load_image, decode_fast):
        try:
            said.append(np.asarray(decode(path)).tolist())
        except InputError as error:
            said.append(str(error))
    assert said[0] == said[1]


@pytest.mark.parametrize('decode', [load_image, decode_fast])
def test_broken_images_are_one_line_naming_the_file(pixels, tmp_path, decode):
    for ending in ('jpg', 'png'):
        whole = tmp_path / f'whole.{ending}'
        Image.fromarray(pixels).save(whole)
        (tmp_path / f'half.{ending}').write_bytes(whole.read_bytes()[:-whole.stat().st_size // 2])
        (tmp_path / f'most.{ending}').write_bytes(whole.read_bytes()[:-whole.stat().st_size // 8])
    (tmp_path / 'text.jpg').write_text('not an image')
    (tmp_path / 'empty.png').write_bytes(b'')
    (tmp_path / 'ends.jpg').write_bytes(b'\xff\xd8\xff nothing in between \xff\xd9')
    (tmp_path / 'folder.jpg').mkdir()
    for name in ('half.jpg', 'half.png', 'most.jpg', 'most.png', 'text.jpg', 'empty.png', 'ends.jpg', 'folder.jpg'):
        with pytest.raises(InputError, match=f'{name}: cannot be') as error:
            decode(tmp_path / name)
        assert '\n' not in str(error.value)
    with pytest.raises(InputError, match='none.jpg: no such file'):
        decode(tmp_path / 'none.jpg')


def test_the_largest_number_of_pixels(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    content, size = (tmp_path / 'a.png').read_bytes(), pixels.shape[0] * pixels.shape[1]
    assert np.array_equal(load_image(ImageBytes('', content, size)), pixels)
    with pytest.raises(InputError, match=f'are more than {size - 1} pixels'):
        load_image(ImageBytes('', content, size - 1))
