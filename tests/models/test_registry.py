# SPDX-License-Identifier: Apache-2.0
"""Names: which there are, what other projects call them, and what an unknown one says."""
from __future__ import annotations

import paddle
import pytest

from CaiT import create_model, get_variant, list_models
from CaiT.errors import InputError
from CaiT.models.registry import list_aliases

PUBLISHED = [name for family in ('cait', 'deit', 'vit') for name in list_models(f'{family}_*')]  # not those added since


def test_names():
    assert {family: len(list_models(family)) for family in ('cait', 'deit', 'vit')} == {'cait': 13, 'deit': 8, 'vit': 9}
    assert len(PUBLISHED) == 30 and list_models() == sorted(list_models()) and set(PUBLISHED) <= set(list_models())
    for name in list_models():
        assert (get_variant(name).name, get_variant(name).family) == (name, name.split('_')[0])


def test_aliases():
    vits = {'vit_b_16': 'vit_base_patch16_224', 'vit_b_32': 'vit_base_patch32_224',
            'vit_l_16': 'vit_large_patch16_224', 'vit_l_32': 'vit_large_patch32_224'}
    assert {alias: name for alias, name in list_aliases().items() if not alias.startswith('cait')} == {
        'deit_tiny': 'deit_tiny_patch16_224', 'deit_small': 'deit_small_patch16_224',
        'deit_base': 'deit_base_patch16_224', **vits, **{f'{alias}_224': name for alias, name in vits.items()}}
    assert {'cait_xxs24': 'cait_xxs24_224', 'cait_XXS24': 'cait_xxs24_384', 'cait_M36': 'cait_m36_384',
            'cait_m48': 'cait_m48_448', 'cait_M48': 'cait_m48_448'}.items() <= list_aliases().items()
    for alias, name in list_aliases().items():
        assert get_variant(alias).arch == get_variant(name).arch and get_variant(alias).name == name
        mindcv = alias.startswith('vit')  # MindCV trains its ViTs with other statistics than timm
        assert (get_variant(alias).data == get_variant(name).data) is not mindcv
        assert not mindcv or (get_variant(alias).data['mean'], get_variant(alias).data['crop_pct']) == (
            (0.485, 0.456, 0.406), 0.875)


def test_published_numbers_name_their_source():
    for name in PUBLISHED:
        published = get_variant(name).published
        assert published['source'] and (published['top1'] is None or 70 < published['top1'] < 90)
        assert published['top5'] is None or published['top1'] < published['top5'] < 100


def test_published_stochastic_depth():
    published = {'cait_xxs24': 0.05, 'cait_xs24': 0.05, 'cait_xxs36': 0.1, 'cait_s24': 0.1, 'cait_s36': 0.2,
                 'cait_m36': 0.3, 'cait_m48': 0.4}
    for name in PUBLISHED:
        assert get_variant(name).arch['drop_path_rate'] == published.get(name.rsplit('_', 1)[0], 0.1), name


def test_data_configs():
    """DeiT and ViT crop 0.9 below 384 pixels; ViT alone normalizes by 0.5."""
    for name in PUBLISHED:
        size, half = int(name[-3:]), name.startswith('vit')
        assert get_variant(name).data == {
            'image_size': size, 'crop_pct': 1.0 if name.startswith('cait') or size == 384 else 0.9,
            'interpolation': 'bicubic', 'mean': (0.5,) * 3 if half else (0.485, 0.456, 0.406),
            'std': (0.5,) * 3 if half else (0.229, 0.224, 0.225)}, name


def test_names_by_wildcards():
    assert list_models('cait_xxs*_224') == ['cait_xxs24_224', 'cait_xxs36_224']
    assert list_models('*distilled*384') == ['deit_base_distilled_patch16_384']
    assert list_models('vit_?i*') == ['vit_tiny_patch16_224'] and list_models('resnet*') == []
    assert list_models('xs24') == [name for name in list_models() if 'xs24' in name]


SMALL = dict(depth=1, num_classes=3, embed_dim=24, num_heads=2, patch_size=8)


def test_timm_arguments():
    model = create_model('cait', img_size=32, in_chans=1, drop_rate=0.1, attn_drop_rate=0.2, drop_path_rate=0.3,
                         **SMALL)
    assert model.patch_embed.proj.weight.shape == [24, 1, 8, 8] and model.pos_embed.shape == [1, 16, 24]
    block = model.blocks[0]
    assert (block.mlp.drop.p, block.attn.attn_drop.p, block.drop_path.drop_prob) == (0.1, 0.2, 0.3)
    assert model.default_cfg['image_size'] == 32 and model.default_cfg['num_classes'] == 3
    assert model.default_cfg['mean'] == (0.485, 0.456, 0.406) and model.default_cfg['architecture'] == 'cait'
    assert model.num_features == 24 and model.get_classifier() is model.head
    with pytest.raises(InputError, match='model cait: found both img_size and image_size, expected one of them'):
        create_model('cait', img_size=32, image_size=32)
    with pytest.raises(ValueError, match="model vit: unknown argument 'global_pool', expected one of"):
        create_model('vit', global_pool='avg')
    with pytest.raises(InputError, match=r'image_size: found \(32, 16\), expected one number of pixels'):
        create_model('vit', img_size=(32, 16))


def test_a_library_call_prints_nothing(tmp_path, capsys):
    model = create_model('vit', img_size=32, **SMALL)
    path = str(tmp_path / 'weights.pdparams')
    assert model.load_report is None
    paddle.save(model.state_dict(), path)
    loaded = create_model('vit', img_size=32, pretrained=path, **SMALL)
    assert capsys.readouterr() == ('', '') and loaded.load_report.loaded == len(model.state_dict())


def test_bare_family_builds_a_shape_of_ones_own():
    model = create_model('cait', image_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=3)
    assert model.pos_embed.shape == [1, 16, 24] and len(model.blocks) == 1 and len(model.blocks_token_only) == 2


def test_unknown_name():
    with pytest.raises(InputError, match="model 'cait_xxs24_22' is not known: did you mean .*cait_xxs24_224"):
        create_model('cait_xxs24_22')
    with pytest.raises(InputError, match=r"model 'resnet50' is not known: list_models\(\) lists all names"):
        create_model('resnet50')
