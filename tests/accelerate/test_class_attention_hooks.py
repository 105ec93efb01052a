# SPDX-License-Identifier: Apache-2.0
"""Accelerated class attention computes no keys and values: it must not, where someone waits for them."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from CaiT.accelerate import accelerate
from tests.models.small import images, randomized, small_model


@pytest.mark.parametrize('name', ['q', 'k', 'v', 'attn_drop', 'proj', 'proj_drop'])
def test_hooks_and_replaced_forwards_of_every_part(name, monkeypatch):
    model, seen = small_model('cait_xxs24_224', randomized), []
    x = images(model)
    expected = model(x).numpy()
    accelerate(model)
    layer = getattr(model.blocks_token_only[0].attn, name)
    hook = layer.register_forward_post_hook(lambda layer, inputs, output: seen.append(output.shape))
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert len(seen) == 1 and seen[0][0] == 2
    hook.remove()
    monkeypatch.setattr(layer, 'forward', lambda *given, forward=layer.forward: paddle.zeros_like(forward(*given)))
    assert np.abs(model(x).numpy() - expected).max() > 1e-3 * np.abs(expected).max()
