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
from CaiT.models import kernels, onednn, ops
from CaiT.models.cait import ClassAttention

BATCH, TOKENS, HEADS, WIDTH, SIDE = 6, 5, 4, 24, 2
TOKENS_SHAPE, MIXER, LINEAR = (BATCH, TOKENS, WIDTH), [(HEADS, HEADS), (HEADS,)], [(WIDTH, WIDTH), (WIDTH,)]
NORM, GAMMA = [(WIDTH,), (WIDTH,)], [(WIDTH,)]
ATTENTION = [TOKENS_SHAPE, *NORM, (WIDTH, 3 * WIDTH), (3 * WIDTH,), *LINEAR]
MLP = [TOKENS_SHAPE, *NORM, (WIDTH, 50), (50,), (50, WIDTH), (WIDTH,)]
KEPT = {  # what is drawn for each image, and what its branch is multiplied by at a rate of 0.2
    'all': (None, [1.0] * BATCH), 'none dropped': ([0.3] * BATCH, [1.25] * BATCH),
    'some': ([0.1, 0.5, 0.2, 0.19, 0.9, 0.3], [0, 1.25, 1.25, 0, 1.25, 1.25]),
    'first and last': ([0.2, 0.0, 0.1, 0.1, 0.1, 0.7], [1.25, 0, 0, 0, 0, 1.25]), 'none': ([0.1] * BATCH, [0] * BATCH)}


def branch(one, plain, kept, scaled):
    """An operation of ops.py on a whole branch as layers.py calls it, and its plain formulation."""
    drawn, factors = KEPT[kept]
    factors = np.reshape(factors, [BATCH, 1, 1])

    def quick(x, *learned):
        gamma, learned = (learned[-1], learned[:-1]) if scaled else (None, learned)
        if not ops.wanted(x, *learned, x if gamma is None else gamma):
            return slow(x, *learned, *([gamma] if scaled else []))
        found = None if drawn is None else paddle.to_tensor(np.reshape(drawn, [BATCH, 1, 1]).astype('float32'))
        return one(x, ops.kept(found, 0.2), learned, gamma)

    def slow(x, *learned):
        gamma, learned = (learned[-1], learned[:-1]) if scaled else (1.0, learned)
        return x + plain(x, *learned) * gamma * paddle.to_tensor(factors.astype(x.numpy().dtype))
    return quick, slow


def plain_norm(x, w, b):
    return (x - x.mean(-1, keepdim=True)) * ((x.var(-1, unbiased=False, keepdim=True) + 1e-6).rsqrt()) * w + b


def plain_gelu(x):
    return x * (1 + paddle.erf(x / 2 ** 0.5)) / 2


def plain_mlp(x, w, b, w1, b1, w2, b2):
    return plain_gelu(plain_norm(x, w, b) @ w1 + b1) @ w2 + b2


def plain_attention(x, w, b, w_qkv, b_qkv, w_proj, b_proj, *mixing):
    """As the papers write it: heads moved to the last axis for a Linear and back."""
    qkv = plain_norm(x, w, b) @ w_qkv + b_qkv
    q, k, v = (part.reshape([BATCH, TOKENS, HEADS, -1]).transpose([0, 2, 1, 3]) for part in qkv.split(3, axis=-1))
    scores = (q @ k.transpose([0, 1, 3, 2])) * 0.3

    def mix(x, weight, bias):
        return (x.transpose([0, 2, 3, 1]) @ weight + bias).transpose([0, 3, 1, 2])
    weights = F.softmax(mix(scores, *mixing[:2]) if mixing else scores)
    weights = mix(weights, *mixing[2:]) if mixing else weights
    return (weights @ v).transpose([0, 2, 1, 3]).reshape([BATCH, TOKENS, -1]) @ w_proj + b_proj


def attend(x, images, learned, gamma):
    return ops.attention(x, images, learned, gamma, HEADS, 0.3, 1e-6)


