# SPDX-License-Identifier: Apache-2.0
"""Limits and choices of loading weights, on both sides of each."""
from __future__ import annotations

import json

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.models.vit import DeiT, ViT
from CaiT.weights.cache import fetch
from CaiT.weights.readers import read_checkpoint
from CaiT.weights.translate import load_weights
from CaiT.weights.zoo import find
from tests.weights import checkpoints as c
from tests.weights.test_translate import TINY, assert_holds, fails, reference


@pytest.mark.parametrize('layout', ['pd', 'pt', None])
def test_three_linears_become_one_in_either_layout(tmp_path, layout):
    """The outputs that are joined are the last axis in Paddle's layout, the first in PyTorch's."""
    model = ViT(**TINY)
    arrays = c.transformers(reference(model), 'vit')
    metadata = {'format': layout} if layout else {}
    path = c.write_safetensors(tmp_path / 'model.safetensors', c.paddle_layout(arrays) if layout == 'pd' else arrays,
                               **metadata)
    report = load_weights(model, path)
    assert_holds(model, reference(model))
    assert bool(report.transposed) is (layout != 'pd')


@pytest.mark.parametrize('classes, new_head, accepted', [
    (1000, None, False), (4, None, True), (1000, True, True), (4, False, False)])
def test_a_file_without_a_classifier(tmp_path, classes, new_head, accepted):
    model = DeiT(**{**TINY, 'num_classes': classes})
    arrays = {name: array for name, array in reference(model).items() if not name.startswith('head.')}
    path = c.write_safetensors(tmp_path / 'w.safetensors', arrays, format='pt')
    if accepted:
        assert load_weights(model, path, new_head=new_head).initial == ['head.weight', 'head.bias']
    else:
        assert 'it lacks 2 arrays (head.weight, head.bias)' in fails(model, path, new_head=new_head)


@pytest.mark.parametrize('value, kind', [(np.nan, 'NaN'), (np.inf, 'Inf'), (-np.inf, 'Inf')])
@pytest.mark.parametrize('name', ['cls_token', 'blocks.1.mlp.fc2.bias'])
def test_weights_that_are_not_finite(tmp_path, value, kind, name):
    model = ViT(**TINY)
    arrays = {key: np.array(array) for key, array in reference(model).items()}
    arrays[name].flat[[0, -1]] = value
    path = c.write_safetensors(tmp_path / 'w.safetensors', arrays, format='pt')
    assert f'{name} holds {kind} (2 of {arrays[name].size} numbers are not finite)' in fails(model, path)


@pytest.mark.parametrize('number, name', [(0, 'nearest'), (1, 'lanczos'), (2, 'bilinear'), (3, 'bicubic')])
def test_filters_by_pillows_numbers(tmp_path, number, name):
    model = ViT(**TINY)
    path = c.write_safetensors(tmp_path / 'model.safetensors', c.transformers(reference(model), 'vit'), format='pt')
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(
        {'image_mean': [0.5] * 3, 'image_std': [0.5] * 3, 'size': 224, 'resample': number}))
    assert load_weights(model, path).data['interpolation'] == name


@pytest.mark.parametrize('value, is_offline', [('', False), ('0', False), ('false', False), ('No', False),
                                               ('1', True), ('yes', True), ('on', True)])
def test_what_offline_means(tmp_path, monkeypatch, value, is_offline):
    from CaiT.weights import cache
    monkeypatch.setenv('CAIT_HOME', str(tmp_path))
    monkeypatch.setenv('CAIT_OFFLINE', value)

    def download(*_):
        raise InputError('it would be downloaded')
    monkeypatch.setattr(cache, 'download', download)
    with pytest.raises(InputError, match='forbids to download it' if is_offline else 'it would be downloaded'):
        fetch(find('cait_xxs24_224'), say=str)


@pytest.mark.parametrize('levels, found', [(0, True), (3, True), (4, False)])
def test_dicts_within_dicts(tmp_path, levels, found):
    """Weights are looked for in the outermost dict and three levels below it."""
    model = ViT(**TINY)
    content = c.paddle_layout(reference(model))
    for level in range(levels):
        content = {f'level {level}': content}
    path = c.write_pdparams(tmp_path / 'w.pdparams', content)
    if found:
        assert load_weights(model, path).loaded == len(model.state_dict())
    else:
        fails(model, path)


@pytest.mark.parametrize('length, message', [
    (100_000_000, 'truncated or damaged safetensors file'), (100_000_001, 'match no known weight format')])
def test_headers_of_a_size_that_nobody_writes(tmp_path, length, message):
    path = tmp_path / 'w'
    path.write_bytes(length.to_bytes(8, 'little') + b'{"a": ')
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)
