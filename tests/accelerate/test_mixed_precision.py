# SPDX-License-Identifier: Apache-2.0
"""Mixed precision on a CPU: bfloat16's numbers close to float32's, only inside ``autocast()`` and where it is said."""
from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from CaiT import get_variant, runtime
from CaiT.accelerate import (
    accelerate,
    autocast,
    functions,
    mixed_precision,
    mixed_precision_line,
    onednn,
    primitives,
    selfcheck,
    tensor_ops,
)
from CaiT.accelerate.onednn import BFLOAT16, FLOAT32
from tests.models.small import randomized, small_model

needs_bfloat16 = pytest.mark.skipif(not mixed_precision.instructions(), reason='no instructions for bfloat16')
ARCHITECTURES = ['cait_xxs24_224', 'vit_base_patch16_224', 'deit_tiny_distilled_patch16_224']


def model(name='cait_xxs24_224', **more):
    """On 16 images of 64 pixels: 256 patch tokens, the fewest that run in bfloat16."""
    width = 16 * get_variant(name).arch['num_heads']
    found = small_model(name, randomized, **{**dict(image_size=64, embed_dim=width, num_classes=9, depth=2), **more})
    found.train()
    return found


def images(count=16):
    return paddle.to_tensor(np.random.default_rng(2).normal(0, 1, (count, 3, 64, 64)).astype('float32'))


def gradients(net, bfloat16):
    """Loss, and the gradients of all trained parameters."""
    net.clear_gradients()
    paddle.seed(5)
    with autocast() if bfloat16 else contextlib.nullcontext():
        found = net(images())
        found = found if isinstance(found, tuple) else (found,)
        loss = sum(F.cross_entropy(one, paddle.arange(16) % 9) for one in found)
        loss.backward()
    return loss.item(), {key: p.grad.numpy() for key, p in net.named_parameters() if p.grad is not None}


@pytest.fixture
def dtypes(monkeypatch):
    """The data types of the GELUs that ran: a list that grows."""
    seen, gelu = [], primitives.gelu
    monkeypatch.setattr(primitives, 'gelu', lambda size, dtype=FLOAT32: seen.append(dtype) or gelu(size, dtype))
    return seen


def distances(found, expected):
    """Relative L2 distances: over all gradients, and of the worst parameter that softmax sees."""
    assert found.keys() == expected.keys()
    squares = {key: float(((found[key] - value) ** 2).sum()) for key, value in expected.items()}
    sizes = {key: float((value ** 2).sum()) for key, value in expected.items()}
    largest = max(sizes.values())
    return ((sum(squares.values()) / sum(sizes.values())) ** 0.5,
            max((squares[key] / size) ** 0.5 for key, size in sizes.items() if size > 1e-9 * largest))


@needs_bfloat16
@pytest.mark.parametrize('more', [{}, {'drop_path_rate': 0.1}])
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_gradients_of_a_model(name, more, dtypes):
    net = model(name, **more)
    accelerate(net)
    loss, expected = gradients(net, bfloat16=False)
    assert set(dtypes) == {FLOAT32}
    found_loss, found = gradients(net, bfloat16=True)
    assert BFLOAT16 in dtypes
    assert abs(found_loss - loss) < 2e-3 * loss
    overall, worst = distances(found, expected)
    assert 1e-5 < overall < 2e-2 and worst < 5e-2, (overall, worst)
    assert {value.dtype for value in found.values()} == {np.dtype('float32')}


@needs_bfloat16
def test_the_same_numbers_twice_and_with_recomputation():
    """A resumed run repeats steps to the bit; gradient checkpointing runs the blocks again."""
    net = model(drop_path_rate=0.2)
    accelerate(net)
    loss, expected = gradients(net, bfloat16=True)
    for recompute in (False, True):
        net.set_grad_checkpointing(recompute)
        again, found = gradients(net, bfloat16=True)
        assert again == loss
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)


