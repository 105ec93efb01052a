# SPDX-License-Identifier: Apache-2.0
"""-amp on a CPU: what the log says, what is refused, and that jobs run in bfloat16 and resume to the bit."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from CaiT.accelerate import mixed_precision, primitives
from CaiT.accelerate.onednn import BFLOAT16, FLOAT32
from CaiT.config import build_model
from CaiT.errors import InputError
from CaiT.training import checkpoint, jobs
from CaiT.training.acceleration import accelerate_for
from CaiT.training.amp import Amp

needs_bfloat16 = pytest.mark.skipif(not mixed_precision.instructions(), reason='no instructions for bfloat16')
LARGE = ['DATA.IMAGE_SIZE', 64, 'TRAIN.EMA_DECAY', 0.9, 'MODEL.DROP_PATH_RATE', 0.1]  # 64 patches an image
VIT = ('MODEL.NAME', 'vit')


def log(folder, job):
    return (folder / f'log_{job}.txt').read_text()


@pytest.mark.parametrize('job', [jobs.train, jobs.evaluate, jobs.predict])
def test_float16_is_refused(config, tmp_path, job, trained_once):
    more = {} if job is jobs.train else {'pretrained': str(trained_once / 'best')}
    with pytest.raises(InputError, match='^-amp: found TRAIN.AMP.DTYPE float16 on a CPU, expected auto or bfloat16$'):
        job(config('TRAIN.AMP.DTYPE', 'float16', amp=True, output_dir=str(tmp_path / 'out'), **more))


@pytest.mark.parametrize('opts, reason', [
    (['TRAIN.ACCELERATE', False], 'because acceleration is off'),
    (['TRAIN.TO_STATIC', True], 'because acceleration is off'),
    (['MODEL.ATTN_DROP_RATE', 0.1], 'no accelerated block whose parameters are all trained or all frozen')])
def test_why_nothing_runs_in_bfloat16(config, opts, reason):
    if mixed_precision.problem() and 'DROP' in opts[0]:
        reason = mixed_precision.problem()
    config = config(*opts, amp=True)
    model = build_model(config)
    model.train()
    lines = accelerate_for(config, model).splitlines()
    assert lines[1:] == [f'mixed precision: none, float32, {reason}']


def test_without_the_flag_nothing_is_said(config):
    config = config('TRAIN.AMP.DTYPE', 'bfloat16')
    assert 'mixed precision' not in accelerate_for(config, build_model(config))


def test_auto_is_float16_on_a_gpu(config, monkeypatch):
    assert Amp(config(amp=True)).dtype == 'bfloat16'
    monkeypatch.setattr(paddle, 'get_device', lambda: 'gpu:0')
    monkeypatch.setattr(paddle.device.cuda, 'get_device_capability', lambda: (7, 0))
    assert Amp(config(amp=True)).note == 'mixed precision O1 float16'


@needs_bfloat16
@pytest.mark.parametrize('model, opts', [(None, ['TRAIN.ACCUM_ITER', 2]), (None, ['TRAIN.RECOMPUTE', True]),
                                         (VIT, ['TRAIN.FREEZE', "['blocks.0.*', 'patch_embed.*', '*_token', 'pos*']"])])
def test_resumed_run_ends_with_the_same_bits(config, tmp_path, model, opts):
    more = {'batch_size': 8, **({'model': model} if model else {})}
    for name, epochs in (('whole', [2]), ('parts', [1, 2])):
        for count in epochs:
            jobs.train(config(*LARGE, *opts, amp=True, epochs=count, output_dir=str(tmp_path / name), resume='auto',
                              **more))
    whole, parts = (checkpoint.read(tmp_path / name / 'last.pdstate') for name in ('whole', 'parts'))
    for kind in ('model', 'ema'):
        for key, value in whole[kind].items():
            np.testing.assert_array_equal(parts[kind][key], value, err_msg=key)
    assert 'mixed precision: bfloat16 in 2 blocks (' in log(tmp_path / 'whole', 'train')


@needs_bfloat16
@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('job, name', [(jobs.evaluate, 'eval'), (jobs.predict, 'pred')])
def test_evaluation_and_prediction(config, tmp_path, monkeypatch, trained_once, job, name, amp):
    dtypes, gelu = [], primitives.gelu
    monkeypatch.setattr(primitives, 'gelu', lambda size, dtype=FLOAT32: dtypes.append(dtype) or gelu(size, dtype))
    job(config('DATA.IMAGE_SIZE', 64, pretrained=str(trained_once / 'best'), amp=amp, output_dir=str(tmp_path)))
    assert (BFLOAT16 in dtypes) is amp  # of batches of 5 images of 64 patches
    assert ('mixed precision: bfloat16 in 2 blocks (' in log(tmp_path, name)) is amp
