# SPDX-License-Identifier: Apache-2.0
"""Accelerated models: the plain model's numbers, and everything that a user of a Paddle layer does with one."""
from __future__ import annotations

import copy

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from CaiT import create_model
from CaiT.accelerate import accelerate, layers, primitives, restore
from CaiT.models import cait, vit
from tests.models.small import randomized, small_model

ARCHITECTURES = ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224']


def small(name='cait_xxs24_224', depth=2, **more):
    """A model of few blocks (and CaiT's two of class attention), in training mode."""
    shape = dict(image_size=64, num_classes=9, embed_dim=192, depth=depth)
    model = small_model(name, randomized, **{**shape, **more})
    model.train()
    return model


def images(count=4, channels=3):
    return paddle.to_tensor(np.random.default_rng(2).normal(0, 1, (count, channels, 64, 64)).astype('float32'))


def tokens():
    """Input of a block; it wants a gradient, as inside a model."""
    return paddle.to_tensor(np.random.default_rng(3).normal(0, 1, (2, 16, 192)).astype('float32'), stop_gradient=False)


def logits(model, x):
    found = model(x)
    return list(found) if isinstance(found, tuple) else [found]


def gradients(model, x):
    """Loss, and the gradients of all parameters."""
    model.clear_gradients()
    loss = sum(F.cross_entropy(one, paddle.arange(x.shape[0])) for one in logits(model, x))
    loss.backward()
    return loss.item(), {key: parameter.grad.numpy() for key, parameter in model.named_parameters()
                         if not parameter.stop_gradient}


def assert_close(found, expected):
    largest = max(np.abs(value).max() for value in expected.values())
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        size = np.abs(value).max()
        unseen = size < 1e-6 * largest  # biases that softmax cannot see: rounding alone
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-6 * largest if unseen else 3e-5 * size,
                                   err_msg=key)


@pytest.fixture
def calls(monkeypatch):
    """How often a oneDNN kernel has run: a list that grows."""
    seen, call = [], primitives.Kernel.__call__
    monkeypatch.setattr(primitives.Kernel, '__call__', lambda self, *a: (seen.append(1), call(self, *a))[1])
    return seen


@pytest.mark.parametrize('drop_path_rate', [0.0, 0.4])
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_gradients_of_a_model(name, drop_path_rate, calls):
    """Against the plain model, with the same images dropped; outputs of blocks included, whose gradient a user may
    keep. ``restore`` gives the plain numbers back to the bit."""
    model, outputs = small(name, depth=3, drop_path_rate=drop_path_rate), []
    model.train()
    for block in model.blocks:
        block.register_forward_post_hook(lambda layer, x, y: outputs.append(y) or y.retain_grads())

    def run():
        outputs.clear()
        paddle.seed(5)
        loss, found = gradients(model, images())
        return loss, {**found, **{f'output {index}': output.grad.numpy() for index, output in enumerate(outputs)}}
    plain_loss, plain = run()
    assert not calls
    accelerate(model)
    loss, found = run()
    assert len(calls) > 100
    assert loss == pytest.approx(plain_loss, rel=2e-6)
    assert_close(found, plain)
    restore(model)
    loss, again = run()
    assert loss == plain_loss
    for key, value in plain.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_only_exact_classes_are_exchanged():
    model = small()
    plain = {name: type(layer) for name, layer in model.named_sublayers()}
    assert not {type(layer) for layer in model.sublayers()} & set(layers.FAST.values())

    class MyBlock(cait.Block):
        pass
    model.blocks[1].__class__ = MyBlock
    accelerate(model)
    assert type(model.blocks[0]) is layers.FastCaiTBlock and type(model.blocks[1]) is MyBlock
    assert isinstance(model.blocks[0], cait.Block)
    restore(model)
    model.blocks[1].__class__ = cait.Block
    assert {name: type(layer) for name, layer in model.named_sublayers()} == plain


@pytest.mark.parametrize('base, name', [(cait.TalkingHeadAttention, ARCHITECTURES[0]),
                                        (vit.Attention, ARCHITECTURES[1])])