@needs_bfloat16
def test_twenty_updates_follow_float32():
    """The loss of AdamW's updates, within what rounding explains."""
    def losses(bfloat16):
        net = model(depth=1)
        accelerate(net)
        optimizer = paddle.optimizer.AdamW(1e-3, parameters=net.parameters())
        found = []
        for _ in range(20):
            found.append(gradients(net, bfloat16)[0])
            optimizer.step()
        return np.array(found)
    plain, mixed = losses(False), losses(True)
    assert plain[-1] < 0.5 * plain[0]
    np.testing.assert_allclose(mixed, plain, rtol=0, atol=0.02 * plain[0])


@needs_bfloat16
def test_only_inside_autocast_of_this_thread(dtypes):
    net = model()
    accelerate(net)
    net(images())
    with autocast():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(net, images()).result()
        assert set(dtypes) == {FLOAT32}
        net(images())
        assert BFLOAT16 in dtypes
        dtypes.clear()
        net(images(15))  # 240 tokens
    net(images())
    assert set(dtypes) == {FLOAT32}


@needs_bfloat16
def test_class_attention_stays_in_float32(dtypes):
    """Its MLP at a batch of 256, as many rows as patches need."""
    net = model(image_size=32, depth=1, embed_dim=16)
    accelerate(net)
    with autocast(), paddle.no_grad():
        net(paddle.rand([256, 3, 32, 32]))
    assert dtypes == [BFLOAT16, FLOAT32, FLOAT32]


@needs_bfloat16
@pytest.mark.parametrize('change', ['dropout', 'frozen', 'hook'])
def test_the_line_counts_the_blocks_that_run_in_bfloat16(change):
    net = model()
    accelerate(net)
    end = f'blocks ({mixed_precision.instructions()}); weights, gradients of weights and all else in float32'
    assert mixed_precision_line(net) == f'mixed precision: bfloat16 in 2 {end}'
    block = net.blocks[0]
    if change == 'dropout':
        block.attn.attn_drop.p = 0.1
    elif change == 'frozen':
        block.mlp.fc1.weight.stop_gradient = True
    else:
        block.attn.proj.register_forward_post_hook(lambda layer, inputs, output: None)
    assert mixed_precision_line(net) == f'mixed precision: bfloat16 in 1 {end}'
    net.blocks[1].mlp.fc1.weight.stop_gradient = net.blocks[0].mlp.fc1.weight.stop_gradient = True
    assert mixed_precision_line(net).startswith('mixed precision: none, float32, no accelerated block whose')


@pytest.fixture
def fresh():
    mixed_precision.problem.cache_clear()
    yield
    mixed_precision.problem.cache_clear()


@pytest.mark.parametrize('flags, isa', [({'avx2', 'avx512f'}, 0xfef), ({'avx512_bf16'}, 0x27)])
def test_a_processor_without_the_instructions(flags, isa, fresh, monkeypatch, dtypes):
    """By what Linux says, or because ONEDNN_MAX_CPU_ISA forbids oneDNN to use them."""
    class Library:
        dnnl_get_effective_cpu_isa = staticmethod(lambda: isa)
    net = model()
    accelerate(net)
    monkeypatch.setattr(runtime, 'cpu_flags', lambda: flags)
    with monkeypatch.context() as patch:
        patch.setattr(onednn, 'library', Library)
        assert mixed_precision_line(net) == (
            'mixed precision: none, float32, this processor has neither avx512_bf16 nor amx_bf16, or '
            'ONEDNN_MAX_CPU_ISA forbids them')
    with autocast():
        net(images())
    assert set(dtypes) == {FLOAT32}


@needs_bfloat16
@pytest.mark.parametrize('name, expected', [('gelu_grad_', 'MLP'), ('mix_heads', 'talking-heads attention'),
                                            ('scores_grad', 'talking-heads attention')])
def test_a_wrong_kernel_keeps_bfloat16_off(name, expected, fresh, monkeypatch):
    right = getattr(tensor_ops, name)

    def wrong(*arguments):
        found = right(*arguments)
        changed = found if found is not None else arguments[-1]
        changed.set_value((changed.astype('float32') * 1.2).astype(changed.dtype))
        return found
    monkeypatch.setattr(tensor_ops, name, wrong)
    assert mixed_precision.problem().startswith(f"{expected} differs from Paddle's by ")