CASES = {  # operation, its plain formulation, shapes of what they learn
    'linear': (ops.linear, F.linear, [TOKENS_SHAPE, (WIDTH, 7), (7,)]),
    'linear, many rows': (ops.linear, F.linear, [(300, WIDTH), (WIDTH, 70), (70,)]),
    'layer_norm': (lambda x, w, b: ops.layer_norm(x, w, b, 1e-6), plain_norm, [TOKENS_SHAPE, *NORM]),
    'gelu': (ops.gelu, plain_gelu, [TOKENS_SHAPE]),
    'add_to_each': (ops.add_to_each, lambda x, y: x + y, [TOKENS_SHAPE, (1, TOKENS, WIDTH)]),
    'patches': (lambda w, b: ops.patches(images(w), w, b), lambda w, b: F.conv2d(
        images(w), w, b, stride=SIDE).flatten(2).transpose([0, 2, 1]), [(WIDTH, 3, SIDE, SIDE), (WIDTH,)]),
    **{f'mlp, {kept}': (*branch(lambda *a: ops.mlp(*a, 1e-6), plain_mlp, kept, True), [*MLP, *GAMMA]) for kept in KEPT},
    'mlp without LayerScale': (*branch(lambda *a: ops.mlp(*a, 1e-6), plain_mlp, 'all', False), MLP),
    'mlp without LayerScale, some': (*branch(lambda *a: ops.mlp(*a, 1e-6), plain_mlp, 'some', False), MLP),
    'attention': (*branch(attend, plain_attention, 'all', False), ATTENTION),
    'attention, some': (*branch(attend, plain_attention, 'some', False), ATTENTION),
    **{f'talking heads, {kept}': (*branch(attend, plain_attention, kept, True), [*ATTENTION, *MIXER, *MIXER, *GAMMA])
       for kept in KEPT},
}


def images(like):
    """[B, 3, 8, 6] of its type."""
    return paddle.to_tensor(np.random.default_rng(3).normal(0, 1, (BATCH, 3, 8, 6)).astype(like.numpy().dtype))


def tensors(name, dtype='float32'):
    rng = np.random.default_rng(0)
    spread = [shape[0] ** -0.5 if len(shape) == 2 else 1.0 for shape in CASES[name][2]]  # what leaves softmax soft
    return [paddle.to_tensor(rng.normal(0.5 * (size == 1.0), size, shape).astype(dtype), stop_gradient=False)
            for size, shape in zip(spread, CASES[name][2])]


def gradients(operation, inputs):
    out = operation(*inputs)
    out.backward(paddle.to_tensor(np.random.default_rng(1).normal(0, 1, out.shape).astype(out.numpy().dtype)))
    return out, [t.grad.numpy() for t in inputs]


@pytest.fixture
def calls(monkeypatch):
    """How often a kernel of oneDNN has run: a list that grows."""
    seen, call = [], kernels.Kernel.__call__
    monkeypatch.setattr(kernels.Kernel, '__call__', lambda self, *a: (seen.append(1), call(self, *a))[1])
    return seen


@pytest.mark.parametrize('name', CASES)
def test_gradients(name, calls):
    """Against the plain formulation in float64; twice, as gradients that are computed in place would show."""
    reference, expected = gradients(CASES[name][1], tensors(name, 'float64'))
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
    if len(CASES[name][2]) > 1:
        frozen = tensors(name)
        frozen[-1].stop_gradient = True
        assert not operation(*frozen).stop_gradient
    assert not calls
    with paddle.no_grad():
        expected = CASES[name][1](*tensors(name, 'float64')).numpy()
        np.testing.assert_allclose(operation(*tensors(name)).numpy(), expected, rtol=0,
                                   atol=2e-6 * np.abs(expected).max())
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
        if not ops.attends(batch, tokens):
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


def small(name='cait_xxs24_224', depth=2, **more):
    """A model of few blocks (and CaiT's two of class attention) whose parameters are far from their first values."""
    model = create_model(name, image_size=64, depth=depth, num_classes=9, **more)
    rng = np.random.default_rng(2)
    for key, parameter in model.named_parameters():
        centre = 0.3 if 'gamma' in key else 1.0 if 'norm' in key and key.endswith('weight') else 0.0
        parameter.set_value(rng.normal(centre, 0.1, parameter.shape).astype('float32'))
    return model


