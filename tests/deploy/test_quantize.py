# SPDX-License-Identifier: Apache-2.0
"""SmoothQuant: exactness and effect."""
from __future__ import annotations

import numpy as np
import paddle
import pytest
from small_models import small

from CaiT.deploy import quantize
from CaiT.deploy import simplify as s
from CaiT.deploy.engines.paddle_ops import InferenceLayer


@pytest.mark.parametrize('family', ['cait', 'vit', 'distilled'])
@pytest.mark.parametrize('separate', [True, False])
def test_smoothing_leaves_the_logits(family, separate, checks):
    model = small(family)
    net = s.simplify(s.from_model(model), 'matmul', separate)
    images = checks.array('float')
    smoothed = quantize.smooth(net, quantize.input_maxima(net, images))
    with paddle.no_grad():
        expected = model(paddle.to_tensor(images)).numpy()
        found = InferenceLayer(smoothed)(paddle.to_tensor(images)).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert any('norm1.weight' in name for name in smoothed.arrays)


def test_smoothing_evens_the_range_out():
    net = s.simplify(s.from_model(small('vit')), 'matmul', False)
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    before = quantize.input_maxima(net, images)
    after = quantize.input_maxima(quantize.smooth(net, before), images)
    for name in ('blocks.0.attn.qkv', 'blocks.1.mlp.fc1'):
        spread = [found[name].max() / found[name].min() for found in (before, after)]
        assert spread[1] < spread[0]


def test_maxima_are_those_of_all_batches():
    net = s.from_model(small('vit'))
    images = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    whole, parts = quantize.input_maxima(net, images, 5), quantize.input_maxima(net, images, 2)
    assert set(whole) == set(parts) and all(np.allclose(whole[name], parts[name], rtol=1e-4) for name in whole)


def test_only_gemms_on_all_tokens_are_quantized():
    names = quantize.quantized_layers(s.simplify(s.from_model(small('cait')), 'matmul', True))
    assert names and all(name.startswith('blocks.') for name in names)
    assert not [name for name in names if 'fc2' in name or 'proj_' in name or 'token_only' in name]
    assert sum(name.endswith('.mlp.fc1') for name in names) == 3
