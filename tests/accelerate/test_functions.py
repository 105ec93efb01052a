# SPDX-License-Identifier: Apache-2.0
"""The accelerated operations: the plain formulation's numbers, and only where they are eligible."""
from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from CaiT.accelerate import functions, primitives, tensor_ops

BATCH, TOKENS, HEADS, WIDTH, SIDE = 6, 5, 4, 24, 2
TOKENS_SHAPE, MIXER, LINEAR = (BATCH, TOKENS, WIDTH), [(HEADS, HEADS), (HEADS,)], [(WIDTH, WIDTH), (WIDTH,)]
NORM, GAMMA = [(WIDTH,), (WIDTH,)], [(WIDTH,)]
ATTENTION = [TOKENS_SHAPE, *NORM, (WIDTH, 3 * WIDTH), (3 * WIDTH,), *LINEAR]
MLP = [TOKENS_SHAPE, *NORM, (WIDTH, 50), (50,), (50, WIDTH), (WIDTH,)]
MASKS = {  # keep masks, and what each image's branch is multiplied by at a drop prob of 0.2
    'all': (None, [1.0] * BATCH), 'none dropped': ([True] * BATCH, [1.25] * BATCH),
    'some': ([False, True, True, False, True, True], [0, 1.25, 1.25, 0, 1.25, 1.25]),
    'first and last': ([True, False, False, False, False, True], [1.25, 0, 0, 0, 0, 1.25]),
    'none': ([False] * BATCH, [0] * BATCH)}


def branch(accelerated, plain, mask, has_gamma):
    """An operation on a whole residual branch, and its plain formulation."""
    keep_mask, factors = MASKS[mask]
    factors = np.reshape(factors, [BATCH, 1, 1])

    def fast(x, *parameters):
        gamma, parameters = (parameters[-1], parameters[:-1]) if has_gamma else (None, parameters)
        found = None if keep_mask is None else paddle.to_tensor(np.reshape(keep_mask, [BATCH, 1, 1]))
        return accelerated(x, functions.selected_images(found, 0.2), parameters, gamma)

    def slow(x, *parameters):
        gamma, parameters = (parameters[-1], parameters[:-1]) if has_gamma else (1.0, parameters)
        return x + plain(x, *parameters) * gamma * paddle.to_tensor(factors.astype(x.numpy().dtype))
    return fast, slow


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


def attention(x, selection, parameters, gamma):
    return functions.attention(x, selection, parameters, gamma, HEADS, 0.3, 1e-6)


CASES = {  # operation, its plain formulation, shapes of their tensors
    'linear': (functions.linear, F.linear, [TOKENS_SHAPE, (WIDTH, 7), (7,)]),
    'linear, many rows': (functions.linear, F.linear, [(300, WIDTH), (WIDTH, 70), (70,)]),
    'layer_norm': (lambda x, w, b: functions.layer_norm(x, w, b, 1e-6), plain_norm, [TOKENS_SHAPE, *NORM]),
    'gelu': (functions.gelu, plain_gelu, [TOKENS_SHAPE]),
    'add_to_each': (functions.add_to_each, lambda x, y: x + y, [TOKENS_SHAPE, (1, TOKENS, WIDTH)]),
    'patches': (lambda w, b: functions.patches(images(w), w, b), lambda w, b: F.conv2d(
        images(w), w, b, stride=SIDE).flatten(2).transpose([0, 2, 1]), [(WIDTH, 3, SIDE, SIDE), (WIDTH,)]),
    **{f'mlp, {mask}': (*branch(lambda *a: functions.mlp(*a, 1e-6), plain_mlp, mask, True), [*MLP, *GAMMA])
       for mask in MASKS},
    'mlp without LayerScale': (*branch(lambda *a: functions.mlp(*a, 1e-6), plain_mlp, 'all', False), MLP),
    'mlp without LayerScale, some': (*branch(lambda *a: functions.mlp(*a, 1e-6), plain_mlp, 'some', False), MLP),
    'attention': (*branch(attention, plain_attention, 'all', False), ATTENTION),
    'attention, some': (*branch(attention, plain_attention, 'some', False), ATTENTION),
    **{f'talking heads, {mask}': (*branch(attention, plain_attention, mask, True), [*ATTENTION, *MIXER, *MIXER, *GAMMA])
       for mask in MASKS},
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
    seen, call = [], primitives.Kernel.__call__
    monkeypatch.setattr(primitives.Kernel, '__call__', lambda self, *a: (seen.append(1), call(self, *a))[1])
    return seen


@pytest.mark.parametrize('name', CASES)
def test_gradients(name, calls):
    """Against the plain formulation in float64; twice, because gradients computed in place would show."""
    reference, expected = gradients(CASES[name][1], tensors(name, 'float64'))
    assert not calls
    for _ in range(2):
        out, found = gradients(CASES[name][0], tensors(name))
        np.testing.assert_allclose(out.numpy(), reference.numpy(), rtol=0, atol=2e-6 * float(reference.abs().max()))
        largest = max(np.abs(other).max() for other in expected)
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one, other, rtol=0, atol=max(1e-6 * np.abs(other).max(), 1e-7 * largest))
    assert len(calls) >= 4  # forward and backward