@needs_bfloat16
def test_right_kernels_agree():
    assert selfcheck.disagreement(BFLOAT16) == ''


def sizes():
    """Random ones, and each batch that is a small multiple of its tokens: steps in memory that coincide."""
    rng = np.random.default_rng(0)
    yield from ((int(rng.integers(1, 20)), int(rng.integers(1, 50)), int(rng.integers(1, 9)), int(rng.integers(1, 65)))
                for _ in range(30))
    yield from ((batch, tokens, 4, 8) for tokens in range(1, 9) for batch in (tokens, 2 * tokens, 3 * tokens))


@needs_bfloat16
def test_attention_at_many_sizes():
    """Products with strides, against NumPy's on the rounded numbers, forward and backward."""
    rng = np.random.default_rng(1)

    def rounded(*shape):
        x = tensor_ops.convert(paddle.to_tensor(rng.normal(0, 1, shape).astype('float32')), BFLOAT16)
        return x, tensor_ops.convert(x, FLOAT32).numpy()
    for batch, tokens, heads, each in sizes():
        if not functions.is_supported_attention(batch, tokens):
            continue
        given, qkv = rounded(batch, tokens, 3 * heads * each)
        q, k, v = qkv.reshape(batch, tokens, 3, heads, each).transpose(2, 0, 3, 1, 4)
        weights, attention = rounded(batch, heads, tokens, tokens)
        grad, g = rounded(batch, tokens, heads * each)
        g = g.reshape(batch, tokens, heads, each).transpose(0, 2, 1, 3)
        mixer = rng.normal(0, 1, (heads, heads)).astype('float32')
        to_qkv = paddle.zeros_like(given)
        to_attention = tensor_ops.apply_attn_grad(weights, given, grad, to_qkv)
        tensor_ops.scores_grad(given, weights, 0.5, to_qkv)
        to_x, to_mixer = tensor_ops.mix_heads_grad(weights, paddle.to_tensor(mixer), weights)
        transposed = attention.transpose(0, 1, 3, 2)
        for name, found, expected in (
                ('scores', tensor_ops.scores(given, heads, 0.5), q @ k.transpose(0, 1, 3, 2) / 2),
                ('attn_out', tensor_ops.apply_attn(weights, given),
                 (attention @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)),
                ('attn grad', to_attention, g @ v.transpose(0, 1, 3, 2)),
                ('qkv grad', to_qkv, np.stack([attention @ k / 2, transposed @ q / 2, transposed @ g]).transpose(
                    1, 3, 0, 2, 4).reshape(batch, tokens, -1)),
                ('mixed', tensor_ops.mix_heads(weights, paddle.to_tensor(mixer)),
                 np.einsum('bhnm,ho->bonm', attention, mixer)),
                ('mixed grad', to_x, np.einsum('bonm,ho->bhnm', attention, mixer)),
                ('mixer grad', to_mixer, np.einsum('bhnm,bonm->ho', attention, attention))):
            np.testing.assert_allclose(found.astype('float32').numpy(), expected, rtol=0,
                                       atol=1e-2 * np.abs(expected).max(),
                                       err_msg=f'{name}, {(batch, tokens, heads, each)}')


@needs_bfloat16
def test_a_second_backward_is_an_error_that_says_what_to_do():
    net = model()
    accelerate(net)
    with autocast():
        y = net(images()).sum()
    y.backward(retain_graph=True)
    with pytest.raises(OSError, match='second backward pass through an accelerated layer: call CaiT.acc'):
        y.backward()


@needs_bfloat16
def test_caches_stay_bounded():
    primitives.clear_caches()
    before = primitives.Kernel.alive
    net = model(depth=1, embed_dim=16, image_size=128)
    accelerate(net)
    for count in range(4, 25):
        with autocast(), paddle.no_grad():
            net(paddle.rand([count, 3, 128, 128]))
    for cache in primitives.CACHES:
        assert cache.cache_info().currsize <= cache.cache_info().maxsize
    assert primitives.gelu.cache_info().currsize > 20
    primitives.clear_caches()
    assert primitives.Kernel.alive == before