@pytest.mark.parametrize('where', ['norm1', 'attn', 'attn.qkv', 'attn.proj_l', 'attn.proj_drop', 'mlp', 'mlp.fc2'])
def test_who_listens_to_a_layer_hears_it(where, monkeypatch):
    model, heard = small(), []
    layer = dict(model.blocks[1].named_sublayers())[where]
    x = paddle.rand([2, 16, 192])
    x.stop_gradient = False  # as a block's input: else its parameters learn and it does not, and Paddle's own run
    model.eval()
    expected = model.blocks[1](x)
    hook = layer.register_forward_post_hook(lambda layer, given, output: heard.append(1))
    np.testing.assert_allclose(model.blocks[1](x).numpy(), expected.numpy(), rtol=0, atol=1e-5)
    assert heard
    hook.remove()
    monkeypatch.setattr(layer, 'forward', lambda *given, forward=layer.forward: 3 * forward(*given))
    assert float((model.blocks[1](x) - expected).abs().max()) > 0.1  # and another in its place is called


@pytest.mark.parametrize('rate', ['attn_drop_rate', 'drop_rate'])
def test_dropout_takes_the_plain_way(rate):
    model = small(**{rate: 0.5})
    model.train()
    x = paddle.rand([2, 16, 192])
    x.stop_gradient = False
    outputs = [model.blocks[0](x).numpy() for _ in range(2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-2
    model.eval()
    np.testing.assert_array_equal(model.blocks[0](x).numpy(), model.blocks[0](x).numpy())


def test_class_attention_without_keys_and_values():
    """The shorter way's numbers and gradients are those of the published one, which a hook brings back."""
    paddle.seed(0)
    layer, x = ClassAttention(24, 3, True, 0.0, 0.0), paddle.rand([4, 7, 24])
    for parameter in layer.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    x.stop_gradient = False

    def run():
        layer.clear_gradients()
        x.clear_grad()
        out = layer(x)
        (out * paddle.arange(24, dtype='float32')).sum().backward()
        return [t.numpy() for t in (out, x.grad, *(p.grad for p in layer.parameters()))]
    found, heard = run(), []
    layer.k.register_forward_post_hook(lambda *given: heard.append(1))
    expected = run()
    assert len(heard) == 1
    largest = max(np.abs(other).max() for other in expected)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=max(1e-5 * np.abs(other).max(), 1e-6 * largest))


def test_images_may_learn():
    """Saliency maps, adversarial images: the gradient reaches the pixels."""
    model, pixels = small(), paddle.rand([2, 3, 64, 64])
    pixels.stop_gradient = False
    model(pixels).sum().backward()
    assert float(pixels.grad.abs().max()) > 0


def test_frozen_layers_take_the_quick_way(calls):
    model = small()
    for parameter in model.parameters():
        parameter.stop_gradient = True
    model.head.weight.stop_gradient = model.head.bias.stop_gradient = False
    model.train()
    model(paddle.rand([2, 3, 64, 64])).sum().backward()
    assert len(calls) > 40 and model.head.weight.grad is not None and model.blocks[0].attn.qkv.weight.grad is None


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


@pytest.mark.parametrize('rate', [0.0, 0.4])
@pytest.mark.parametrize('name', ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224'])
def test_model(name, rate, monkeypatch):
    """All gradients of a whole model, every parameter drawn at random, LayerScale large; those of blocks' outputs too,
    which someone may have asked to keep. The same images are dropped either way."""
    model = small(name, depth=3, drop_path_rate=rate)
    model.train()
    images, outputs = paddle.to_tensor(np.random.default_rng(2).normal(0, 1, (4, 3, 64, 64)).astype('float32')), []
    for block in model.blocks:
        block.register_forward_post_hook(lambda layer, given, output: outputs.append(output) or output.retain_grads())

    def run():
        outputs.clear()
        paddle.seed(5)
        logits = model(images)
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
