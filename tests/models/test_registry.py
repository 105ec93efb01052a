# SPDX-License-Identifier: Apache-2.0
"""Names: which there are, what other projects call them, and what an unknown one says."""
from __future__ import annotations

import pytest

from CaiT import create_model, get_variant, list_models
from CaiT.errors import InputError
from CaiT.models.registry import list_aliases


def test_names():
    assert {family: len(list_models(family)) for family in ('cait', 'deit', 'vit')} == {'cait': 13, 'deit': 8, 'vit': 9}
    assert len(list_models()) == 30 and list_models() == sorted(list_models())
    for name in list_models():
        assert (get_variant(name).name, get_variant(name).family) == (name, name.split('_')[0])


def test_aliases():
    assert list_aliases() == {
        'deit_tiny': 'deit_tiny_patch16_224', 'deit_small': 'deit_small_patch16_224',
        'deit_base': 'deit_base_patch16_224', 'vit_b_16_224': 'vit_base_patch16_224',
        'vit_b_32_224': 'vit_base_patch32_224', 'vit_l_16_224': 'vit_large_patch16_224',
        'vit_l_32_224': 'vit_large_patch32_224'}
    for alias, name in list_aliases().items():
        assert get_variant(alias).arch == get_variant(name).arch and get_variant(alias).name == name
        mindcv = alias.startswith('vit')  # MindCV trains its ViTs with other statistics than timm
        assert (get_variant(alias).data == get_variant(name).data) is not mindcv
        assert not mindcv or (get_variant(alias).data['mean'], get_variant(alias).data['crop_pct']) == (
            (0.485, 0.456, 0.406), 0.875)


def test_published_numbers_name_their_source():
    for name in list_models():
        published = get_variant(name).published
        assert published['source'] and (published['top1'] is None or 70 < published['top1'] < 90)
        assert published['top5'] is None or published['top1'] < published['top5'] < 100


def test_bare_family_builds_a_shape_of_ones_own():
    model = create_model('cait', image_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=3)
    assert model.pos_embed.shape == [1, 16, 24] and len(model.blocks) == 1 and len(model.blocks_token_only) == 2


def test_unknown_name():
    with pytest.raises(InputError, match="model 'cait_xxs24' is not known: did you mean .*cait_xxs24_224"):
        create_model('cait_xxs24')
    with pytest.raises(InputError, match=r"model 'resnet50' is not known: list_models\(\) lists all names"):
        create_model('resnet50')
