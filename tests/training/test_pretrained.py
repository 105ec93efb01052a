# SPDX-License-Identifier: Apache-2.0
"""-pretrained in the jobs: what of the weights is said, used, refused, and needed no more."""
from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

from CaiT.config import build_model, get_config
from CaiT.errors import InputError
from CaiT.training import checkpoint, jobs

MINDCV = {'weight': 'gamma', 'bias': 'beta'}
VIT = ('MODEL.NAME', 'vit_base_patch32_224', 'MODEL.MLP_RATIO', '2')


@pytest.fixture
def weights(config, tmp_path):
    """weights(change): a file of a small ViT under MindCV's names, as (path, arrays)."""
    def write(change=dict):
        arrays = checkpoint.weights(build_model(config(model=VIT)))
        names = {name: re.sub(r'(?<=norm)(\d?)\.(weight|bias)$', lambda match: f'{match[1]}.{MINDCV[match[2]]}', name)
                 for name in arrays}
        arrays = change({names[name]: array for name, array in arrays.items()})
        (tmp_path / 'mindcv.pdparams').write_bytes(pickle.dumps(arrays, 4))
        return str(tmp_path / 'mindcv.pdparams')
    return write


def log(folder, job):
    return (folder / f'log_{job}.txt').read_text(encoding='utf-8')


@pytest.mark.parametrize('job', ['eval', 'pred'])
def test_the_data_config_of_the_weights_is_used_and_said(config, weights, tmp_path, job, monkeypatch):
    seen = {}
    loader = 'build_val_loader' if job == 'eval' else 'build_prediction_loader'
    build = getattr(jobs, loader)
    monkeypatch.setattr(jobs, loader, lambda config: seen.update(data=config.DATA) or build(config))
    run = jobs.evaluate if job == 'eval' else jobs.predict
    path = weights()
    run(config(model=VIT, pretrained=path, output_dir=str(tmp_path / 'a')))
    assert (seen['data'].MEAN, seen['data'].CROP_PCT) == ((0.485, 0.456, 0.406), 0.875)
    assert 'data config of the weights (as MindCV evaluates): DATA.CROP_PCT 0.875' in log(tmp_path / 'a', job)
    run(config('DATA.MEAN', '(0.5, 0.5, 0.5)', model=VIT, pretrained=path, output_dir=str(tmp_path / 'b')))
    assert (seen['data'].MEAN, seen['data'].CROP_PCT) == ((0.5, 0.5, 0.5), 0.875)
    assert 'kept as configured, although these weights are for (as MindCV evaluates): DATA.MEAN' in log(
        tmp_path / 'b', job)


@pytest.mark.parametrize('job', ['evaluate', 'predict', 'train'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_finite_end_every_job(config, weights, tmp_path, job, value):
    def spoil(arrays):
        arrays['blocks.1.mlp.fc2.bias'][3] = value
        return arrays
    with pytest.raises(InputError, match='blocks.1.mlp.fc2.bias holds (NaN|Inf) .1 of 32 numbers are not finite'):
        getattr(jobs, job)(config(model=VIT, pretrained=weights(spoil), output_dir=str(tmp_path / 'o')))
    assert not (tmp_path / 'o' / 'predictions.csv').exists() and not list((tmp_path / 'o').glob('*.pdparams'))


def test_random_parameters_are_said_when_they_are_allowed(config, weights, tmp_path):
    def timm(arrays):
        return {name.replace('gamma', 'weight').replace('beta', 'bias'): array for name, array in arrays.items()
                if name != 'norm.gamma'}
    path = weights(timm)
    with pytest.raises(InputError, match='norm.weight'):
        jobs.evaluate(config(model=VIT, pretrained=path, output_dir=str(tmp_path / 'a')))
    jobs.evaluate(config('MODEL.STRICT', 'False', model=VIT, pretrained=path, output_dir=str(tmp_path / 'b')))
    text = log(tmp_path / 'b', 'eval')
    assert 'warning: norm.weight left at random initial values (MODEL.STRICT False)' in text


def test_the_average_is_a_choice(config, tmp_path):
    arrays = checkpoint.weights(build_model(config()))
    average = {name: array * 0 for name, array in arrays.items()}
    path = tmp_path / 'w.pdparams'
    path.write_bytes(pickle.dumps({'model': arrays, 'model_ema': average}, 4))
    plain = build_model(config(pretrained=str(path)))
    ema = build_model(config('MODEL.USE_EMA', 'True', pretrained=str(path)))
    key = build_model(config('MODEL.CHECKPOINT_KEY', 'model_ema', pretrained=str(path)))
    assert np.array_equal(plain.cls_token.numpy(), arrays['cls_token'])
    assert not ema.head.weight.numpy().any() and not key.head.weight.numpy().any()


def test_a_run_goes_on_without_the_file_it_began_with(config, tmp_path):
    model = build_model(config())
    path = tmp_path / 'begin.pdparams'
    checkpoint.write_weights(path, checkpoint.weights(model))
    out = tmp_path / 'run'
    jobs.train(config(pretrained=str(path), output_dir=str(out), epochs=1))
    path.unlink()
    again = get_config(str(out / 'config.yaml'), resume='auto', output_dir=str(out), epochs=2)
    assert jobs.train(again).epoch == 3
    with pytest.raises(InputError, match='begin.pdparams: no such file'):  # a new run does need it
        jobs.train(get_config(str(out / 'config.yaml'), output_dir=str(tmp_path / 'new'), resume=''))
