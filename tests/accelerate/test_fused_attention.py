# SPDX-License-Identifier: Apache-2.0
"""Attention by scaled_dot_product_attention, on a CPU by its plain path. No GPU was ever at hand."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from CaiT import create_model
from CaiT.accelerate import accelerate, fused_attention, restore
from CaiT.models import cait, vit
from CaiT.tools.simulated_gpu import simulated_gpu

needs_autocast = pytest.mark.skipif(not hasattr(paddle, 'is_autocast_enabled'),
                                    reason='Paddle before 3.2 has no fused attention here')
SMALL = dict(image_size=32, patch_size=8, embed_dim=32, num_heads=2, num_classes=3, drop_path_rate=0.0)


@pytest.fixture
def fused(monkeypatch):
    """As on a GPU whose kernel agrees; numbers are float32, which a CPU has."""
    calls = []
    real = paddle.nn.functional.scaled_dot_product_attention

    def counted(*args, **options):
        calls.append([list(a.shape) for a in args])
        with monkeypatch.context() as inner:  # Paddle 3.2 chooses a kernel by the device's name
            inner.setattr(paddle, 'get_device', lambda: 'cpu')
            return real(*args, **options)
    monkeypatch.setattr(paddle.nn.functional, 'scaled_dot_product_attention', counted)
    monkeypatch.setattr(fused_attention, '_problem', lambda device: '')
    monkeypatch.setattr(fused_attention, 'on_gpu', lambda x: True)
    monkeypatch.setattr(paddle, 'is_autocast_enabled', lambda: True)
    monkeypatch.setattr(paddle, 'get_autocast_dtype', lambda: 'float32')
    monkeypatch.setattr(paddle, 'get_device', lambda: 'gpu:0')
    return calls


def outputs(model, images):
    """Logits, and the gradients of all parameters."""
    logits = model(images)
    logits = sum(logits) if isinstance(logits, tuple) else logits
    logits.square().sum().backward()
    found = [logits.numpy(), *(p.grad.numpy() for p in model.parameters())]
    model.clear_gradients()
    return found


@pytest.mark.parametrize('name, depth, layers, shapes', [
    ('vit', 2, 2, [[2, 17, 2, 16]] * 3), ('deit', 1, 1, [[2, 17, 2, 16]] * 3),
    ('deit_tiny_distilled_patch16_224', 3, 3, [[2, 18, 2, 16]] * 3),
    ('cait', 1, 2, [[2, 1, 2, 16], [2, 17, 2, 16], [2, 17, 2, 16]])])
@needs_autocast
def test_numbers_of_the_plain_path(fused, name, depth, layers, shapes):
    """Logits and gradients within 1e-5 of the largest of each; talking heads stay."""
    paddle.seed(0)
    model = create_model(name, depth=depth, **SMALL)
    model.train()
    images = paddle.to_tensor(np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype('float32'))
    plain = outputs(model, images)
    assert accelerate(model) == (f'acceleration: scaled_dot_product_attention in {layers} layers on gpu:0, '
                                 'with float16 or bfloat16')
    found = outputs(model, images)
    assert fused == [shapes] * layers
    restore(model)
    for again in (found, outputs(model, images)):
        for one, two in zip(again, plain):
            assert np.abs(one - two).max() <= 1e-5 * max(np.abs(two).max(), 1e-3)
    assert len(fused) == layers
    assert not any(type(layer) in fused_attention.FUSED.values() for layer in model.sublayers())


def hook(layer):
    layer.attn_drop.register_forward_post_hook(lambda *_: None)


@pytest.mark.parametrize('change', [
    hook, lambda layer: setattr(layer.attn_drop, 'p', 0.5), lambda layer: setattr(layer, 'scale', 1.0),
    lambda layer: setattr(layer, 'attn_drop', paddle.nn.Identity()),
    lambda layer: object.__setattr__(layer, 'attend', layer.attend)])
@pytest.mark.parametrize('kind', [vit.Attention, cait.ClassAttention])
@needs_autocast
def test_what_falls_back(fused, kind, change):
    layer = kind(32, 2, True, 0.0, 0.0)
    accelerate(layer)
    x = paddle.ones([1, 5, 32])
    layer(x)
    assert len(fused) == 1
    change(layer)
    layer(x)
    assert len(fused) == 1


@pytest.mark.parametrize('dim, heads, calls', [(512, 2, 1), (528, 2, 0), (24, 2, 0), (48, 1, 1)])
@needs_autocast
def test_sizes_of_a_head(fused, dim, heads, calls):
    layer = vit.Attention(dim, heads, True, 0.0, 0.0)
    accelerate(layer)
    layer(paddle.ones([1, 5, dim]))
    assert len(fused) == calls


@needs_autocast
def test_float32_and_cpus_and_subclasses_stay_plain(fused, monkeypatch):
    class Own(vit.Attention):
        pass

    own, layer = Own(32, 2, True, 0.0, 0.0), vit.Attention(32, 2, True, 0.0, 0.0)
    assert accelerate(own) == 'acceleration: none on gpu:0, the model has no attention layer with a fused kernel'
    accelerate(layer)
    monkeypatch.setattr(paddle, 'is_autocast_enabled', lambda: False)
    own(paddle.ones([1, 5, 32])), layer(paddle.ones([1, 5, 32]))
    monkeypatch.undo()
    layer(paddle.ones([1, 5, 32]))
    assert fused == []


@needs_autocast
def test_a_device_without_the_kernel():
    model = create_model('vit', depth=1, **SMALL)
    fused_attention._problem.cache_clear()
    with simulated_gpu():
        line = accelerate(model)
    fused_attention._problem.cache_clear()
    assert line.startswith('acceleration: none on gpu:0, it has no fused attention in float16 (')
    assert type(model.blocks[0].attn) is vit.Attention


@pytest.mark.parametrize('difference, found', [(0.009, ''), (0.5, 'its fused attention is off by 0.5 in float16')])
def test_a_kernel_that_disagrees(monkeypatch, difference, found):
    fused_attention._problem.cache_clear()
    monkeypatch.setattr(fused_attention, 'largest_difference', lambda dtype: difference)
    assert fused_attention._problem('gpu:0') == found
    fused_attention._problem.cache_clear()


def test_the_comparison_itself():
    assert fused_attention.largest_difference('float32') < 1e-6


def test_a_paddle_that_cannot_be_asked_for_autocast(monkeypatch):
    monkeypatch.delattr(paddle, 'is_autocast_enabled', raising=False)
    monkeypatch.setattr(paddle, 'get_device', lambda: 'gpu:0')
    monkeypatch.setattr(paddle, '__version__', '3.1.1')
    model = create_model('vit', depth=1, **SMALL)
    assert fused_attention.exchange(model) == (
        'acceleration: none on gpu:0, fused attention needs Paddle 3.2 or later, found 3.1.1')
    assert not any(type(layer) in fused_attention.FUSED.values() for layer in model.sublayers())
