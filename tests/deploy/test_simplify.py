# SPDX-License-Identifier: Apache-2.0
"""Every rewrite, alone and combined, preserves the logits of every family."""
from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import randomized, small

from CaiT.deploy import simplify as s
from CaiT.deploy.engines.paddle_ops import InferenceLayer
from CaiT.models.registry import create_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FAMILIES = ('cait', 'vit', 'distilled')


def low_rank_last(net):
    return s.low_rank_class_attention(s.last_block_on_prefix(net))


def raw(net):
    return s.raw_input(net, MEAN, STD)


def together(attention, separate):
    def rewrite(net):
        return s.simplify(net, attention, separate)
    rewrite.__name__ = f'all_{attention}_{"three" if separate else "one"}'
    return rewrite


def together_raw(net):
    return raw(s.simplify(net, 'matmul', True))


def raw_together(net):
    return s.simplify(raw(net), 'leading', False)


ALONE = [s.talking_heads_as_matmul, s.talking_heads_folded, s.heads_leading, s.drop_score_bias, s.fold_layer_scale,
         s.fold_scale, s.fold_norm_affine, s.split_qkv, s.last_block_on_prefix, s.low_rank_class_attention,
         low_rank_last, s.merge_heads, s.fold_embedding, raw]
TOGETHER = [together('matmul', True), together('matmul', False), together('leading', False), together('folded', True),
            together_raw, raw_together]


def images(size: int, batch: int, uint8: bool) -> tuple:
    """(input of the dynamic model, input of the rewritten network)."""
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    floats = ((pixels / 255.0 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    return floats, pixels if uint8 else floats


@functools.lru_cache(maxsize=4)
def logits(model, size: int, batch: int) -> np.ndarray:
    """The dynamic model's."""
    with paddle.no_grad():
        return model(paddle.to_tensor(images(size, batch, False)[0])).numpy()


def distance(model, rewrite, size: int, batch: int) -> float:
    """Largest difference of a logit, relative to the largest logit."""
    net, expected = rewrite(s.from_model(model)), logits(model, size, batch)
    _, given = images(size, batch, net.input == 'uint8')
    with paddle.no_grad():
        found = InferenceLayer(net)(paddle.to_tensor(given)).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(scope='module', params=FAMILIES)
def model(request):
    return small(request.param)


@pytest.mark.parametrize('rewrite', [lambda net: net, *ALONE, *TOGETHER], ids=lambda f: f.__name__.strip('<>'))
@pytest.mark.parametrize('batch', [1, 3])
def test_same_logits(model, rewrite, batch):
    assert distance(model, rewrite, 32, batch) <= 1e-5


@pytest.mark.parametrize('name', ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224', 'vit_tiny_patch16_224'])
def test_same_logits_at_full_size(name):
    model = randomized(create_model(name, depth=2))
    for rewrite in TOGETHER:
        assert distance(model, rewrite, 224, 1) <= 1e-5, rewrite.__name__


@pytest.mark.slow
@pytest.mark.parametrize('name', ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224', 'vit_tiny_patch16_224'])
@pytest.mark.parametrize('size', [224, 384])
def test_each_rewrite_at_full_size(name, size):
    model = randomized(create_model(name, image_size=size, depth=2))
    for batch in (1, 3):
        for rewrite in (*ALONE, *TOGETHER):
            assert distance(model, rewrite, size, batch) <= 1e-5, (rewrite.__name__, batch)


@pytest.mark.slow
@pytest.mark.skipif('CAIT_REAL_DATA' not in os.environ, reason='needs trained weights: CAIT_REAL_DATA')
def test_same_logits_with_trained_weights():
    from CaiT.deploy.export import load
    model = create_model('vit_tiny_patch16_224')
    load(model, Path(os.environ['CAIT_REAL_DATA']) / 'weights/vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors')
    for rewrite in [*ALONE, *TOGETHER]:
        assert distance(model, rewrite, 224, 1) <= 1e-5, rewrite.__name__
    assert distance(model, together('matmul', True), 224, 3) <= 1e-5


def test_effect_of_the_rewrites(model):
    """Everything that can be folded is folded, and the input network is unchanged."""
    before = s.from_model(model)
    copy = {name: value.copy() for name, value in before.arrays.items()}
    after = s.simplify(before, 'matmul', True)
    left = [name for name in after.arrays
            if any(word in name for word in ('gamma', 'norm', 'scale', 'proj_l.bias', 'k.bias', 'qkv', 'head_dist'))]
    assert left == [] and 'patch_embed.proj.bias' not in after.arrays
    if before.family == 'cait':
        assert not any(name.startswith('blocks_token_only') and '.k.' in name for name in after.arrays)
    else:
        assert after.last_on_prefix and f'blocks.{before.depth("blocks") - 1}.attn.v.weight' not in after.arrays
    assert set(copy) == set(before.arrays) and all(np.array_equal(copy[n], before.arrays[n]) for n in copy)


def test_low_rank_is_left_out_where_it_would_leave_the_cache():
    wide = small('cait', embed_dim=768, num_heads=16, depth=1)
    net = s.low_rank_class_attention(s.from_model(wide))
    assert 'blocks_token_only.0.attn.k.weight' in net.arrays


def test_a_wrong_fold_is_seen(model):
    """Omitting LayerNorm's bias in the fold of one layer exceeds the tolerance by far."""
    def wrong_fold(net):
        return s.fold_norm_affine(net.with_arrays(arrays={**net.arrays, 'blocks.0.norm1.bias': np.zeros(net.dim)}))
    assert distance(model, wrong_fold, 32, 1) > 1e-4
