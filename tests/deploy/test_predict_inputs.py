# SPDX-License-Identifier: Apache-2.0
"""``Predictor.predict``: what counts as an image, and what is yielded or raised for anything else."""
from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from CaiT.deploy.engines import Options
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Prediction, Predictor
from CaiT.errors import InputError
from tests.deploy.small_models import small_data


@pytest.fixture(scope='module')
def predictor(cait, checks, tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    export(cait, folder, 'x', small_data(), checks, {'file': 'w', 'sha256': ''}, [('paddle', 'fp32', 'float')])
    return Predictor(str(folder), 'paddle', Options(threads=1, batch=3))


FORMS = {
    'path': lambda path: path, 'Path': Path, 'bytes': lambda path: Path(path).read_bytes(),
    'bytearray': lambda path: bytearray(Path(path).read_bytes()),
    'BytesIO': lambda path: io.BytesIO(Path(path).read_bytes()), 'file': lambda path: open(path, 'rb'),
    'Pillow, lazy': Image.open, 'Pillow, palette': lambda path: Image.open(path).convert('RGB').quantize(256),
    'array': lambda path: np.asarray(Image.open(path)),
}


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('form', [form for form in FORMS if 'palette' not in form])
def test_every_form_of_an_image_gives_the_same(predictor, images, form, workers):
    if workers and form not in ('bytes', 'array'):
        pytest.skip('one process start each')
    expected = list(predictor.predict(images, topk=2))
    found = list(predictor.predict((FORMS[form](path) for path in images), topk=2, workers=workers))
    names = images if form in ('path', 'Path') else [f'image {i}' for i in range(5)]
    assert [one.path for one in found] == names
    assert [one.best for one in found] == [one.best for one in expected]


def test_gray_arrays_and_palettes(predictor, images):
    gray = np.asarray(Image.open(images[0]).convert('L'))
    three = np.repeat(gray[:, :, None], 3, 2)
    first, second, palette = predictor.predict([gray, three, FORMS['Pillow, palette'](images[0])])
    assert first.best == second.best and isinstance(palette, Prediction)


@pytest.mark.parametrize('image, message', [
    (b'', 'image 1: cannot be decoded (the file is empty)'),
    (b'nonsense', 'image 1: cannot be decoded (it is damaged, or of none of the formats JPEG'),
    (io.BytesIO(b'\x89PNG\r\n\x1a\n'), 'image 1: cannot be decoded ('),
    (np.zeros((3, 8, 8), np.float32), 'image 1: found an array of float32 [3, 8, 8], expected a path, the bytes'),
    (np.zeros((8, 8, 4), np.uint8), 'image 1: found an array of uint8 [8, 8, 4], expected'),
    (np.zeros((0, 8, 3), np.uint8), 'image 1: found an array of uint8 [0, 8, 3], expected'),
    (None, 'image 1: found NoneType, expected'), (7, 'image 1: found int, expected'),
    ('nowhere.png', 'image nowhere.png: no such file'), ('a\0b.png', 'cannot be decoded (embedded null byte)')])
def test_what_is_no_image_yields_its_error_and_the_others_go_on(predictor, images, image, message):
    found = list(predictor.predict([images[0], image, images[1]]))
    error, = [one for one in found if isinstance(one, InputError)]
    assert message in str(error) and '\n' not in str(error)
    assert [one.path for one in found if one is not error] == images[:2]


def test_a_truncated_pillow_image(predictor, images):
    data = Path(images[0]).read_bytes()
    error, = predictor.predict([Image.open(io.BytesIO(data[:len(data) // 2]))])
    assert isinstance(error, InputError) and str(error).startswith('image 0: cannot be decoded (')


@pytest.mark.parametrize('single', ['a.png', Path('a.png'), b'bytes', io.BytesIO(b'x'), Image.new('RGB', (8, 8)), None])
def test_a_single_image_is_no_list(predictor, single):
    message = f'^images: found a single {type(single).__name__}, expected a list of images$'
    with pytest.raises(InputError, match=message):
        next(predictor.predict(single))
