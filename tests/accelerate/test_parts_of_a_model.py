# SPDX-License-Identifier: Apache-2.0
"""Accelerated class attention computes keys and values where a hook waits for them; patches go to the kernel."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from CaiT.accelerate import accelerate, functions
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


@pytest.mark.parametrize('name, patch', [('cait_xxs24_224', 16), ('vit_base_patch32_224', 32)])
def test_patches_are_embedded_by_the_kernel(name, patch, monkeypatch):
    model, shapes, function = small_model(name, randomized), [], functions.patches
    x = images(model)
    expected = model(x).numpy()
    accelerate(model)
    monkeypatch.setattr(functions, 'patches', lambda *given: shapes.append(given[1].shape) or function(*given))
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert shapes == [[model.embed_dim, 3, patch, patch]]