def test_an_overridden_attend_is_called(base, name):
    class Uniform(base):
        def attend(self, x):
            attn, v = super().attend(x)
            return paddle.ones_like(attn) / attn.shape[-1], v
    model = small(name)
    model.eval()
    block, x = model.blocks[0], tokens()
    before = block(x)
    block.attn.__class__ = Uniform
    plain = block(x)
    assert float((plain - before).abs().max()) > 0.01
    accelerate(model)
    np.testing.assert_allclose(block(x).numpy(), plain.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize('where', ['norm1', 'attn', 'attn.qkv', 'attn.proj_l', 'attn.proj_drop', 'drop_path', 'mlp',
                                   'mlp.act', 'mlp.fc2'])
def test_hooks_are_called(where, monkeypatch):
    model, seen = small(), []
    accelerate(model)
    model.eval()
    layer = dict(model.blocks[1].named_sublayers())[where]
    expected = model.blocks[1](tokens())
    hook = layer.register_forward_post_hook(lambda layer, x, y: seen.append(1))
    np.testing.assert_allclose(model.blocks[1](tokens()).numpy(), expected.numpy(), rtol=0, atol=1e-5)
    assert seen
    hook.remove()
    monkeypatch.setattr(layer, 'forward', lambda *given, forward=layer.forward: 3 * forward(*given))
    assert float((model.blocks[1](tokens()) - expected).abs().max()) > 0.1  # and a replaced forward


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_replaced_layers(name):
    """drop_path by Identity, GELU by ReLU, a Linear without bias, another attention: the plain model's numbers."""
    model = small(name, drop_path_rate=0.3)
    model.train()
    for block in model.blocks:
        block.drop_path = nn.Identity()
    model.blocks[0].mlp.act = nn.ReLU()
    model.blocks[1].mlp.fc2 = nn.Linear(768, 192, bias_attr=False)
    loss, plain = gradients(model, images())
    accelerate(model)
    found_loss, found = gradients(model, images())
    assert found_loss == pytest.approx(loss, rel=2e-6)
    assert_close(found, plain)


def test_tanh_gelu_stays_tanh():
    model = small()
    model.blocks[0].mlp.act = nn.GELU(approximate=True)
    plain = model.blocks[0](tokens()).numpy()
    accelerate(model)
    np.testing.assert_allclose(model.blocks[0](tokens()).numpy(), plain, rtol=0, atol=1e-5)
    assert np.abs(small().blocks[0](tokens()).numpy() - plain).max() > 1e-4


@pytest.mark.parametrize('argument', ['attn_drop_rate', 'drop_rate'])
def test_dropout_works(argument):
    model = small(**{argument: 0.5})
    accelerate(model)
    model.train()
    outputs = [model.blocks[0](tokens()).numpy() for _ in range(2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-2
    model.eval()
    np.testing.assert_array_equal(model.blocks[0](tokens()).numpy(), model.blocks[0](tokens()).numpy())


@pytest.mark.parametrize('norm', [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weight_norm_and_spectral_norm(norm):
    model = small()
    for block in model.blocks:
        norm(block.mlp.fc1)
        norm(block.attn.qkv)
    model.eval()
    plain = model(images()).numpy()
    accelerate(model)
    np.testing.assert_allclose(model(images()).numpy(), plain, rtol=0, atol=2e-5 * np.abs(plain).max())


def test_deep_copies():
    model = small()
    plain, state = model(images()).numpy(), {key: value.numpy() for key, value in model.state_dict().items()}
    accelerate(model)
    twin = copy.deepcopy(model)
    np.testing.assert_allclose(twin(images()).numpy(), plain, rtol=0, atol=1e-5 * np.abs(plain).max())
    assert list(twin.state_dict()) == list(state)
    twin.head.weight.set_value(twin.head.weight * 0)
    np.testing.assert_array_equal(model.head.weight.numpy(), state['head.weight'])


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_one_and_four_channels_train(name, channels):
    model = small(name, in_chans=channels)
    loss, plain = gradients(model, images(channels=channels))
    accelerate(model)
    found_loss, found = gradients(model, images(channels=channels))
    assert found_loss == pytest.approx(loss, rel=2e-6)
    assert_close(found, plain)
    with pytest.raises(ValueError, match='channel'):
        model(images(channels=3))


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_plain_models_are_differentiated_as_any_paddle_model(name):
    """Saliency by paddle.grad, two backward passes, Paddle's own error for a gradient of a gradient."""
    model, x = small(name), images(2).astype('float64')
    model.to(dtype='float64')
    model.eval()
    x.stop_gradient = False
    saliency, = paddle.grad(model(x)[:, 0].sum(), x)
    delta = paddle.to_tensor(np.random.default_rng(0).normal(0, 1e-4, x.shape))
    with paddle.no_grad():
        change = float((model(x + delta)[:, 0] - model(x - delta)[:, 0]).sum()) / 2
    assert float((saliency * delta).sum()) == pytest.approx(change, rel=1e-4)
    y = model(x).sum()
    y.backward(retain_graph=True)
    once = model.head.weight.grad.numpy()
    y.backward()
    np.testing.assert_allclose(model.head.weight.grad.numpy(), 2 * once, rtol=1e-6)
    with pytest.raises(RuntimeError, match="layer_norm_grad doesn't have any grad op"):
        paddle.grad(model(x).square().sum(), x, create_graph=True)


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_the_gradient_below_a_frozen_norm(name):
    """Paddle's own CPU LayerNorm leaves its weight out of it."""
    model = small(name)
    for key, parameter in model.named_parameters():
        parameter.stop_gradient = 'norm' in key
    _, frozen = gradients(model, images())
    for parameter in model.parameters():
        parameter.stop_gradient = False
    _, expected = gradients(model, images())
    assert_close(frozen, {key: value for key, value in expected.items() if 'norm' not in key})
    for parameter in (p for key, p in model.named_parameters() if 'norm' in key):
        parameter.stop_gradient = True
    accelerate(model)
    assert_close(gradients(model, images())[1], frozen)


def test_gradients_of_images_of_an_accelerated_model():
    model, x = small(), images(2)
    x.stop_gradient = False
    model(x).sum().backward()
    plain = x.grad.numpy()
    x.clear_grad()
    accelerate(model)
    model(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_a_frozen_backbone_is_accelerated_too(calls):
    model = small()
    accelerate(model)
    for parameter in model.parameters():
        parameter.stop_gradient = True
    model.head.weight.stop_gradient = model.head.bias.stop_gradient = False
    model.train()
    model(images(2)).sum().backward()
    assert len(calls) > 40 and model.head.weight.grad is not None and model.blocks[0].attn.qkv.weight.grad is None


@pytest.mark.parametrize('pattern', ['.bias', '.attn.', 'norm'])
def test_partly_frozen_blocks(pattern):
    """BitFit and its like: gradients of what is trained, none of the rest, the plain model's numbers."""
    model = small()
    for key, parameter in model.named_parameters():
        parameter.stop_gradient = pattern not in key
    loss, plain = gradients(model, images())
    assert accelerate(model).count('partly frozen: plain') == 1
    found_loss, found = gradients(model, images())
    assert found_loss == pytest.approx(loss, rel=2e-6)
    assert_close(found, plain)


def test_class_attention_without_keys_and_values():
    paddle.seed(0)
    layer, x = cait.ClassAttention(24, 3, True, 0.0, 0.0), paddle.rand([4, 7, 24])
    for parameter in layer.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    x.stop_gradient = False

    def run():
        layer.clear_gradients()
        x.clear_grad()
        out = layer(x)
        (out * paddle.arange(24, dtype='float32')).sum().backward()
        return {'y': out.numpy(), 'x': x.grad.numpy(), **{key: p.grad.numpy() for key, p in layer.named_parameters()}}
    plain, seen = run(), []
    accelerate(layer)
    layer.k.register_forward_post_hook(lambda *given: seen.append(1)).remove()
    found = run()
    for key, value in plain.items():
        largest = max(np.abs(other).max() for other in plain.values())
        np.testing.assert_allclose(found[key], value, rtol=0, atol=max(1e-5 * np.abs(value).max(), 1e-6 * largest))


def test_export_of_an_accelerated_model_has_plain_operations(tmp_path):
    model = create_model('cait_xxs24_224', image_size=32, depth=1, depth_token_only=1, num_classes=3)
    accelerate(model)
    model.eval()
    paddle.jit.save(model, str(tmp_path / 'model'), [paddle.static.InputSpec([None, 3, 32, 32], 'float32')])
    assert 'py_layer' not in (tmp_path / 'model.json').read_text().lower()
    x = paddle.rand([2, 3, 32, 32])
    loaded = paddle.jit.load(str(tmp_path / 'model'))
    np.testing.assert_allclose(loaded(x).numpy(), model(x).numpy(), rtol=0, atol=1e-6)


def test_attention_of_a_batch_that_onednn_misreads():
    """Three times as many images as tokens, all kept or as stochastic depth leaves them."""
    model = small(image_size=32, drop_path_rate=0.2)  # 4 patches
    block = model.blocks[0]
    accelerate(model)
    for count, seed in ((12, 0), *((14, seed) for seed in range(8))):
        x = np.random.default_rng(1).normal(0, 1, (count, 4, 192)).astype('float32')
        x = paddle.to_tensor(x, stop_gradient=False)
        paddle.seed(seed)
        found = block(x).numpy()
        block.__class__ = cait.Block
        paddle.seed(seed)
        expected = block(x).numpy()
        block.__class__ = layers.FastCaiTBlock
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_names_of_parameters_are_paddles_own():
    """Checkpoints of the optimizer are keyed by them."""
    with paddle.utils.unique_name.guard():
        model = create_model('cait_xxs24_224', image_size=32, depth=1, depth_token_only=1)
        accelerate(model)
    assert model.blocks[0].attn.qkv.weight.name == 'linear_1.w_0'
    assert model.norm.weight.name == 'layer_norm_4.w_0'
