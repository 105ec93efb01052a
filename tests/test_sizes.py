# SPDX-License-Identifier: Apache-2.0
"""Sizes that no memory holds are refused before anything is made, whichever way they come."""
from __future__ import annotations

import io
import math
import time

import numpy as np
import pytest

from CaiT import checks, get_config, runtime
from CaiT.data.sampler import TrainSampler
from CaiT.data.transforms import DataConfig
from CaiT.errors import InputError
from CaiT.models.registry import create_model, get_variant, list_models
from CaiT.run_config import config_for, config_to_resume
from CaiT.tools import attention_map

MEMORY = runtime.memory
BIG = 10 ** 9
OF_MODEL = 'with which the weights and the attention of an image take'
LIMIT = 'expected at most 8.0 GB, half of the memory of this machine'


@pytest.fixture(autouse=True)
def sixteen_gigabytes(monkeypatch):
    monkeypatch.setattr(runtime, 'memory', lambda: 16 * 10 ** 9)
    began = time.process_time()
    yield
    assert time.process_time() - began < 1


def refused(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert '\n' not in str(caught.value)
    return str(caught.value)


# The values that are refused take more than 8 GB, those before them do not.
MODEL = [
    ('MODEL.DEPTH', 4000, 10 ** 4, '19.0 GB'), ('MODEL.DEPTH', 4000, BIG, '1,900,'),
    ('MODEL.DEPTH_TOKEN_ONLY', 3000, 10 ** 5, '190.1 GB'), ('MODEL.EMBED_DIM', 2048, 4096, '21.0 GB'),
    ('MODEL.EMBED_DIM', 2048, BIG, '1,248,'), ('MODEL.NUM_HEADS', 192, BIG, '208,'),
    ('MODEL.MLP_RATIO', 200.0, 1e9, '7,667,'), ('MODEL.PATCH_SIZE', 32, BIG, '2,304,'),
    ('DATA.IMAGE_SIZE', 1600, 8000, '1,000.'), ('DATA.IMAGE_SIZE', 1600, 20_000, '39,')]
DATA = [
    ('DATA.BATCH_SIZE', 8192, BIG, 'a batch of images of 224x224 pixels takes 602,112.0 GB'),
    ('DATA.BATCH_SIZE_EVAL', 8192, 20_000, 'a batch of images of 224x224 pixels takes 12.0 GB'),
    ('DATA.NUM_WORKERS', 200, BIG, 'the worker processes take 31,457,280.0 GB'),
    ('DATA.NUM_WORKERS', 200, 1000, 'the worker processes take 31.5 GB')]


@pytest.mark.parametrize('key, possible, value, taken', MODEL)
def test_a_model_of_no_memory(key, possible, value, taken):
    get_config(opts=[key, str(possible)])
    shown = f'{key}: found {float(value) if "RATIO" in key else value}, {OF_MODEL} {taken}'
    message = refused(get_config, opts=[key, str(value)])
    assert message.startswith(shown) and message.endswith(LIMIT)


@pytest.mark.parametrize('key, possible, value, taken', DATA)
def test_data_of_no_memory(key, possible, value, taken):
    get_config(opts=[key, str(possible)])
    assert refused(get_config, opts=[key, str(value)]) == f'{key}: found {value}, with which {taken}, {LIMIT}'


@pytest.mark.parametrize('key', ['depth', 'embed_dim', 'num_heads', 'in_channels', 'num_classes', 'patch_size',
                                 'image_size', 'mlp_ratio'])
@pytest.mark.parametrize('name', ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224', 'vit'])
def test_arguments_of_no_memory(name, key):
    message = refused(create_model, name, **{key: BIG})
    assert f': {key}: found {BIG}, {OF_MODEL} ' in message and message.endswith(LIMIT)


@pytest.mark.parametrize('value', [0, -1, 2.0, 24.5, '24', True, None, math.nan, [24]])
@pytest.mark.parametrize('key', ['depth', 'embed_dim', 'num_heads', 'patch_size', 'in_channels', 'image_size'])
def test_arguments_that_are_no_sizes(key, value):
    message = refused(create_model, 'deit_tiny_patch16_224', **{key: value})
    assert message.startswith(f'DeiT: {key}: found {value!r}, expected ')


@pytest.mark.parametrize('value', [0, -4.0, math.nan, math.inf, '4', None, 1e-9])
def test_mlps_without_channels(value):
    assert refused(create_model, 'cait_xxs24_224', mlp_ratio=value) == (
        f'CaiT: mlp_ratio: found {value!r}, expected a number above 0, with which the MLPs have channels')


def test_integers_of_numpy_are_sizes():
    model = create_model('vit', depth=np.int64(1), embed_dim=np.int32(8), num_heads=2, image_size=np.int64(32))
    assert len(model.blocks) == 1


def test_a_new_head_of_no_memory():
    model = create_model('vit', depth=1, embed_dim=8, num_heads=2, image_size=32)
    message = refused(model.reset_classifier, BIG)
    assert message == f'num_classes: found {BIG}, {OF_MODEL} 32.0 GB, {LIMIT}' and model.num_classes == 1000


@pytest.mark.parametrize('key', ['MODEL.DEPTH', 'DATA.BATCH_SIZE'])
def test_every_source_of_a_setting(tmp_path, key):
    section, leaf = key.split('.')
    path = tmp_path / 'config.yaml'
    path.write_text(f'{section}: {{{leaf}: {BIG}}}\n')
    (tmp_path / 'best.pdparams').write_bytes(b'')
    expected = f'{key}: found {BIG}, with which '
    assert refused(get_config, str(path)).startswith(expected)
    assert expected in refused(config_for, str(tmp_path / 'best'), None)
    assert expected in refused(config_to_resume, None, resume=str(tmp_path), output_dir=None)


@pytest.mark.parametrize('flag, key', [('batch_size', 'DATA.BATCH_SIZE'), ('num_workers', 'DATA.NUM_WORKERS'),
                                       ('batch_size_eval', 'DATA.BATCH_SIZE_EVAL')])
def test_flags(flag, key):
    assert refused(get_config, **{flag: BIG}).startswith(f'{key}: found {BIG}, with which ')


def test_images_of_no_memory():
    assert refused(DataConfig, image_size=40_000, crop_pct=1.0, interpolation='bicubic', mean=(0.5,) * 3,
                   std=(0.5,) * 3) == f'image_size: found 40000, with which an image takes 19.2 GB, {LIMIT}'


def test_every_model_of_the_table_fits_into_four_gigabytes(monkeypatch):
    monkeypatch.setattr(runtime, 'memory', lambda: 4 * 10 ** 9)
    for name in list_models():
        row = get_variant(name)
        sizes = {key: row.arch[key] for key in row.arch if key in checks.ORDINARY}
        checks.check_transformer({**sizes, 'image_size': row.data['image_size'], 'num_classes': 21_843})


@pytest.mark.parametrize('name', ['cait', 'vit', 'deit'])
def test_the_estimate_is_the_number_of_parameters(monkeypatch, name):
    monkeypatch.setattr(checks, 'BLOCK_BYTES', 0)
    sizes = dict(image_size=32, patch_size=8, embed_dim=96, depth=3, num_heads=2, mlp_ratio=3.0, num_classes=10,
                 in_channels=3, **({'depth_token_only': 2} if name == 'cait' else {}))
    counted = 4 * sum(math.prod(parameter.shape) for parameter in create_model(name, **sizes).parameters())
    assert checks._transformer_bytes(sizes) == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize('written, expected', [
    ('max', 16 << 30), ('8589934592', 8 << 30), ('9223372036854771712', 16 << 30), ('', 16 << 30), ('-1', 16 << 30)])
def test_the_memory_of_a_container(monkeypatch, written, expected):
    memory = MEMORY.__wrapped__
    monkeypatch.setattr('os.sysconf', {'SC_PHYS_PAGES': 4 << 20, 'SC_PAGE_SIZE': 4096}.get)
    monkeypatch.setattr('builtins.open', lambda path, **_: io.StringIO(written))
    assert memory() == expected
    monkeypatch.delattr('os.sysconf')  # Windows
    monkeypatch.setattr('builtins.open', lambda path, **_: io.StringIO('max'))
    assert memory() == 10 ** 12


@pytest.mark.parametrize('repeats', [5, 6, 1000, BIG])
def test_more_repeats_than_images(repeats):
    """The indices of an epoch had been made repeats times too many."""
    batches = list(TrainSampler(5, 2, 0, repeats=repeats))
    assert [len(batch) for batch in batches] == [2, 2] and len({index for batch in batches for index, _ in batch}) == 1



def test_steps_of_attention_maps():
    words = ['-pretrained=x', '-img_path=a.png', f'-steps={BIG}']
    assert refused(attention_map.main, words) == f'-steps: found {BIG}, expected at most 1000'
