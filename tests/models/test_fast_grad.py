# SPDX-License-Identifier: Apache-2.0
"""The own backward passes: the plain formulation's numbers, and nowhere but where they belong."""
from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from CaiT import create_model
from CaiT.models import fast_grad

WIDTH, HEADS = 24, 4
CASES = {
    'linear': (fast_grad.linear, [(2, 5, WIDTH), (WIDTH, 7), (7,)]),
    'layer_norm': (lambda x, w, b: fast_grad.layer_norm(x, w, b, 1e-6), [(2, 5, WIDTH), (WIDTH,), (WIDTH,)]),
    'mix': (fast_grad.mix, [(2, HEADS, 30), (HEADS, HEADS), (HEADS,)]),
    'scale': (fast_grad.scale, [(2, 5, WIDTH), (WIDTH,)]),
}
PLAIN = {
    'linear': F.linear,
    'layer_norm': lambda x, w, b: (x - x.mean(-1, keepdim=True)) * (
        (x.var(-1, unbiased=False, keepdim=True) + 1e-6).rsqrt()) * w + b,
    'mix': lambda x, w, b: (x.transpose([0, 2, 1]) @ w + b).transpose([0, 2, 1]),
    'scale': lambda x, g: x * g,
}


def tensors(name, dtype='float32'):
    rng = np.random.default_rng(0)
    return [paddle.to_tensor(rng.normal(0.5, 1, shape).astype(dtype), stop_gradient=False) for shape in CASES[name][1]]


def gradients(operation, inputs):
    out = operation(*inputs)
    out.backward(paddle.to_tensor(np.random.default_rng(1).normal(0, 1, out.shape).astype(out.numpy().dtype)))
    return out, [t.grad.numpy() for t in inputs]


def own(out):
    return out.grad_fn.name().startswith('GradNodePyLayer')


@pytest.mark.parametrize('name', CASES)
def test_gradients(name):
    """Against the plain formulation in float64."""
    out, found = gradients(CASES[name][0], tensors(name))
    reference, expected = gradients(PLAIN[name], tensors(name, 'float64'))
    assert own(out) and not own(reference)
    np.testing.assert_allclose(out.numpy(), reference.numpy(), rtol=0, atol=2e-6 * float(reference.abs().max()))
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())


@pytest.mark.parametrize('name', CASES)
def test_plain_operations_elsewhere(name):
    operation = CASES[name][0]
    assert not own(operation(*tensors(name, 'float64')))
    frozen = tensors(name)
    frozen[1].stop_gradient = True
    assert not own(operation(*frozen))
    with paddle.no_grad():
        assert operation(*tensors(name)).stop_gradient


@pytest.mark.parametrize('name', ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224'])
def test_model(name, monkeypatch):
    """All gradients of a whole model, every parameter drawn at random, LayerScale large."""
    model = create_model(name, image_size=64, depth=3, num_classes=9, drop_path_rate=0.0)
    rng = np.random.default_rng(2)
    for key, parameter in model.named_parameters():
        centre = 0.3 if 'gamma' in key else 1.0 if 'norm' in key and key.endswith('weight') else 0.0
        parameter.set_value(rng.normal(centre, 0.1, parameter.shape).astype('float32'))
    model.train()
    pictures = paddle.to_tensor(rng.normal(0, 1, (4, 3, 64, 64)).astype('float32'))

    def run():
        logits = model(pictures)
        heads = logits if isinstance(logits, tuple) else [logits]
        loss = sum(F.cross_entropy(one, paddle.arange(4)) for one in heads)
        loss.backward()
        found = {key: parameter.grad.numpy() for key, parameter in model.named_parameters()}
        model.clear_gradients()
        return loss.item(), found

    loss, found = run()
    monkeypatch.setattr(fast_grad, 'wanted', lambda *tensors: False)
    plain_loss, plain = run()
    assert loss == plain_loss
    largest = max(np.abs(value).max() for value in plain.values())
    for key, value in plain.items():
        size = np.abs(value).max()
        blind = size < 1e-6 * largest  # biases that softmax cannot see: rounding alone
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-6 * largest if blind else 3e-5 * size,
                                   err_msg=key)


def test_export_traces_plain_operations(tmp_path):
    model = create_model('cait_xxs24_224', image_size=32, depth=1, depth_token_only=1, num_classes=3)
    model.eval()
    paddle.jit.save(model, str(tmp_path / 'model'), [paddle.static.InputSpec([None, 3, 32, 32], 'float32')])
    assert 'py_layer' not in (tmp_path / 'model.json').read_text().lower()
    x = paddle.rand([2, 3, 32, 32])
    loaded = paddle.jit.load(str(tmp_path / 'model'))
    np.testing.assert_allclose(loaded(x).numpy(), model(x).numpy(), rtol=0, atol=1e-6)


def test_names_are_paddles_own():
    """Checkpoints of the optimiser are keyed by them."""
    with paddle.utils.unique_name.guard():
        model = create_model('cait_xxs24_224', image_size=32, depth=1, depth_token_only=1)
    assert model.blocks[0].attn.qkv.weight.name == 'linear_1.w_0'
    assert model.norm.weight.name == 'layer_norm_4.w_0'