def test_only_dense_float32_on_a_cpu_is_eligible():
    x, weight = paddle.rand([2, 3]), paddle.rand([3])
    assert functions.is_eligible(x, weight)
    assert not functions.is_eligible(x.astype('float64')) and not functions.is_eligible(x, None)
    weight.stop_gradient = False
    assert not functions.is_eligible(x, weight)
    with paddle.no_grad():
        assert functions.is_eligible(x, weight)
    x.stop_gradient = False
    assert functions.is_eligible(x, weight)


def test_nothing_is_eligible_while_transposes_are_views():
    x = paddle.rand([2, 3])
    paddle.set_flags({'FLAGS_use_stride_kernel': True})
    try:
        assert not functions.is_eligible(x) and not x.t().is_contiguous()
    finally:
        paddle.set_flags({'FLAGS_use_stride_kernel': False})
    assert functions.is_eligible(x)


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
        if not functions.is_supported_attention(batch, tokens):
            continue
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        attention, g = (rng.normal(0, 1, shape).astype('float32') for shape in
                        ((batch, heads, tokens, tokens), (batch, heads, tokens, each)))
        grad = paddle.to_tensor(g.transpose(0, 2, 1, 3).reshape(batch, tokens, -1))
        weights, to_qkv = paddle.to_tensor(attention), paddle.full_like(given, float('nan'))
        to_attention = tensor_ops.apply_attn_grad(weights, given, grad, to_qkv)
        tensor_ops.scores_grad(given, weights, 0.5, to_qkv)
        transposed = attention.transpose(0, 1, 3, 2)
        for found, expected in (
                (tensor_ops.scores(given, heads, 0.5), q @ k.transpose(0, 1, 3, 2) / 2),
                (tensor_ops.apply_attn(weights, given),
                 (attention @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)),
                (to_attention, g @ v.transpose(0, 1, 3, 2)),
                (to_qkv, np.stack([attention @ k / 2, transposed @ q / 2, transposed @ g]).transpose(
                    1, 3, 0, 2, 4).reshape(batch, tokens, -1))):
            np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max(),
                                       err_msg=str((batch, tokens, heads, each)))


@pytest.mark.parametrize('rows', [1, 2, 5, 257])
def test_linear_at_small_sizes(rows):
    """One input, one output, one row: layouts that can be read in two ways."""
    rng = np.random.default_rng(0)
    for inputs, outputs in itertools.product((1, 2, 3, 8, 32), repeat=2):
        shapes = (rows, inputs), (inputs, outputs), (outputs,), (rows, outputs)
        x, weight, bias, grad = (rng.normal(0, 1, shape).astype('float32') for shape in shapes)
        given = [paddle.to_tensor(one) for one in (x, weight, bias, grad)]
        found = (tensor_ops.linear(*given[:3]), *tensor_ops.linear_grad(*given[:2], given[3]))
        for one, other in zip(found, (x @ weight + bias, grad @ weight.T, x.T @ grad, grad.sum(0))):
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-4, err_msg=str((inputs, outputs)))


def test_threads_do_not_disturb_each_other():
    """Kernels keep the addresses of their call."""
    inputs = [paddle.rand([64, 32]) * number for number in range(8)]
    expected = [F.gelu(x).numpy() for x in inputs]

    def work(number):
        return all(np.allclose(tensor_ops.gelu(inputs[number]).numpy(), expected[number], atol=1e-6)
                   for _ in range(200))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_bad_shapes_are_refused():
    with pytest.raises(RuntimeError, match='oneDNN: dnnl_matmul_primitive_desc_create returned status'):
        tensor_ops.linear(paddle.rand([2, 3]), paddle.rand([4, 5]), paddle.rand([5]))


def test_caches_are_bounded_and_destroy_what_they_drop():
    """300 sizes, then 50 threads: as many kernels alive as the caches hold."""
    primitives.clear_caches()
    before = primitives.Kernel.alive
    for rows in range(1, 301):
        x = paddle.full([rows, 8], 0.5)
        np.testing.assert_allclose(tensor_ops.gelu(x).numpy(), 0.34573, atol=1e-5)
        tensor_ops.mul(x, x)
    assert primitives.gelu.cache_info().currsize == primitives.FEW < 300
    assert primitives.Kernel.alive - before == 2 * primitives.FEW + primitives.FEW
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda rows: tensor_ops.gelu(paddle.rand([rows, 8])), range(1, 301)))
    assert primitives.Kernel.alive - before <= 3 * primitives.FEW
    primitives.clear_caches()
    assert primitives.Kernel.alive == before


def differentiated(name):
    """Output of an accelerated operation, summed, and its first input."""
    inputs = tensors(name)
    return CASES[name][0](*inputs).square().sum(), inputs[0]


OPERATIONS = ['linear', 'layer_norm', 'gelu', 'add_to_each', 'mlp, some', 'attention']


@pytest.mark.parametrize('name', OPERATIONS)
def test_a_second_backward_is_an_error_that_says_what_to_do(name):
    """Paddle's own PyLayer ends the process there."""
    y, x = differentiated(name)
    y.backward(retain_graph=True)
    first = x.grad.numpy()
    with pytest.raises(OSError, match='second backward pass through an accelerated layer: call CaiT.acc'):
        y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), first)


@pytest.mark.parametrize('name', OPERATIONS)
def test_a_gradient_of_a_gradient_is_an_error_that_says_what_to_do(name):
    y, x = differentiated(name)
    with pytest.raises(OSError, match='gradient of a gradient through an accelerated layer'):
        paddle.grad(y, x, create_graph=True)
