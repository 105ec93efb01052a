# SPDX-License-Identifier: Apache-2.0
"""Where dropout, attention dropout and stochastic depth act, and where they must not."""
from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from CaiT.models.layers import DropPath
from tests.models.small import images, small_model

NAMES = ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224']


def named(model, kind, attribute):
    return {name: getattr(layer, attribute) for name, layer in model.named_sublayers() if isinstance(layer, kind)}


@pytest.mark.parametrize('name', NAMES)
def test_each_rate_reaches_its_layers_and_no_others(name):
    model = small_model(name, drop_rate=0.1, attn_drop_rate=0.2)
    for layer, p in named(model, nn.Dropout, 'p').items():
        # Class attention has no dropout of its own, as published.
        expected = 0.0 if layer.startswith('blocks_token_only') else 0.2 if layer.endswith('attn_drop') else 0.1
        assert p == expected, layer


def mean_difference(model, x):
    """How far the outputs of two passes are apart in training mode."""
    paddle.seed(0)  # few images, few masks: two passes may draw the same ones
    model.train()
    one, two = model(x), model(x)
    return max(np.abs(a.numpy() - b.numpy()).max() for a, b in zip(
        one if isinstance(one, tuple) else (one,), two if isinstance(two, tuple) else (two,)))


def only(model, layer):
    """Switch off all random layers but ``layer``."""
    for name, other in model.named_sublayers():
        if name != layer and isinstance(other, (nn.Dropout, DropPath)):
            setattr(other, 'p' if isinstance(other, nn.Dropout) else 'drop_prob', 0.0)


@pytest.mark.parametrize('layer', ['pos_drop', 'blocks.1.attn.attn_drop', 'blocks.1.attn.proj_drop',
                                   'blocks.1.mlp.drop', 'blocks.1.drop_path'])
@pytest.mark.parametrize('name', NAMES)
def test_each_layer_acts(name, layer):
    model = small_model(name, drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5)
    only(model, layer)
    assert mean_difference(model, images(model, 4)) > 1e-6
    model.eval()
    np.testing.assert_array_equal(model(images(model)).numpy(), model(images(model)).numpy())


@pytest.mark.parametrize('name', NAMES)
def test_nothing_random_without_rates(name):
    model = small_model(name)
    assert mean_difference(model, images(model, 4)) == 0


def calls_of(model, kind):
    """Hooks that list the shapes that layers of ``kind`` are called with, by name."""
    calls = {}
    for name, layer in model.named_sublayers():
        if isinstance(layer, kind):
            layer.register_forward_post_hook(
                lambda layer, inputs, output, name=name: calls.setdefault(name, []).append(inputs[0].shape))
    return calls


@pytest.mark.parametrize('name', NAMES)
def test_dropout_is_called_on_what_the_papers_drop(name):
    """Tokens, attn and both outputs of the MLP; stochastic depth on both branches of a block."""
    model = small_model(name)
    dropout, drop_path = calls_of(model, nn.Dropout), calls_of(model, DropPath)
    model(images(model))
    heads, dim = model.blocks[0].attn.num_heads, model.embed_dim
    tokens = 16 if name.startswith('cait') else 18
    assert dropout['pos_drop'] == [[2, tokens, dim]]
    for stack, queries, keys in (('blocks', tokens, tokens), ('blocks_token_only', 1, 1 + tokens)):
        for index in range(len(getattr(model, stack, []))):
            block = f'{stack}.{index}'
            assert dropout[f'{block}.attn.attn_drop'] == [[2, heads, queries, keys]]
            assert dropout[f'{block}.attn.proj_drop'] == [[2, queries, dim]]
            assert dropout[f'{block}.mlp.drop'] == [[2, queries, 4 * dim], [2, queries, dim]]
            assert drop_path[f'{block}.drop_path'] == [[2, queries, dim]] * 2


def test_stochastic_depth_is_drawn_for_each_image():
    paddle.seed(0)
    retained = DropPath(0.5).keep_mask(paddle.zeros([64, 3, 2]))
    assert retained.shape == [64, 1, 1] and 16 < int(retained.sum()) < 48


@pytest.mark.parametrize('name', NAMES)
def test_checkpointing_is_for_training_alone(name, monkeypatch):
    import paddle.distributed.fleet.utils as utils
    calls, recompute = [], utils.recompute
    monkeypatch.setattr(utils, 'recompute', lambda *args: calls.append(1) or recompute(*args))
    model = small_model(name)
    model.set_grad_checkpointing()
    model(images(model))
    assert not calls
    model.train()
    model(images(model))
    assert len(calls) == sum(len(getattr(model, stack)) for stack in model.stacks)


@pytest.mark.parametrize('depth, expected', [(1, [0.0]), (2, [0.0, 0.3]), (5, [0.0, 0.075, 0.15, 0.225, 0.3])])
def test_the_ramp_of_stochastic_depth_ends_at_its_rate(depth, expected):
    model = small_model('vit_tiny_patch16_224', depth=depth, drop_path_rate=0.3)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx(expected)
