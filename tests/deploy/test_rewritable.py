# SPDX-License-Identifier: Apache-2.0
"""Which models are rewritten, and that every other one is exported as it is and answers the same."""
from __future__ import annotations

import types

import numpy as np
import paddle
import pytest
from paddle import nn
from small_models import need, randomized, small, small_data

from CaiT.accelerate import accelerate
from CaiT.deploy import simplify as s
from CaiT.deploy.engines import Options
from CaiT.deploy.engines.paddle_ops import InferenceLayer
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.deploy.rewritable import obstacle
from CaiT.errors import InputError
from CaiT.models import cait, vit

SHAPE = dict(image_size=32, num_classes=10, patch_size=8, embed_dim=48, depth=2, num_heads=4)
WEIGHTS = {'file': 'w.pdparams', 'sha256': '0' * 64}


class MeanHead(vit.ViT):
    def forward_head(self, x, pre_logits=False):
        return self.head(x.mean(1))


class WeakBlocks(cait.CaiT):
    def run_block(self, block, *inputs):
        return 0.9 * block(*inputs)


class OtherTokens(vit.ViT):
    def embed(self, x):
        return super().embed(x) * 0.5


class Register(vit.ViT):
    tokens = ('cls_token', 'register', 'pos_embed')


class Named(vit.ViT):
    """Overrides a method, but says itself what its network is."""
    def forward_head(self, x, pre_logits=False):
        return self.head(x[:, 0])

    def to_network(self):
        return super().to_network()


def half(self, x):
    return 0.5 * x


def edit(make, change):
    def edited():
        model = randomized(make(**SHAPE))
        change(model)
        return model.eval() or model
    return edited


def replace(path, make):
    def change(model):
        *folders, name = path.split('.')
        layer = model
        for folder in folders:
            layer = getattr(layer, folder)
        setattr(layer, name, make())
    return change


PLAIN = {
    'forward_head': (lambda: randomized(MeanHead(**SHAPE)), 'MeanHead overrides forward_head without to_network'),
    'run_block': (lambda: randomized(WeakBlocks(**SHAPE)), 'WeakBlocks overrides run_block without to_network'),
    'embed': (lambda: randomized(OtherTokens(**SHAPE)), 'OtherTokens overrides embed without to_network'),
    'register': (lambda: randomized(Register(**SHAPE)), 'Register has 2 tokens before the patches without to_network'),
    'hook': (edit(vit.ViT, lambda m: m.blocks[1].register_forward_post_hook(lambda layer, x, y: 0.5 * y)),
             'blocks.1 has a hook'),
    'pre hook': (edit(cait.CaiT, lambda m: m.register_forward_pre_hook(lambda layer, x: (0.5 * x[0],))),
                 'the model has a hook'),
    'weight norm': (edit(cait.CaiT, lambda m: nn.utils.weight_norm(m.blocks[0].mlp.fc1)),
                    'blocks.0.mlp.fc1 has a hook'),
    'activation': (edit(vit.ViT, replace('blocks.1.mlp.act', nn.ReLU)), 'blocks.1.mlp.act is a ReLU'),
    'approximate': (edit(vit.ViT, replace('blocks.0.mlp.act', lambda: nn.GELU(approximate=True))),
                    'blocks.0.mlp.act is approximate'),
    'no norm': (edit(cait.CaiT, replace('blocks.0.norm2', nn.Identity)), 'blocks.0.norm2 is a Identity'),
    'epsilon': (edit(vit.DistilledDeiT, replace('norm', lambda: nn.LayerNorm(48, epsilon=1e-4))),
                'norm has epsilon 0.0001 or no affine part'),
    'head': (edit(vit.DistilledDeiT, replace('head', lambda: nn.Linear(48, 10, bias_attr=False))), 'head has no bias'),
    'scale': (edit(vit.ViT, lambda m: setattr(m.blocks[0].attn, 'scale', 0.7)),
              'blocks.0.attn has another number of heads or scale'),
    'method': (edit(vit.ViT, lambda m: setattr(m.blocks[0].mlp, 'forward', types.MethodType(half, m.blocks[0].mlp))),
               'blocks.0.mlp has a forward of its own'),
    'parameter': (edit(vit.ViT, lambda m: m.add_parameter('tau', m.create_parameter([1]))), 'tau is not known'),
}


@pytest.mark.parametrize('case', PLAIN)
def test_what_is_not_known_is_not_rewritten(case):
    make, why = PLAIN[case]
    assert obstacle(make()) == why


@pytest.mark.parametrize('case, kind', [
    ('forward_head', 'float'), ('embed', 'uint8'), ('hook', 'uint8'), ('weight norm', 'float'), ('activation', 'float'),
    ('no norm', 'uint8')])
def test_what_is_not_known_is_exported_as_it_is(case, kind, checks, tmp_path):
    make, why = PLAIN[case]
    model = make()
    made = export(model, tmp_path, 'x', small_data(), checks, WEIGHTS, [('paddle', 'fp32', kind)])
    assert made.artifacts[0].parity['graph'] == f'plain ({why})'
    expected = model(paddle.to_tensor(checks.array('float'))).numpy()
    found = Predictor(str(tmp_path), 'paddle', Options(input=kind)).logits(checks.array(kind))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('backend, precision', [('onnxruntime', 'fp32'), ('openvino', 'fp32'), ('paddle', 'bf16')])
def test_a_plain_graph_is_for_paddle_in_fp32(backend, precision, checks, tmp_path):
    need(backend)
    with pytest.raises(InputError, match=f'--backend {backend} --precision {precision}: x is exported as its plain '
                                         r'Paddle graph \(MeanHead overrides forward_head .*\), expected --backend '
                                         'paddle --precision fp32'):
        export(randomized(MeanHead(**SHAPE)), tmp_path / 'm', 'x', small_data(), checks, WEIGHTS,
               [(backend, precision, 'float')])
    assert not (tmp_path / 'm').exists()
    with pytest.raises(InputError, match='MeanHead: its graph cannot be rewritten'):
        s.from_model(randomized(MeanHead(**SHAPE)))


REWRITTEN = {
    'as it is': lambda: small('vit'),
    'DeiT': lambda: randomized(vit.DeiT(**SHAPE)),
    'two heads': lambda: small('distilled'),
    'says so': lambda: randomized(Named(**SHAPE)),
    'subclass that changes nothing': lambda: randomized(type('Mine', (cait.CaiT,), {})(**SHAPE)),
    'no drop path': edit(cait.CaiT, replace('blocks.0.drop_path', nn.Identity)),
    'accelerated': edit(vit.ViT, accelerate),
    'own norm': edit(vit.ViT, replace('norm', lambda: nn.LayerNorm(48, epsilon=1e-6))),
}


@pytest.mark.parametrize('case', REWRITTEN)
def test_what_is_known_is_rewritten(case):
    assert obstacle(REWRITTEN[case]()) == ''


@pytest.mark.parametrize('family', [cait.CaiT, vit.ViT, vit.DistilledDeiT])
@pytest.mark.parametrize('attention, separate', [('matmul', True), ('folded', True), ('leading', False)])
def test_attention_without_bias(family, attention, separate, checks):
    model = randomized(family(qkv_bias=False, **SHAPE))
    net = s.simplify(s.from_model(model), attention, separate)
    with paddle.no_grad():
        images = paddle.to_tensor(checks.array('float'))
        expected, found = model(images).numpy(), InferenceLayer(net)(images).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
