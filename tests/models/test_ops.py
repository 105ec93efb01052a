# SPDX-License-Identifier: Apache-2.0
"""The models' operations by oneDNN: the plain formulation's numbers, and nowhere but where they belong."""
from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from CaiT import create_model
from CaiT.models import onednn, ops
from CaiT.models.cait import TalkingHeadAttention

BATCH, TOKENS, HEADS, WIDTH = 3, 5, 4, 24
TOKENS_SHAPE, MIXER = (BATCH, TOKENS, WIDTH), [(HEADS, HEADS), (HEADS,)]
KEEP = np.array([0.0, 1.25, 1.25]).reshape([BATCH, 1, 1])
CASES = {  # operation, shapes of what it learns
    'linear': (ops.linear, [TOKENS_SHAPE, (WIDTH, 7), (7,)]),
    'layer_norm': (lambda x, w, b: ops.layer_norm(x, w, b, 1e-6), [TOKENS_SHAPE, (WIDTH,), (WIDTH,)]),
    'gelu': (ops.gelu, [TOKENS_SHAPE]),
    'residual': (lambda x, y, g: ops.residual(x, y, g, None), [TOKENS_SHAPE, TOKENS_SHAPE, (WIDTH,)]),
    'residual, dropping': (lambda x, y, g: ops.residual(x, y, g, paddle.to_tensor(KEEP.astype(x.numpy().dtype))),
                           [TOKENS_SHAPE, TOKENS_SHAPE, (WIDTH,)]),
    'attention': (lambda *a: attention(*a), [(BATCH, TOKENS, 3 * WIDTH)]),
    'talking heads': (lambda *a: attention(*a), [(BATCH, TOKENS, 3 * WIDTH), *MIXER, *MIXER]),
}
PLAIN = {
    'linear': F.linear,
    'layer_norm': lambda x, w, b: (x - x.mean(-1, keepdim=True)) * (
        (x.var(-1, unbiased=False, keepdim=True) + 1e-6).rsqrt()) * w + b,
    'gelu': lambda x: x * (1 + paddle.erf(x / 2 ** 0.5)) / 2,
    'residual': lambda x, y, g: x + y * g,
    'residual, dropping': lambda x, y, g: x + y * g * paddle.to_tensor(KEEP),
    'attention': lambda qkv: plain_attention(qkv),
    'talking heads': lambda *a: plain_attention(*a),
}


def attention(qkv, *mixing):
    """As layers.py decides."""
    if ops.wanted(qkv, *mixing) and ops.attends(qkv):
        return ops.attention(qkv, HEADS, 0.3, *mixing)
    return plain_attention(qkv, *mixing)


def plain_attention(qkv, *mixing):
    """As the papers write it: heads moved to the last axis for a Linear and back."""
    q, k, v = (part.reshape([BATCH, TOKENS, HEADS, -1]).transpose([0, 2, 1, 3]) for part in qkv.split(3, axis=-1))
    scores = (q @ k.transpose([0, 1, 3, 2])) * 0.3

    def mix(x, weight, bias):
        return (x.transpose([0, 2, 3, 1]) @ weight + bias).transpose([0, 3, 1, 2])
    weights = F.softmax(mix(scores, *mixing[:2]) if mixing else scores)
    return ((mix(weights, *mixing[2:]) if mixing else weights) @ v).transpose([0, 2, 1, 3]).reshape([BATCH, TOKENS, -1])


def tensors(name, dtype='float32'):
    rng = np.random.default_rng(0)
    return [paddle.to_tensor(rng.normal(0.5, 1, shape).astype(dtype), stop_gradient=False) for shape in CASES[name][1]]


def gradients(operation, inputs):
    out = operation(*inputs)
    out.backward(paddle.to_tensor(np.random.default_rng(1).normal(0, 1, out.shape).astype(out.numpy().dtype)))
    return out, [t.grad.numpy() for t in inputs]


@pytest.fixture
def calls(monkeypatch):
    """How often a kernel of oneDNN has run: a list that grows."""
    seen, call = [], onednn._Kernel.__call__
    monkeypatch.setattr(onednn._Kernel, '__call__', lambda self, *a: (seen.append(1), call(self, *a))[1])
    return seen


@pytest.mark.parametrize('name', CASES)
def test_gradients(name, calls):
    """Against the plain formulation in float64; twice, as gradients that are computed in place would show."""
    reference, expected = gradients(PLAIN[name], tensors(name, 'float64'))
    assert not calls
    for _ in range(2):
        out, found = gradients(CASES[name][0], tensors(name))
        np.testing.assert_allclose(out.numpy(), reference.numpy(), rtol=0, atol=2e-6 * float(reference.abs().max()))
        largest = max(np.abs(other).max() for other in expected)
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one, other, rtol=0, atol=max(1e-6 * np.abs(other).max(), 1e-7 * largest))
    assert len(calls) >= 4  # forward and backward


@pytest.mark.parametrize('name', CASES)
def test_paddles_own_elsewhere(name, calls):
    operation = CASES[name][0]
    operation(*tensors(name, 'float64'))
    if len(CASES[name][1]) > 1:
        frozen = tensors(name)
        frozen[-1].stop_gradient = True
        assert not operation(*frozen).stop_gradient
    assert not calls
    with paddle.no_grad():
        np.testing.assert_allclose(operation(*tensors(name)).numpy(), PLAIN[name](*tensors(name, 'float64')).numpy(),
                                   rtol=0, atol=1e-5)
    assert calls


