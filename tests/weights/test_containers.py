# SPDX-License-Identifier: Apache-2.0
"""Files that hold more than the weights: the right ones are loaded, the others are named, the user can choose."""
from __future__ import annotations

import argparse
import datetime
import pathlib

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.models.cait import CaiT
from CaiT.models.vit import DeiT, ViT
from CaiT.weights.readers import read_checkpoint
from CaiT.weights.translate import load_weights
from tests.goldens import rule
from tests.weights import checkpoints as c
from tests.weights.test_translate import TINY, assert_holds, fails, reference

OURS = reference(ViT(**TINY))
OTHER = {name: array + 1 for name, array in OURS.items()}
EXTRAS = {'epoch': 3, 'args': argparse.Namespace(lr=0.1), 'when': datetime.datetime(2026, 1, 2),
          'best': np.float32(0.5), 'out': pathlib.Path('/x'),
          'optimizer': {'state': {0: {'exp_avg': np.ones(3)}}, 'param_groups': [{'lr': 1}]}}


def paddle(arrays):
    return c.paddle_layout(arrays)


def prefixed(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


def loaded(path, model=None, **options):
    """(the model, the report) after loading into a ViT."""
    model = model or ViT(**TINY)
    return model, load_weights(model, path, **options)


SHAPES = {  # how the world packs a state dict -> the key at which it is found
    'flat': (lambda a: a, ''),
    'Lightning': (lambda a: {'state_dict': prefixed('model.', a), 'loops': {}}, 'state_dict'),
    'Lightning, compiled': (lambda a: {'state_dict': prefixed('net._orig_mod.', a)}, 'state_dict'),
    'tutorial': (lambda a: {'model_state_dict': a, 'optimizer_state_dict': {}, 'loss': 0.3}, 'model_state_dict'),
    'DeepSpeed': (lambda a: {'module': a, 'optimizer': None, 'ds_version': '0.9'}, 'module'),
    'nested': (lambda a: {'checkpoint': {'model': prefixed('module.', a)}}, 'checkpoint.model'),
    'own key': (lambda a: {'vit_weights': a}, 'vit_weights'), 'backbone': (lambda a: prefixed('backbone.', a), ''),
    'head outside': (lambda a: {name if name.startswith('head.') else f'encoder.vit.{name}': array
                                for name, array in a.items()}, ''),
    'with a loss': (lambda a: {**prefixed('model.', a), 'criterion.weight': np.ones(4)}, ''),
    'averaged model': (lambda a: {**prefixed('module.', a), 'n_averaged': np.array(7)}, ''),
}


@pytest.mark.parametrize('extras', [{}, EXTRAS], ids=['bare', 'extras'])
@pytest.mark.parametrize('shape', SHAPES)
def test_every_shape_gives_the_weights(tmp_path, shape, extras):
    pack, key = SHAPES[shape]
    path = c.write_pdparams(tmp_path / 'w.pdparams', {**pack(paddle(OURS)), **extras})
    model, _ = loaded(path)
    assert_holds(model, OURS)
    assert read_checkpoint(path).key == key


def test_what_is_not_the_model_is_dropped_and_said(tmp_path):
    content = {**prefixed('model.', paddle(OURS)), 'criterion.weight': np.ones(4, 'f'), 'epoch': 5}
    _, report = loaded(c.write_pdparams(tmp_path / 'w.pdparams', content))
    assert report.dropped == ['criterion.weight'] and report.notes == ['beside the arrays, not read: epoch']
    # but with no prefix in front of the model an unknown array is an error, as ever
    path = c.write_pdparams(tmp_path / 'v.pdparams', {**paddle(OURS), 'criterion.weight': np.ones(4, 'f')})
    assert 'it has in excess 1 arrays (criterion.weight)' in fails(ViT(**TINY), path)


AVERAGES = {
    'deit': lambda a, b: {'model': a, 'model_ema': b}, 'timm': lambda a, b: {'state_dict': a, 'state_dict_ema': b},
    'ours': lambda a, b: {'format': 1, 'model': a, 'ema': b, 'optimizer': {}},
    'wrapped': lambda a, b: {'model': prefixed('module.', a), 'ema_model': prefixed('module.', b)},
    'Lightning': lambda a, b: {'state_dict': {**prefixed('model.', a), **prefixed('ema_model.module.', b)}},
    'prefixes': lambda a, b: {**a, **prefixed('ema.', b)},
}


@pytest.mark.parametrize('kind', AVERAGES)
def test_an_average_beside_the_weights_is_said_and_can_be_chosen(tmp_path, kind):
    path = c.write_pdparams(tmp_path / 'w.pdparams', AVERAGES[kind](paddle(OURS), paddle(OTHER)))
    model, report = loaded(path)
    assert_holds(model, OURS)
    assert 'average (EMA, ' in report.notes[0] and '-opts MODEL.USE_EMA True' in report.notes[0]
    model, report = loaded(path, use_ema=True)
    assert_holds(model, OTHER)
    assert report.notes[0].startswith('the average of the weights (EMA, ')


def test_an_average_that_is_not_there(tmp_path):
    path = c.write_pdparams(tmp_path / 'w.pdparams', {'model': paddle(OURS), 'model_ema': None})
    text = fails(ViT(**TINY), path, use_ema=True)
    assert 'MODEL.USE_EMA: the file holds no average of the weights, found model' in text
    path = c.write_pdparams(tmp_path / 'v.pdparams', {'model_ema': paddle(OTHER)})
    model, report = loaded(path)
    assert_holds(model, OTHER)
    assert report.notes == ['the file holds only the average of the weights (EMA, model_ema): it is loaded']


def test_student_and_teacher(tmp_path):
    content = {'student': prefixed('module.backbone.', paddle(OURS)), 'teacher': prefixed('backbone.', paddle(OTHER))}
    path = c.write_pdparams(tmp_path / 'w.pdparams', content)
    model, report = loaded(path)
    assert_holds(model, OTHER)  # what DINO publishes and evaluates
    assert 'MODEL.CHECKPOINT_KEY student' in report.notes[0]
    assert_holds(loaded(path, key='student')[0], OURS)
    assert_holds(loaded(path, use_ema=True)[0], OTHER)
    # distillation from another model: neither is an average of the other
    content['teacher'] = paddle(reference(ViT(**{**TINY, 'embed_dim': 32})))
    path = c.write_pdparams(tmp_path / 'v.pdparams', content)
    assert 'holds several models (student, teacher); choose one: -opts MODEL.CHECKPOINT_KEY' in fails(ViT(**TINY), path)
    assert_holds(loaded(path, key='student')[0], OURS)


def test_the_key_is_one_of_those_in_the_file(tmp_path):
    path = c.write_pdparams(tmp_path / 'w.pdparams', {'model': paddle(OURS), 'swa': paddle(OTHER)})
    model, report = loaded(path)
    assert_holds(model, OURS)
    assert 'several models (model, swa): model is loaded' in report.notes[0]
    assert_holds(loaded(path, key='swa')[0], OTHER)
    assert 'MODEL.CHECKPOINT_KEY ema: found model, swa' in fails(ViT(**TINY), path, key='ema')


@pytest.mark.parametrize('content, reason', [
    ({'linear_0.w_0_moment1_0': np.ones(3), 'LR_Scheduler': {'last_epoch': 1}}, 'the state of an optimizer (.pdopt)'),
    ({'linear_0.w_0_beta1_pow_acc_0': np.ones(1)}, 'the state of an optimizer (.pdopt)'),
    ({'state': {0: {'exp_avg': np.ones(3)}}, 'param_groups': [{'lr': 1}]}, 'the state of an optimizer'),
    ({'last_epoch': 3, 'last_lr': 0.1}, 'the state of a learning-rate schedule'),
    ({'layer1.0.conv1.weight': np.ones((2, 2, 3, 3))}, 'a ResNet'),
    ({'state_dict': {'layers.0.blocks.0.attn.relative_position_bias_table': np.ones((9, 2))}}, 'a Swin Transformer'),
    ({'class_token': np.ones((1, 1, 8)), 'conv_proj.weight': np.ones((8, 3, 2, 2))}, "torchvision's ViT"),
])
def test_what_else_a_file_is(tmp_path, content, reason):
    path = c.write_pdparams(tmp_path / 'w.pdparams', content)
    assert f'it is probably {reason}' in fails(ViT(**TINY), path)


@pytest.mark.parametrize('names, reason', [
    (('blocks.0.ls1.gamma', 'blocks.0.ls2.gamma'), 'DINOv2'), (('fc_norm.weight',), 'averages its patch tokens'),
    (('pre_logits.fc.weight',), 'representation layer'), (('blocks.0.attn.q_norm.weight',), 'normalizes queries')])
def test_relatives_of_vit_are_named(tmp_path, names, reason):
    arrays = {**OURS, **{name: np.ones(48, 'f') for name in names}}
    assert reason in fails(ViT(**TINY), c.write_safetensors(tmp_path / 'w.safetensors', arrays))


@pytest.mark.parametrize('channels', [1, 4])
def test_other_channels_are_not_another_patch_size(tmp_path, channels):
    path = c.write_safetensors(tmp_path / 'w.safetensors', OURS)
    text = fails(ViT(**TINY, in_channels=channels), path)
    assert f'weights for images of 3 channels, a model for {channels} (MODEL.IN_CHANNELS)' in text


# --- without a classifier ---

def headless(arrays):
    return {name: array for name, array in arrays.items() if not name.startswith('head')}


def dino(arrays):
    extra = {'head.mlp.0.weight': np.ones((8, 48), 'f'), 'head.last_layer.weight_g': np.ones((8, 1), 'f')}
    return {**headless(arrays), **extra}


def mae(arrays):
    return {**headless(arrays), 'mask_token': np.ones((1, 1, 8), 'f'), 'decoder_pos_embed': np.ones((1, 5, 8), 'f'),
            'decoder_blocks.0.norm1.weight': np.ones(8, 'f')}


def transformers(arrays):
    found = c.transformers(headless(arrays), 'vit')
    return {**c.renamed(found, (r'^vit\.', '')), 'pooler.dense.weight': np.ones((48, 48), 'f')}


@pytest.mark.parametrize('change', [headless, dino, mae, transformers])
def test_a_file_without_a_classifier_is_for_fine_tuning(tmp_path, change):
    path = c.write_safetensors(tmp_path / 'model.safetensors', change(OURS), format='pt')
    model, report = loaded(path)
    assert_holds(model, OURS, but=('head.weight', 'head.bias'))
    assert report.initial == ['head.weight', 'head.bias']
    assert 'the file has no classifier: the one for 4 classes is new' in report.notes
    assert len(report.dropped) == {headless: 0, dino: 2, mae: 3, transformers: 1}[change]
    assert 'does not hold head.weight for 4 classes' in fails(ViT(**TINY), path, require_all=True)
    large = ViT(**{**TINY, 'num_classes': 1000})  # nobody said that it is for fine-tuning
    text = fails(large, path)
    assert 'lacks 2 arrays (head.weight, head.bias)' in text and '-num_classes' in text
    assert load_weights(large, path, new_head=True).initial == ['head.weight', 'head.bias']


# --- layout follows the file's format ---

@pytest.mark.parametrize('model', [CaiT, DeiT])
def test_backbone_prefix_in_either_layout(tmp_path, model):
    arrays = reference(model(**TINY))
    change = c.renamed(arrays, (r'^(?!head\.)', 'backbone.'))
    for path in (c.write_safetensors(tmp_path / 'pt.safetensors', change, format='pt'),
                 c.write_safetensors(tmp_path / 'none.safetensors', change),
                 c.write_safetensors(tmp_path / 'pd.safetensors', c.paddle_layout(change), format='pd'),
                 c.write_pdparams(tmp_path / 'w.pdparams', c.paddle_layout(change)),
                 c.write_pdparams(tmp_path / 'passl.pdparams', c.passl(arrays)),
                 c.write_safetensors(tmp_path / 'passl.safetensors', c.passl(c.paddle_layout(arrays)), format='pt')):
        target = model(**TINY)
        load_weights(target, path)
        assert_holds(target, arrays)


# --- numbers ---

@pytest.mark.parametrize('value, said', [(np.nan, 'NaN'), (np.inf, 'Inf'), (-np.inf, 'Inf'), (1e300, 'Inf')])
@pytest.mark.parametrize('name', ['blocks.1.mlp.fc1.weight', 'cls_token', 'head.bias'])
def test_numbers_that_are_not_finite(tmp_path, name, value, said):
    arrays = {**rule.tiny(), name if 'fc1' not in name else 'blocks.1.mlp.fc1.weight': rule.tiny()[name].astype('f8')}
    arrays[name].flat[1] = value
    arrays['norm.bias'] = rule.tiny()['norm.bias'] * np.float32(np.inf if said == 'NaN' else 1)
    for write, path in ((c.write_safetensors, 'w.safetensors'), (c.write_ckpt, 'w.ckpt'), (c.write_npz, 'w.npz')):
        text = fails(CaiT(**TINY), write(tmp_path / path, arrays))
        assert 'are not finite' in text and (name in text or 'norm.bias' in text)
        assert said in text or 'norm.bias' in text


def test_an_array_that_the_model_does_not_take_may_hold_anything(tmp_path):
    arrays = {**OURS, 'head.weight': np.full((9, 48), np.nan, 'f'), 'head.bias': np.zeros(9, 'f')}
    loaded(c.write_safetensors(tmp_path / 'w.safetensors', arrays))


def test_half_floats_are_said_in_every_format(tmp_path):
    bits = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in paddle(OURS).items()}
    _, report = loaded(c.write_pdparams(tmp_path / 'w.pdparams', bits))
    assert len(report.converted) == len(OURS) and report.converted[0][1] == 'bfloat16 to float32'


def test_errors_stay_one_line_with_hostile_names(tmp_path):
    path = c.write_pdparams(tmp_path / 'w.pdparams', {'a\nb\x1b[2J' + 'x' * 10 ** 5: np.ones(2)})
    with pytest.raises(InputError) as caught:
        load_weights(ViT(**TINY), path)
    assert '\n' not in str(caught.value) and '\x1b' not in str(caught.value) and len(str(caught.value)) < 600
