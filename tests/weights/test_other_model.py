# SPDX-License-Identifier: Apache-2.0
"""Weights of one registered model given to another: the error names those that the file fits and the one asked for."""
from __future__ import annotations

import functools
import re

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.models.registry import create_model, get_variant, list_models
from CaiT.weights.fit import fit
from CaiT.weights.load_report import LoadReport
from CaiT.weights.other_model import difference

STRICT = '(for training and eval, -opts MODEL.STRICT False takes the rest)'


@functools.lru_cache(maxsize=None)
def shapes(name: str) -> dict:
    """Parameter shapes of a registered model: those of one block for all blocks."""
    model = create_model(name, depth=1)
    one = {key: tuple(parameter.shape) for key, parameter in model.state_dict().items()}
    return {key.replace('blocks.0.', f'blocks.{index}.'): shape for key, shape in one.items()
            for index in range(get_variant(name).arch['depth'] if key.startswith('blocks.') else 1)}


def error(file: dict, name: str) -> str:
    arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in file.items()}
    with pytest.raises(InputError) as caught:
        fit(arrays, shapes(name), LoadReport('w.pth', 'PyTorch', 'timm', '[out, in]'), name=name)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize('file, model, said', [
    ('cait_xxs24_224', 'vit_tiny_patch16_224',
     'a CaiT of width 192, depth 24 + 2, patch size 16, image size 224, 1000 classes and fits cait_xxs24_224'),
    ('cait_s36_384', 'deit_small_distilled_patch16_224',
     'a CaiT of width 384, depth 36 + 2, patch size 16, image size 384, 1000 classes and fits cait_s36_384'),
    ('vit_base_patch32_384', 'cait_m36_384',
     'a ViT or DeiT of width 768, depth 12, patch size 32, image size 384, 1000 classes and fits vit_base_patch32_384'),
    ('deit_tiny_distilled_patch16_224', 'cait_xxs36_224', 'a distilled DeiT of width 192, depth 12, patch size 16, '
     'image size 224, 1000 classes and fits deit_tiny_distilled_patch16_224'),
])
def test_another_family(file, model, said):
    text = error(shapes(file), model)
    assert text.startswith(f'w.pth: is not of this model: the file holds {said}, the model is {model} '
                           '(MODEL.NAME, -cfg or model=); it ')
    assert 'STRICT' not in text and 'probably' not in text


@pytest.mark.parametrize('file, model, fits', [
    ('cait_xxs24_224', 'cait_xxs36_224', 'cait_xxs24_224'),
    ('cait_m48_448', 'cait_m36_384', 'cait_m48_448'),
    ('deit_base_distilled_patch16_384', 'deit_base_patch16_384', 'deit_base_distilled_patch16_384'),
    ('deit_small_patch16_224', 'deit_small_distilled_patch16_224', 'deit_small_patch16_224 or vit_small_patch16_224'),
    ('vit_large_patch16_224', 'vit_base_patch16_224', 'vit_large_patch16_224'),
])
def test_another_depth_or_distillation(file, model, fits):
    text = error(shapes(file), model)
    assert f' and fits {fits}, the model is {model} (MODEL.NAME' in text
    assert text.endswith(STRICT) and 'probably' not in text


@pytest.mark.parametrize('file, model, said', [
    ('cait_xxs24_224', 'cait_xs24_224', 'cls_token is [1, 1, 192], the model needs [1, 1, 288] (and 474 more); the '
     'file holds a CaiT of width 192, depth 24 + 2, patch size 16, image size 224, 1000 classes and fits '
     'cait_xxs24_224'),
    ('vit_tiny_patch16_224', 'deit_small_patch16_224', 'cls_token is [1, 1, 192], the model needs [1, 1, 384] (and 150 '
     'more); the file holds a ViT or DeiT of width 192, depth 12, patch size 16, image size 224, 1000 classes and fits '
     'deit_tiny_patch16_224 or vit_tiny_patch16_224'),
    ('vit_base_patch32_224', 'vit_base_patch16_224', 'patch_embed.proj.weight is [768, 3, 32, 32], the model needs '
     '[768, 3, 16, 16]: weights of another patch size cannot be adapted; the file holds a ViT or DeiT of width 768, '
     'depth 12, patch size 32, image size 224, 1000 classes and fits vit_base_patch32_224'),
])
def test_another_size(file, model, said):
    ending = f', the model is {model} (MODEL.NAME, -cfg or model=)'
    assert error(shapes(file), model) == f'w.pth: {said}{ending}'


@pytest.mark.parametrize('name', list_models())
def test_every_registered_model_is_found_by_its_shapes(name):
    other = 'cait_xxs24_224' if not name.startswith('cait_xxs24') else 'vit_tiny_patch16_224'
    fits = re.search(r' and fits (.*), the model is ', difference(shapes(name), shapes(other), other)).group(1)
    assert name in fits.split(' or ')
    assert [shapes(one) for one in fits.split(' or ')] == [shapes(name)] * len(fits.split(' or '))


def test_another_image_size_and_number_of_classes_are_no_other_model():
    file = {**shapes('cait_xxs24_224'), 'pos_embed': (1, 400, 192), 'head.weight': (192, 7), 'head.bias': (7,)}
    assert difference(file, shapes('cait_xxs24_384'), 'cait_xxs24_384') == ''
    assert ('image size 320, 7 classes and fits cait_xxs24_224 or cait_xxs24_384, the model is'
            in error(file, 'vit_tiny_patch16_224'))
    del file['norm.bias']
    assert error(file, 'cait_xxs24_384') == 'w.pth: is not of this model: it lacks 1 arrays (norm.bias) ' + STRICT


@pytest.mark.parametrize('extra, said', [
    ('gamma_1', 'it is probably a DeiT III or another ViT with LayerScale'),
    ('ls1.gamma', 'it is probably a DINOv2 model or a timm ViT with LayerScale')])
@pytest.mark.parametrize('model', ['deit_tiny_patch16_224', 'cait_xxs24_224', 'deit_small_patch16_224'])
def test_a_network_that_is_not_built_here_fits_no_registered_model(model, extra, said):
    file = {**shapes('deit_tiny_patch16_224'), **{f'blocks.{index}.{extra}': (192,) for index in range(12)}}
    text = error(file, model)
    assert text.endswith(said) and 'fits' not in text