def sizes():
    """Random ones, and each batch that is a small multiple of its tokens: steps in memory that coincide."""
    rng = np.random.default_rng(0)
    yield from ((int(rng.integers(1, 20)), int(rng.integers(1, 50)), int(rng.integers(1, 9)), int(rng.integers(1, 65)))
                for _ in range(60))
    yield from ((batch, tokens, 4, 8) for tokens in range(1, 9) for batch in (tokens, 2 * tokens, 3 * tokens))


def test_attention_at_many_sizes():
    """Products with strides, against NumPy's, forward and backward; outputs begin as nan."""
    rng = np.random.default_rng(1)
    for batch, tokens, heads, each in sizes():
        qkv = rng.normal(0, 1, (batch, tokens, 3, heads, each)).astype('float32')
        given = paddle.to_tensor(qkv.reshape(batch, tokens, -1))
        if not ops.attends(given):
            continue
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        attention, g = (rng.normal(0, 1, shape).astype('float32') for shape in
                        ((batch, heads, tokens, tokens), (batch, heads, tokens, each)))
        grad = paddle.to_tensor(g.transpose(0, 2, 1, 3).reshape(batch, tokens, -1))
        weights, to_qkv = paddle.to_tensor(attention), paddle.full_like(given, float('nan'))
        to_attention = onednn.attend_grad(weights, given, grad, to_qkv)
        onednn.scores_grad(given, weights, 0.5, to_qkv)
        turned = attention.transpose(0, 1, 3, 2)
        for found, expected in (
                (onednn.scores(given, heads, 0.5), q @ k.transpose(0, 1, 3, 2) / 2),
                (onednn.attend(weights, given), (attention @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)),
                (to_attention, g @ v.transpose(0, 1, 3, 2)),
                (to_qkv, np.stack([attention @ k / 2, turned @ q / 2, turned @ g]).transpose(1, 3, 0, 2, 4).reshape(
                    batch, tokens, -1))):
            np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max(),
                                       err_msg=str((batch, tokens, heads, each)))


def test_dropout_of_attention_takes_the_plain_way(calls):
    x = paddle.rand(TOKENS_SHAPE)
    x.stop_gradient = False

    def out(rate):
        paddle.seed(0)
        layer = TalkingHeadAttention(WIDTH, HEADS, True, rate, 0.0)
        layer.qkv, layer.proj = paddle.nn.Linear(WIDTH, 3 * WIDTH), paddle.nn.Linear(WIDTH, WIDTH)  # Paddle's own
        return layer(x)
    same = out(0.0)
    assert calls
    del calls[:]
    assert float((out(0.5) - same).abs().max()) > 1e-3 and not calls


def test_threads_do_not_disturb_each_other():
    """Kernels keep the addresses of their call."""
    inputs = [paddle.rand([64, 32]) * number for number in range(8)]
    expected = [F.gelu(x).numpy() for x in inputs]

    def work(number):
        return all(np.allclose(onednn.gelu(inputs[number]).numpy(), expected[number], atol=1e-6) for _ in range(200))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_bad_shapes_are_refused():
    with pytest.raises(RuntimeError, match='oneDNN: dnnl_matmul_primitive_desc_create answers status'):
        onednn.linear(paddle.rand([2, 3]), paddle.rand([4, 5]), paddle.rand([5]))


@pytest.mark.parametrize('settings, kernels', [
    ({}, 'oneDNN 3'), ({'CAIT_RUNTIME': 'off'}, 'Paddle'), ({'FLAGS_use_stride_kernel': '1'}, 'Paddle')])
def test_switches(settings, kernels):
    """All settings of runtime.py, or the one that keeps tensors dense."""
    code = 'from CaiT import runtime; runtime.prepare(); from CaiT.models import ops; print(ops.note())'
    environment = {key: value for key, value in os.environ.items() if not key.startswith('FLAGS_')}
    result = subprocess.run([sys.executable, '-c', code], env={**environment, **settings}, capture_output=True,
                            text=True, check=True)
    assert f'CPU kernels: {kernels}' in result.stdout


@pytest.mark.parametrize('name', ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224'])
def test_model(name, monkeypatch):
    """All gradients of a whole model, every parameter drawn at random, LayerScale large; those of blocks' outputs too,
    which someone may have asked to keep."""
    model = create_model(name, image_size=64, depth=3, num_classes=9, drop_path_rate=0.0)
    rng = np.random.default_rng(2)
    for key, parameter in model.named_parameters():
        centre = 0.3 if 'gamma' in key else 1.0 if 'norm' in key and key.endswith('weight') else 0.0
        parameter.set_value(rng.normal(centre, 0.1, parameter.shape).astype('float32'))
    model.train()
    pictures = paddle.to_tensor(rng.normal(0, 1, (4, 3, 64, 64)).astype('float32'))
    outputs = []
    for block in model.blocks:
        block.register_forward_post_hook(lambda layer, given, output: outputs.append(output) or output.retain_grads())

    def run():
        outputs.clear()
        logits = model(pictures)
        heads = logits if isinstance(logits, tuple) else [logits]
        loss = sum(F.cross_entropy(one, paddle.arange(4)) for one in heads)
        loss.backward()
        found = {key: parameter.grad.numpy() for key, parameter in model.named_parameters()}
        found.update((f'output of block {index}', output.grad.numpy()) for index, output in enumerate(outputs))
        model.clear_gradients()
        return loss.item(), found

    loss, found = run()
    monkeypatch.setattr(ops, 'wanted', lambda *tensors: False)
    plain_loss, plain = run()
    assert loss == pytest.approx(plain_loss, rel=2e-6)
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
