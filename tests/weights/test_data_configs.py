# SPDX-License-Identifier: Apache-2.0
"""How images must reach a file of weights, and who has the last word on it."""
from __future__ import annotations

import json

import pytest

from CaiT.config import get_config, with_data_of
from CaiT.errors import InputError
from CaiT.models.cait import CaiT
from CaiT.models.registry import create_model, get_variant
from CaiT.models.vit import DeiT, DistilledDeiT, ViT
from CaiT.tools import convert_weights
from CaiT.weights.data_configs import HALF, IMAGENET
from CaiT.weights.readers import read_checkpoint
from CaiT.weights.translate import load_weights, rename
from tests.weights import checkpoints as c
from tests.weights.test_translate import TINY, reference

MINDCV = dict(crop_pct=0.875, interpolation='bicubic', **IMAGENET)


def config_of(model, path):
    """(data config, where it is from) that loading a file reports."""
    report = load_weights(model, path)
    return report.data, report.data_source


def mindcv(arrays):
    return c.renamed(arrays, (r'(norm\d?)\.weight$', r'\1.gamma'), (r'(norm\d?)\.bias$', r'\1.beta'))


@pytest.mark.parametrize('model, crop', [(ViT, 0.875), (DeiT, 0.875), (CaiT, 1.0)])
def test_mindcv(tmp_path, model, crop):
    data, source = config_of(model(**TINY), c.write_ckpt(tmp_path / 'w.ckpt', mindcv(reference(model(**TINY)))))
    assert data == dict(crop_pct=crop, interpolation='bicubic', **IMAGENET) and source == 'as MindCV evaluates'


@pytest.mark.parametrize('model, family, expected', [
    (ViT, 'vit', dict(crop_pct=1.0, interpolation='bilinear', **HALF)),
    (DistilledDeiT, 'deit', MINDCV)])
def test_transformers(tmp_path, model, family, expected):
    arrays = c.transformers(reference(model(**TINY)), family)
    path = c.write_safetensors(tmp_path / 'model.safetensors', arrays, format='pt')
    assert config_of(model(**TINY), path) == (expected, 'as Hugging Face transformers evaluates')
    beside = {'image_mean': [0.1, 0.2, 0.3], 'image_std': [1, 1, 1], 'size': {'shortest_edge': 256}, 'resample': 2,
              'crop_size': {'height': 224, 'width': 224}, 'do_center_crop': True}
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(beside))
    data, source = config_of(model(**TINY), path)
    assert data == dict(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0), crop_pct=0.875, interpolation='bilinear')
    assert source == str(tmp_path / 'preprocessor_config.json')


@pytest.mark.parametrize('resample', [4, '2', {'height': 2}, [3], None])
def test_transformers_with_a_filter_that_is_none(tmp_path, resample):
    arrays = c.transformers(reference(ViT(**TINY)), 'vit')
    path = c.write_safetensors(tmp_path / 'model.safetensors', arrays, format='pt')
    beside = {'image_mean': [0.1, 0.2, 0.3], 'image_std': [1, 1, 1], 'resample': resample}
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(beside))
    with pytest.raises(InputError, match='preprocessor_config.json: its data config is impossible, .* interpolation'):
        config_of(ViT(**TINY), path)


