# SPDX-License-Identifier: Apache-2.0
"""paddle.hub finds every model in a clone, with and without weights."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from CaiT.errors import InputError
from CaiT.models.registry import create_model, list_models

ROOT = str(Path(__file__).resolve().parents[1])
SMALL = dict(depth=1, depth_token_only=1, num_classes=3, image_size=32)


def load(**options):
    return paddle.hub.load(ROOT, 'cait_xxs24_224', source='local', **SMALL, **options)


def test_every_model_is_an_entry_point():
    assert sorted(paddle.hub.list(ROOT, source='local')) == list_models()
    assert 'pretrained: False for random weights' in paddle.hub.help(ROOT, 'vit_tiny_patch16_224', source='local')


def test_a_model_with_the_weights_of_a_file(tmp_path, capsys):
    model = create_model('cait_xxs24_224', **SMALL)
    path = str(tmp_path / 'weights.pdparams')
    paddle.save(model.state_dict(), path)
    loaded = load(pretrained=path)
    assert type(loaded) is type(model) and loaded.load_report.path == str(path)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name].numpy(), value.numpy(), err_msg=name)
    assert loaded(paddle.zeros([2, 3, 32, 32])).shape == [2, 3]


@pytest.mark.parametrize('pretrained, key', [(True, 'timm.safetensors'), ('mindcv', 'mindcv.ckpt'),
                                             ('zoo:facebookresearch', 'facebookresearch.pth')])
def test_published_weights_are_looked_for_in_the_cache(pretrained, key, tmp_path, monkeypatch):
    monkeypatch.setenv('CAIT_HOME', str(tmp_path))
    monkeypatch.setenv('CAIT_OFFLINE', '1')
    with pytest.raises(InputError, match=f'not in the cache as {tmp_path}/weights/cait_xxs24_224.{key}, and CAIT_'):
        load(pretrained=pretrained)


def test_weights_that_are_not_there():
    with pytest.raises(InputError, match='^nowhere.pth: no such file'):
        load(pretrained='nowhere.pth')
