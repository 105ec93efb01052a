# SPDX-License-Identifier: Apache-2.0
"""The layers' arithmetic, and how they start."""
from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from CaiT import create_model, list_models
from CaiT.models.cait import HeadMix
from CaiT.models.layers import DropPath, Mlp
from CaiT.tools import goldens

# LayerScale's first value, from the public code (cait_models.py); the paper's text has 1e-6 for XXS36 too.
LAYER_SCALE = {'xxs24': 1e-5, 'xxs36': 1e-5, 'xs24': 1e-5, 's24': 1e-5, 's36': 1e-6, 'm36': 1e-6, 'm48': 1e-6}


def test_drop_path_statistics():
    paddle.seed(0)
    layer, count, drop_prob = DropPath(0.3), 20000, 0.3
    out = layer(paddle.ones([count, 3, 2])).numpy()
    np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1, :1], out.shape))  # an image is kept whole or not
    np.testing.assert_allclose(np.unique(out), [0, 1 / 0.7], rtol=1e-6)
    error = math.sqrt(drop_prob * (1 - drop_prob) / count)
    assert (out[:, 0, 0] == 0).mean() == pytest.approx(drop_prob, abs=4 * error)
    layer.eval()
    np.testing.assert_array_equal(layer(paddle.ones([5, 3, 2])).numpy(), 1)


def test_drop_path_keeps_the_type():
    assert DropPath(0.5)(paddle.ones([4, 2], 'bfloat16')).dtype == paddle.bfloat16


def test_head_mix_is_a_linear_over_heads():
    layer, attention = HeadMix(4), paddle.to_tensor(goldens.noise((2, 4, 5, 6), 0))
    layer.weight.set_value(goldens.noise((4, 4), 1))
    layer.bias.set_value(goldens.noise((4,), 2))
    expected = np.einsum('bhnm,hk->bknm', attention.numpy(), layer.weight.numpy()) + layer.bias.numpy()[:, None, None]
    np.testing.assert_allclose(layer(attention).numpy(), expected, atol=1e-5)


def test_gelu_is_exact():
    layer = Mlp(1, 1, 0.0)
    for linear in (layer.fc1, layer.fc2):
        linear.weight.set_value(np.ones((1, 1), np.float32))
    x = np.linspace(-4, 4, 81, dtype=np.float32).reshape(-1, 1)
    expected = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.ravel()]
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy().ravel(), expected, atol=1e-6)  # tanh: 5e-4


@pytest.mark.parametrize('name', list_models('cait'))
def test_layer_scale_starts_at_its_published_value(name):
    model = create_model(name, image_size=16, embed_dim=16, num_heads=1, depth=2)
    expected = np.float32(LAYER_SCALE[name.split('_')[1]])
    gammas = [p.numpy() for key, p in model.named_parameters() if '.gamma_' in key]
    assert len(gammas) == 8 and all((gamma == expected).all() for gamma in gammas)
    custom = create_model(name, image_size=16, embed_dim=16, num_heads=1, depth=2, init_values=0.25)
    assert all((p.numpy() == 0.25).all() for key, p in custom.named_parameters() if '.gamma_' in key)


@pytest.mark.parametrize('name', ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224', 'vit_tiny_patch16_224'])
def test_initial_values(name):
    """Truncated normal of std 0.02 for Linears and tokens, zero biases, LayerNorm 1 and 0; uniform patch kernel."""
    paddle.seed(0)
    model = create_model(name, depth=2)
    for key, parameter in model.named_parameters():
        array = parameter.numpy().astype(np.float64)
        if key.endswith('.bias'):
            assert not array.any(), key
        elif 'norm' in key:
            assert (array == 1).all(), key
        elif key == 'patch_embed.proj.weight':
            bound = 1 / math.sqrt(3 * 16 * 16)
            assert np.abs(array).max() <= bound and array.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        elif '.gamma_' not in key:
            spread = 5 / math.sqrt(2 * array.size)  # five standard errors of a standard deviation, relative
            assert array.std() == pytest.approx(0.02, rel=spread), key
            assert abs(array.mean()) < 5 * 0.02 / math.sqrt(array.size), key


def test_initial_values_follow_the_seed():
    def values(seed):
        paddle.seed(seed)
        return create_model('cait', image_size=16, embed_dim=8, depth=1, num_heads=2).head.weight.numpy()
    np.testing.assert_array_equal(values(3), values(3))
    assert (values(3) != values(4)).any()