def test_timm_on_the_hub(tmp_path):
    path = c.write_safetensors(tmp_path / 'model.safetensors', reference(ViT(**TINY)), format='pt')
    assert config_of(ViT(**TINY), path) == (None, '')  # anyone's file under timm's names
    cfg = {'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5], 'crop_pct': 0.95, 'interpolation': 'bicubic'}
    (tmp_path / 'config.json').write_text(json.dumps({'architecture': 'vit', 'pretrained_cfg': cfg}))
    assert config_of(ViT(**TINY), path) == (dict(crop_pct=0.95, interpolation='bicubic', **HALF),
                                            str(tmp_path / 'config.json'))


@pytest.mark.parametrize('name, source, expected', [
    ('dino_vitbase16_pretrain', 'DINO', MINDCV),
    ('mae_pretrain_vit_base', 'MAE', MINDCV),
    ('vit_tiny_patch16_224.augreg_in21k', 'timm augreg', dict(crop_pct=0.9, interpolation='bicubic', **HALF)),
    ('vit_b', '', None)])
def test_names_of_published_files(tmp_path, name, source, expected):
    path = c.write_safetensors(tmp_path / f'{name}.safetensors', reference(ViT(**TINY)))
    assert config_of(ViT(**TINY), path) == (expected, source and f'as {source} evaluates')


def test_self_distillation_is_dinos(tmp_path):
    arrays = c.paddle_layout(reference(ViT(**TINY)))
    path = c.write_pdparams(tmp_path / 'checkpoint.pdparams', {'student': arrays, 'teacher': arrays})
    assert config_of(ViT(**TINY), path) == (MINDCV, 'as DINO evaluates')


def test_from_384_pixels_on_nobody_crops(tmp_path):
    shape = {**TINY, 'image_size': 384, 'patch_size': 32}
    path = c.write_pdparams(tmp_path / 'w.pdparams', c.paddlevit_vit(reference(ViT(**shape))))
    data, source = config_of(ViT(**shape), path)
    assert data == dict(crop_pct=1.0, interpolation='bicubic', **HALF) and source == 'as PaddleViT evaluates'


def test_our_own_run(tmp_path):
    arrays = c.paddle_layout(reference(ViT(**TINY)))
    data = {'MEAN': [0.1, 0.2, 0.3], 'STD': [0.4, 0.5, 0.6], 'CROP_PCT': 0.8, 'INTERPOLATION': 'bilinear'}
    (tmp_path / 'config.yaml').write_text(json.dumps({'DATA': data}))
    expected = dict(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop_pct=0.8, interpolation='bilinear')
    for name in ('best', 'last', 'best_ema'):
        assert config_of(ViT(**TINY), c.write_pdparams(tmp_path / f'{name}.pdparams', arrays)) == (
            expected, str(tmp_path / 'config.yaml'))
    assert config_of(ViT(**TINY), c.write_pdparams(tmp_path / 'downloaded.pdparams', arrays)) == (None, '')


@pytest.mark.parametrize('data', [
    {'MEAN': [0.1, 0.2]}, {'MEAN': 'x'}, {'STD': [0, 1, 1]}, {'STD': [-1, 1, 1]}, {'MEAN': ['a', 1, 1]},
    {'STD': [1e38, 1, 1]}, {'CROP_PCT': 0}, {'CROP_PCT': 1.5}, {'INTERPOLATION': 'none'}, {'CROP_PCT': True}])
def test_impossible_values_beside_the_weights(tmp_path, data):
    good = {'MEAN': [0.1, 0.2, 0.3], 'STD': [1, 1, 1], 'CROP_PCT': 0.8, 'INTERPOLATION': 'bicubic'}
    (tmp_path / 'config.yaml').write_text(json.dumps({'DATA': {**good, **data}}))
    path = c.write_pdparams(tmp_path / 'best.pdparams', c.paddle_layout(reference(ViT(**TINY))))
    with pytest.raises(InputError, match='config.yaml: its data config is impossible'):
        load_weights(ViT(**TINY), path)


@pytest.mark.parametrize('suffix, to', [('.pdparams', 'paddle'), ('.safetensors', 'paddle'), ('.safetensors', 'timm')])
def test_a_converted_file_keeps_it(tmp_path, suffix, to):
    source = c.write_ckpt(tmp_path / 'w.ckpt', mindcv(reference(ViT(**TINY))))
    out = tmp_path / f'out{suffix}'
    convert_weights.convert(str(source), str(out), to=to)
    assert config_of(ViT(**TINY), out) == (MINDCV,
                                           'written into the file')
    again = tmp_path / 'again.safetensors'
    convert_weights.convert(str(out), str(again))
    assert config_of(ViT(**TINY), again)[0]['crop_pct'] == 0.875


def test_what_the_user_says_stays():
    config, line = with_data_of(get_config(opts=['MODEL.NAME', 'vit_base_patch32_224']), MINDCV, 'as MindCV evaluates')
    assert (config.DATA.MEAN, config.DATA.STD, config.DATA.CROP_PCT) == (*IMAGENET.values(), 0.875)
    assert line == ('data config of the weights (as MindCV evaluates): DATA.CROP_PCT 0.875 (not 0.9), '
                    'DATA.MEAN (0.485, 0.456, 0.406) (not (0.5, 0.5, 0.5)), '
                    'DATA.STD (0.229, 0.224, 0.225) (not (0.5, 0.5, 0.5))')
    with pytest.raises(AttributeError):
        config.DATA.MEAN = (0.0, 0.0, 0.0)  # frozen like any config
    said = get_config(opts=['MODEL.NAME', 'vit_base_patch32_224', 'DATA.MEAN', '(0.5, 0.5, 0.5)'])  # as the row has it
    config, line = with_data_of(said, MINDCV, 'x')
    assert (config.DATA.MEAN, config.DATA.STD) == ((0.5, 0.5, 0.5), IMAGENET['std'])
    assert 'kept as configured, although these weights are for (x): DATA.MEAN (0.485, 0.456, 0.406)' in line


def test_a_written_config_says_everything(tmp_path):
    path = tmp_path / 'config.yaml'
    path.write_text(get_config(opts=['MODEL.NAME', 'vit_base_patch32_224']).dump())
    config = get_config(str(path))
    found, line = with_data_of(config, MINDCV, 'x')
    assert found is config and line.startswith('kept as configured')
    assert with_data_of(config, None, '') == (config, '')
    assert get_config(str(path)) == get_config(opts=['MODEL.NAME', 'vit_base_patch32_224'])  # not part of the value


def test_mindcvs_names_mean_mindcvs_images():
    for alias in ('vit_b_16_224', 'vit_b_32_224', 'vit_l_16_224', 'vit_l_32_224'):
        data = get_config(opts=['MODEL.NAME', alias]).DATA
        assert (data.MEAN, data.STD, data.CROP_PCT) == (*IMAGENET.values(), 0.875)
        assert get_variant(get_variant(alias).name).data['mean'] == (0.5, 0.5, 0.5)


def test_default_cfg_follows_the_weights(tmp_path):
    path = c.write_ckpt(tmp_path / 'w.ckpt', mindcv(reference(ViT(**TINY))))
    model = create_model('vit', **TINY, pretrained=path)
    assert model.default_cfg['mean'] == IMAGENET['mean'] and model.default_cfg['crop_pct'] == 0.875
    assert model.default_cfg['num_classes'] == 4


@pytest.mark.parametrize('model, expected', [(DistilledDeiT, IMAGENET), (ViT, HALF)])
def test_a_distillation_token_means_deit(tmp_path, model, expected):
    """PASSL evaluates its DeiTs and ViTs with other statistics; the file's own names count more than the model's."""
    path = c.write_pdparams(tmp_path / 'w.pdparams', c.passl(reference(model(**TINY))))
    _, report = rename(read_checkpoint(path), 'vit')
    assert (report.source, report.data['mean']) == ('PASSL', expected['mean'])
