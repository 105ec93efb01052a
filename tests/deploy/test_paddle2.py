# SPDX-License-Identifier: Apache-2.0
"""A model exported by Paddle 2: a .pdmodel and its weights, without metadata."""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import small_data

from CaiT.data.transforms import eval_transform
from CaiT.deploy.engines import Options
from CaiT.deploy.paddle2 import metadata_from_config
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A model of Paddle 2 and its configuration ``config.yaml``."""
    path = tmp_path_factory.mktemp('paddle2')
    subprocess.run([sys.executable, str(HERE / 'write_pdmodel.py'), str(path / 'model')], cwd=ROOT, check=True,
                   capture_output=True, timeout=120)
    (path / 'names.txt').write_text('\n'.join(f'name {index}' for index in range(10)), encoding='utf-8')
    (path / 'config.yaml').write_text(
        'MODEL: {NAME: cait_xxs24_224, NUM_CLASSES: 10}\n'
        f'DATA: {{IMAGE_SIZE: 32, CROP_PCT: 1.0, INTERPOLATION: bicubic, LABEL_MAP: {path / "names.txt"}}}\n',
        encoding='utf-8')
    return path


def infer(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, 'infer.py', *words], cwd=ROOT, capture_output=True, text=True)


def test_logits_are_the_dynamic_models(folder, cait, checks):
    options = Options()
    meta = metadata_from_config(folder, folder / 'config.yaml', 'paddle', options)
    found = Predictor(str(folder), 'paddle', options, meta).logits(checks.array('float'))
    expected = cait(paddle.to_tensor(checks.array('float'))).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_from_the_command_line(folder, cait, images):
    done = infer('--model-dir', str(folder), f'-cfg={folder}/config.yaml', '--topk=1', '--img-path', *images[:2])
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith('image_name')]
    batch = np.stack([eval_transform(small_data())(path) for path in images[:2]])
    probabilities = paddle.nn.functional.softmax(cait(paddle.to_tensor(batch))).numpy()
    for path, line, row in zip(images, lines, probabilities):
        assert line == f'image_name: {path}, class_id: {row.argmax()}, prob: {row.max():.4f}'
    assert f'name {probabilities[0].argmax()}' in done.stdout


def test_what_is_missing_is_one_line(folder, images):
    done = infer('--model-dir', str(folder), '--img-path', images[0])
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert 'metadata.json: no such file; for a model of Paddle without one name its configuration' in done.stderr


def test_a_wrong_config_is_an_input_error(folder, tmp_path):
    options, config = Options(), tmp_path / 'config.yaml'
    for text, message in (('MODEL: {NUM_CLASSES: 9}\nDATA: {IMAGE_SIZE: 32}', 'found 10 classes, but .* says 9'),
                          ('MODEL: {NUM_CLASSES: 10}\nDATA: {IMAGE_SIZE: 48}',
                           'model.pdmodel: found images of 48x48 pixels, .*, expected 32x32 pixels')):
        config.write_text(text, encoding='utf-8')
        meta = metadata_from_config(folder, config, 'paddle', options)
        size = meta.data.image_size
        with pytest.raises(InputError, match=message):
            Predictor(str(folder), 'paddle', options, meta).logits(np.zeros((1, 3, size, size), np.float32))


@pytest.mark.parametrize('backend, options, message', [
    ('openvino', Options(), "--backend: found 'openvino', expected 'paddle' for a model without metadata.json"),
    ('paddle', Options(input='uint8'), "--input: found 'uint8', expected 'float' for a model without metadata.json")])
def test_what_it_cannot_do(folder, backend, options, message):
    with pytest.raises(InputError, match=message):
        metadata_from_config(folder, folder / 'config.yaml', backend, options)


def test_folders_that_do_not_fit(folder, tmp_path):
    with pytest.raises(InputError, match='found 0 .pdmodel and .json files, expected one'):
        metadata_from_config(tmp_path, folder / 'config.yaml', 'paddle', Options())
    shutil.copy(folder / 'model.pdmodel', tmp_path)
    with pytest.raises(InputError, match='model.pdiparams: no such file, expected the weights of model.pdmodel'):
        metadata_from_config(tmp_path, folder / 'config.yaml', 'paddle', Options())
    (tmp_path / 'metadata.json').write_text('{}', encoding='utf-8')
    with pytest.raises(InputError, match='says already what -cfg would'):
        metadata_from_config(tmp_path, folder / 'config.yaml', 'paddle', Options())
