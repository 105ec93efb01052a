# SPDX-License-Identifier: Apache-2.0
"""The reference's golden numbers: names and counts of every model, logits of the small ones, five training steps."""
from __future__ import annotations

import hashlib

import numpy as np
import pytest

from CaiT import create_model, list_models
from CaiT.tools import check_goldens, goldens
from CaiT.tools.model_table import macs, parameters

MANIFEST = goldens.manifest(goldens.FOLDER)
WITH_LOGITS = sorted(path.stem for path in goldens.FOLDER.glob('*.npz') if path.stem in MANIFEST['models'])
IN_CI = ['cait_xxs24_224', 'cait_xxs24_384', 'deit_tiny_distilled_patch16_224', 'deit_tiny_patch16_224',
         'vit_base_patch32_224']
# Not in the manifest; counted on timm 1.0.31's models.
COUNTED = {'vit_tiny_patch16_224': 5717416, 'vit_small_patch16_224': 22050664, 'vit_base_patch16_384': 86859496,
           'vit_base_patch32_384': 88297192, 'vit_large_patch16_384': 304715752, 'vit_large_patch32_224': 306535400}


def test_rule_gives_the_weights_and_inputs_of_the_reference():
    """Digests of the bytes, as the reference's manifest has them."""
    def digest(array):
        return hashlib.sha256(array.tobytes()).hexdigest()[:16]
    entry = MANIFEST['models']['cait_xxs24_224']
    assert digest(goldens.noise((2, 3, 224, 224), 0)) == entry['input_sha256']
    shapes = dict(goldens.names(goldens.FOLDER, 'cait_xxs24_224'))
    for name, expected in entry['first_param_sha256'].items():
        assert digest(goldens.value(name, shapes[name])) == expected, name


@pytest.mark.parametrize('name', sorted(MANIFEST['models']))
def test_names_and_counts(name):
    _, _, unlike = check_goldens.counts(name, goldens.FOLDER)
    assert not unlike


def test_every_model_is_counted():
    assert {*MANIFEST['models'], *COUNTED} == set(list_models())
    assert {name: parameters(name) for name in COUNTED} == COUNTED


def test_macs_by_hand():
    """ViT-B/32: 49 patches, 50 tokens, 12 blocks of width 768."""
    assert macs('vit_base_patch32_224', 10) == {
        'conv': 49 * 768 * 3 * 32 * 32, 'talking': 0, 'linear': 12 * 50 * 12 * 768 ** 2 + 768 * 10,
        'attn': 12 * 2 * 50 ** 2 * 768,
        'total': 49 * 768 * 3 * 32 * 32 + 12 * 50 * 12 * 768 ** 2 + 768 * 10 + 12 * 2 * 50 ** 2 * 768}


@pytest.mark.parametrize('name', IN_CI)
def test_logits(name):
    row = check_goldens.compare(name, goldens.FOLDER)
    assert row.passed, row
    expected = ['logits'] + (['after_pos_embed', 'after_block_0', 'after_block_11', 'after_block_23',
                              'cls_after_token_block_0', 'cls_after_token_block_1', 'pre_logits']
                             if name == 'cait_xxs24_224' else [])
    assert list(row.errors) == expected and max(row.errors.values()) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in WITH_LOGITS if name not in IN_CI])
def test_logits_of_large_models(name):
    assert check_goldens.compare(name, goldens.FOLDER).passed


def test_five_training_steps():
    found = check_goldens.training(goldens.FOLDER)
    assert set(found) == set(check_goldens.TRAINING_TOLERANCES)
    assert {key: error for key, error in found.items() if error > check_goldens.TRAINING_TOLERANCES[key]} == {}


def test_relative_error_lets_nothing_pass():
    ones = np.ones((2, 3))
    assert check_goldens.relative(ones, ones) == 0
    assert check_goldens.relative(ones, ones[:1]) == check_goldens.relative(ones[0], ones) == float('inf')
    assert check_goldens.relative(np.array([1, np.nan]), np.ones(2)) == float('inf')
    assert check_goldens.relative(np.array([0.0, 2.0]), np.array([0.0, 4.0])) == 0.5


@pytest.mark.parametrize('change, expected', [
    (dict(depth=23), 'blocks.23.gamma_1: None, reference'), (dict(patch_size=32), 'pos_embed: (1, 49, 192), reference'),
    (dict(qkv_bias=False), 'blocks.0.attn.qkv.bias: None, reference')])
def test_another_shape_is_seen(change, expected):
    found = goldens.public_shapes(create_model('cait_xxs24_224', **change))
    assert check_goldens.first_difference(dict(goldens.names(goldens.FOLDER, 'cait_xxs24_224')), found).startswith(expected)
