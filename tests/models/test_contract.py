# SPDX-License-Identifier: Apache-2.0
"""The interface of a model, over the distinct architectures: other names differ in numbers only (test_registry.py)."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from CaiT import create_model, get_variant
from CaiT.errors import InputError
from tests.models.small import CLASSES, DEPTH, SIDE, gradients, images, small_model

ARCHITECTURES = ['cait_xxs24_224', 'cait_m36_384', 'deit_tiny_patch16_224', 'deit_tiny_distilled_patch16_224',
                 'vit_base_patch32_224', 'vit_large_patch16_224']
pytestmark = pytest.mark.parametrize('name', ARCHITECTURES)


def is_cait(name: str) -> bool:
    return name.startswith('cait')


def heads(name: str) -> list:
    return ['head', 'head_dist'] if 'distilled' in name else ['head']


def tokens(name: str) -> list:
    return ['cls_token', 'dist_token'] if 'distilled' in name else ['cls_token']


def close(found: paddle.Tensor, expected: paddle.Tensor) -> None:
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_forward(name):
    model = small_model(name)
    x, width = images(model), 8 * get_variant(name).arch['num_heads']
    features = model.forward_features(x)
    assert features.shape == [2, len(tokens(name)) + SIDE ** 2, width]
    pre_logits = sum(features[:, i] for i in range(len(heads(name)))) / len(heads(name))
    close(model.forward_head(features, pre_logits=True), pre_logits)
    logits = model(x)
    assert logits.shape == [2, CLASSES]
    close(model.forward_head(features), logits)
    # The classifiers read the normalised tokens in their order, and evaluation averages them.
    expected = sum(getattr(model, head)(features[:, i]) for i, head in enumerate(heads(name))) / len(heads(name))
    close(logits, expected)
    model.train()
    trained = model(x)
    assert isinstance(trained, tuple) == (len(heads(name)) > 1)
    for head, one in zip(heads(name), trained if isinstance(trained, tuple) else [trained]):
        close(one, getattr(model, head)(features[:, heads(name).index(head)]))


def test_images_do_not_mix(name):
    model = small_model(name)
    x = images(model, 3)
    close(model(x)[1:2], model(x[1:2]))


def test_reset_classifier(name):
    model = small_model(name)
    before = {key: p.numpy() for key, p in model.named_parameters()}
    model.reset_classifier(7)
    assert model.num_classes == 7 and model(images(model)).shape == [2, 7]
    for key, parameter in model.named_parameters():
        if key.split('.')[0] in heads(name):
            assert parameter.shape[-1] == 7
            assert not key.endswith('bias') or not parameter.numpy().any()
        else:
            np.testing.assert_array_equal(parameter.numpy(), before[key])
    model.reset_classifier(0)
    remaining = {key for key in before if key.split('.')[0] not in heads(name)}
    assert {key for key, _ in model.named_parameters()} == remaining
    assert model.num_classes == 0 and model(images(model)).shape == [2, model.embed_dim]


def test_weight_decay_and_depths(name):
    model = small_model(name)
    names = [key for key, _ in model.named_parameters()]
    assert model.no_weight_decay() == {*tokens(name), 'pos_embed'} and model.no_weight_decay() < set(names)
    last = DEPTH + (2 if is_cait(name) else 0) + 1
    assert model.num_layer_ids == last + 1
    for key in names:
        first, *rest = key.split('.')
        if first.startswith('blocks'):
            expected = 1 + int(rest[0]) + (DEPTH if first == 'blocks_token_only' else 0)
        else:
            expected = last if first in ('norm', 'head', 'head_dist') else 0
        assert model.layer_id(key) == expected, key
    assert {model.layer_id(key) for key in names} == set(range(last + 1))


def test_every_parameter_receives_a_gradient(name):
    """Not zero either, but for the biases that softmax cannot see, where rounding alone is left."""
    _, found = gradients(small_model(name), images(small_model(name)))
    for key, gradient in found.items():
        assert gradient is not None and np.isfinite(gradient).all(), key
        blind = key.endswith('proj_l.bias') or (key.startswith('blocks_token_only') and key.endswith('.k.bias'))
        assert blind or np.abs(gradient).max() > 1e-6, key


def test_checkpointing_changes_nothing(name):
    """Output and gradients with blocks run again in the backward pass, stochastic depth included, are the same."""
    model = small_model(name, drop_path_rate=0.5)
    model.train()
    runs = []
    model.blocks[0].register_forward_post_hook(lambda *_: runs.append(1))
    found = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        paddle.seed(1)
        found.append(gradients(model, images(model, 4)))
    assert len(runs) == 3
    for plain, again in zip(found[0][0], found[1][0]):
        np.testing.assert_array_equal(plain, again)
    for key, gradient in found[0][1].items():
        np.testing.assert_array_equal(found[1][1][key], gradient, err_msg=key)


def test_intermediates(name):
    model = small_model(name)
    x = images(model)
    inner = model.forward_intermediates(x)
    assert inner.attention == []
    close(inner.tokens, model.forward_features(x))
    patches, prefix = SIDE ** 2, len(tokens(name))
    used = []  # what each block's attention multiplies its values by
    for block in [*model.blocks, *getattr(model, 'blocks_token_only', [])]:
        block.attn.attn_drop.register_forward_post_hook(lambda layer, inputs, output: used.append(output))
    inner = model.forward_intermediates(x, attention=True)
    for found, expected in zip(inner.attention, used[-len(inner.attention):]):
        close(found, expected)
    close(inner.tokens, model.forward_features(x))
    count = get_variant(name).arch['num_heads']
    if is_cait(name):
        assert [f.shape[1] for f in inner.features] == [patches] * DEPTH + [1, 1]
        assert [a.shape for a in inner.attention] == [[2, count, 1, 1 + patches]] * 2
        close(model.norm(inner.features[-1])[:, 0], inner.tokens[:, 0])
    else:
        assert [f.shape[1] for f in inner.features] == [prefix + patches] * DEPTH
        assert [a.shape for a in inner.attention] == [[2, count, prefix + patches, prefix + patches]] * DEPTH
        close(model.norm(inner.features[-1]), inner.tokens)
    for attention in inner.attention:
        assert float(attention.min()) >= 0
        np.testing.assert_allclose(attention.sum(-1).numpy(), 1, atol=1e-6)


def test_stochastic_depth_rates(name):
    """Uniform and absent in class attention for CaiT, a ramp from 0 for the others."""
    model = small_model(name, drop_path_rate=0.3)
    rates = [block.drop_path.drop_prob for block in model.blocks]
    assert rates == pytest.approx([0.3] * DEPTH if is_cait(name) else [0.0, 0.15, 0.3])
    assert [block.drop_path.drop_prob for block in getattr(model, 'blocks_token_only', [])] == [0.0] * 2 * is_cait(name)


def test_impossible_shapes(name):
    arch = get_variant(name).arch
    heads_, patch = arch['num_heads'], arch['patch_size']
    with pytest.raises(InputError, match=f'embed_dim {8 * heads_ + 1} is not divisible by num_heads {heads_}'):
        small_model(name, embed_dim=8 * heads_ + 1)
    with pytest.raises(InputError, match=f'image_size {4 * patch + 1} is not divisible by patch_size {patch}'):
        small_model(name, image_size=4 * patch + 1)
    with pytest.raises(InputError, match='drop_path_rate 1.0 is outside 0 <= drop_path_rate < 1'):
        small_model(name, drop_path_rate=1.0)
    with pytest.raises(InputError, match=rf"{name}: unknown argument 'dim', expected one of \["):
        create_model(name, dim=3)
