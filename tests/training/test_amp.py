# SPDX-License-Identifier: Apache-2.0
"""Mixed precision on a simulated GPU: the code of a real one, on a CPU. No GPU was ever at hand."""
from __future__ import annotations

import itertools
import json
import re

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.amp.auto_cast import _set_multi_precision, amp_initialize

from CaiT import create_model
from CaiT.errors import InputError, NonFiniteError
from CaiT.tools.simulated_gpu import simulated_gpu
from CaiT.training import amp as amp_module
from CaiT.training import checkpoint, distributed, jobs
from CaiT.training.amp import Amp, LossScale, float32_weights
from CaiT.training.logger import RunLogger
from CaiT.training.optim import build_optimizer, optimizer_arrays, restore_optimizer
from CaiT.training.trainer import Trainer

HALF = {'float16': paddle.float16, 'bfloat16': paddle.bfloat16}
FLOAT32_NAMES = ('gamma', 'norm', 'cls_token', 'pos_embed')
MODES = list(itertools.product(('O1', 'O2'), ('float16', 'bfloat16')))


@pytest.fixture
def gpu():
    with simulated_gpu():
        yield


@pytest.fixture
def amp_config(config):
    def make(level, dtype, *opts, **flags):
        return config('TRAIN.AMP.LEVEL', level, 'TRAIN.AMP.DTYPE', dtype, 'DEVICE', 'gpu', *opts,
                      **{'amp': True, 'epochs': 1, **flags})
    return make


def records(folder):
    lines = (folder / 'log.jsonl').read_text().splitlines()
    return [json.loads(line, parse_constant=lambda word: pytest.fail(f'{word} is not JSON')) for line in lines]


def trainer(config, folder):
    return Trainer(config, folder, RunLogger(folder, 'log_train.txt'))


def half_pair(chosen, dtype='float16'):
    """A model and an optimizer as Paddle's own decorate leaves them on a GPU, with state."""
    model = create_model('cait', embed_dim=16, depth=1, num_heads=2, image_size=32, num_classes=3)
    amp_initialize([model], dtype, [nn.LayerNorm])
    optimizer, _ = build_optimizer(model, chosen)
    _set_multi_precision(optimizer, True)
    return model, optimizer


def create_state(model, optimizer):
    block = paddle.base.framework.default_main_program().global_block()
    optimizer._create_accumulators(block, list(model.parameters()))


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('name, slot', [('AdamW', 'moment1_0'), ('Momentum', 'velocity_0'), ('LAMB', 'moment2_0')])
def test_state_of_an_o2_optimizer_is_restored(config, dtype, name, slot):
    """Paddle names accumulators after the master weight; another process has other names."""
    chosen = config('TRAIN.OPTIMIZER.NAME', name)
    model, optimizer = half_pair(chosen, dtype)
    create_state(model, optimizer)
    for number, value in enumerate(optimizer.state_dict()['master_weights'].values()):
        value.set_value(np.full(value.shape, 1 + number / 1024, 'float32'))
    arrays = optimizer_arrays(optimizer, model)
    assert f'head.weight/{slot}' in arrays and 'head.weight/master_weight' in arrays
    assert f'norm.weight/{slot}' in arrays and 'norm.weight/master_weight' not in arrays
    arrays[f'head.weight/{slot}'] = np.full([16, 3], 0.125, 'float32')
    other, other_optimizer = half_pair(chosen, dtype)
    restore_optimizer(other_optimizer, other, arrays)
    create_state(other, other_optimizer)
    found = optimizer_arrays(other_optimizer, other)
    assert found.keys() == arrays.keys()
    for key in arrays:
        assert np.array_equal(found[key], arrays[key]), key


@pytest.mark.parametrize('level, dtype', MODES)
def test_train_validate_save_resume(amp_config, tmp_path, gpu, level, dtype):
    """All of it at once, and the resumed run ends with the same bits."""
    opts = ['TRAIN.EMA_DECAY', 0.5, 'TRAIN.ACCUM_ITER', 2, 'TRAIN.GRAD_CLIP', 1.0, 'MODEL.INIT_VALUES', 1e-6,
            'MODEL.DROP_PATH_RATE', 0.1]
    jobs.train(amp_config(level, dtype, *opts, epochs=2, output_dir=str(tmp_path / 'whole')))
    folder, stop = tmp_path / 'parts', KeyError('stop')
    half = trainer(amp_config(level, dtype, *opts, epochs=2), folder)
    save = half._save

    def once(*tags):
        save(*tags)
        raise stop

    half._save = once
    with pytest.raises(KeyError):
        half.fit()
    jobs.train(amp_config(level, dtype, *opts, epochs=2, output_dir=str(folder), resume='auto'))
    whole, parts = (checkpoint.read(tmp_path / name / 'last.pdstate') for name in ('whole', 'parts'))
    for part in ('model', 'ema', 'optimizer'):
        assert whole[part].keys() == parts[part].keys()
        for name in whole[part]:
            assert whole[part][name].dtype == np.float32
            assert np.array_equal(whole[part][name], parts[part][name]), name
    assert whole['scaler'] == parts['scaler'] and bool(whole['scaler']) is (dtype == 'float16')
    assert [r['train_loss'] for r in records(tmp_path / 'whole')] == [r['train_loss'] for r in records(folder)]
    rounded = whole['model']['head.weight']
    assert not np.array_equal(rounded, paddle.to_tensor(rounded).astype(dtype).astype('float32').numpy())
    log = (tmp_path / 'whole/log_train.txt').read_text()
    assert f'mixed precision {level} {dtype}' in log and 'acceleration: none on gpu:0, it has no fused attention' in log


@pytest.mark.parametrize('dtype', HALF)
def test_what_o2_stores_in_half(amp_config, tmp_path, gpu, dtype):
    job = trainer(amp_config('O2', dtype, 'TRAIN.WARMUP_EPOCHS', 0, 'MODEL.INIT_VALUES', 1e-6), tmp_path)
    exact = {name: value.numpy() for name, value in float32_weights(job.model)}
    for name, parameter in job.model.named_parameters():
        stays = any(word in name for word in FLOAT32_NAMES)
        assert parameter.dtype == (paddle.float32 if stays else HALF[dtype]), name
    assert np.all(exact['blocks.0.gamma_1'] == np.float32(1e-6))
    job.fit()
    for name, parameter in job.model.named_parameters():
        master = dict(float32_weights(job.model))[name]
        assert np.array_equal(master.astype(parameter.dtype).astype('float32').numpy(),
                              parameter.astype('float32').numpy()), name
        saved = checkpoint.read(tmp_path / 'last.pdstate')['model'][name]
        assert np.array_equal(saved, master.numpy()), name
        if name in ('blocks.0.gamma_1', 'cls_token', 'pos_embed', 'norm.bias', 'head.weight'):
            assert not np.array_equal(saved, exact[name]), name


@pytest.mark.parametrize('level, dtype', MODES)
def test_micro_batches_equal_one_batch(amp_config, tmp_path, gpu, level, dtype):
    """The sum of half gradients is float32: within the rounding of one."""
    opts = ['AUG.SHIFT', 0, 'AUG.HFLIP', 0, 'AUG.INTERPOLATION', 'bilinear', 'TRAIN.OPTIMIZER.NAME', 'Momentum',
            'TRAIN.WARMUP_EPOCHS', 0, 'TRAIN.LR_SCHEDULE', 'constant', 'TRAIN.BASE_LR', 0.1]
    start = dict(float32_weights(trainer(amp_config(level, dtype, *opts), tmp_path / 'start').model))
    ends = []
    for micro in (1, 3):
        job = trainer(amp_config(level, dtype, *opts, 'TRAIN.ACCUM_ITER', micro, batch_size=12 // micro),
                      tmp_path / str(micro))
        job.fit()
        ends.append(dict(float32_weights(job.model)))
    for name in ('head.weight', 'blocks.0.mlp.fc1.weight', 'norm.bias'):
        moved = np.abs(ends[0][name].numpy() - start[name].numpy()).max()
        apart = np.abs(ends[0][name].numpy() - ends[1][name].numpy()).max()
        assert apart <= (0.02 if dtype == 'float16' else 0.1) * moved, name


@pytest.mark.parametrize('level', ['O1', 'O2'])
def test_a_skipped_update(amp_config, tmp_path, gpu, monkeypatch, level):
    """The scale is too large for float16 at first: no update, half the scale, and numbers in log.jsonl."""
    monkeypatch.setattr(amp_module.LossScale, '__init__',
                        lambda self: vars(self).update(factor=2.0 ** 19, good=0))
    job = trainer(amp_config(level, 'float16', 'TRAIN.GRAD_CLIP', 1.0), tmp_path)
    before = {name: value.numpy() for name, value in float32_weights(job.model)}
    updates = job._update
    moved = []

    def update(group):
        updates(group)
        moved.append(any(not np.array_equal(value.numpy(), before[name])
                         for name, value in float32_weights(job.model)))

    job._update = update
    job.fit()
    record, = records(tmp_path)
    skipped = record['skipped_steps']
    assert 0 < skipped < 6 and moved == [False] * skipped + [True] * (6 - skipped)
    assert record['loss_scale'] == 2.0 ** (19 - skipped) and 0 < record['grad_norm'] < 1e4
    lines = re.findall(r'Step\[000\d/0006\], update skipped: gradients are not finite in float16, loss scale now',
                       (tmp_path / 'log_train.txt').read_text())
    assert len(lines) == skipped


def test_gradients_that_no_scale_makes_finite():
    scale = LossScale(4.0)
    scale.update(False), scale.update(False)
    assert scale.factor == 1.0
    with pytest.raises(NonFiniteError, match='not finite even without a loss scale'):
        scale.update(False)


@pytest.mark.parametrize('updates, expected', [(1999, 2.0), (2000, 4.0), (4000, 8.0)])
def test_the_scale_grows(updates, expected):
    scale = LossScale(2.0)
    for _ in range(updates):
        scale.update(True)
    other = LossScale()
    other.load_state_dict(scale.state_dict())
    assert scale.factor == other.factor == expected and scale.good == other.good == updates % 2000


def test_the_scale_of_a_checkpoint_that_paddle_wrote():
    scale = LossScale()
    scale.load_state_dict({'scale': np.float32([1024]), 'incr_ratio': 2.0, 'incr_count': 7, 'decr_count': 0})
    assert (scale.factor, scale.good) == (1024.0, 7)
    scale.load_state_dict({'scale': np.float32([8]), 'incr_count': 5000})  # of a longer interval
    scale.update(True)
    assert (scale.factor, scale.good) == (16.0, 0)
    for bad in ({'scale': np.float32([0]), 'incr_count': 1}, {'scale': np.float32([np.nan]), 'incr_count': 1},
                {'incr_count': 1}, {'scale': [], 'incr_count': 0}):
        with pytest.raises(InputError, match='^scaler: found '):
            scale.load_state_dict(bad)


@pytest.mark.parametrize('capability, dtype, message', [
    ((7, 0), 'bfloat16', 'compute capability 7.0, expected 8.0 or higher, or TRAIN.AMP.DTYPE float16'),
    ((7, 5), 'bfloat16', 'compute capability 7.5, expected 8.0 or higher, or TRAIN.AMP.DTYPE float16'),
    ((6, 1), 'float16', 'compute capability 6.1, expected 7.0 or higher'),
    ((6, 1), 'bfloat16', 'compute capability 6.1, expected 8.0 or higher')])
def test_a_gpu_without_the_dtype_is_refused(amp_config, capability, dtype, message):
    with simulated_gpu(capability), pytest.raises(InputError) as caught:
        Amp(amp_config('O1', dtype))
    assert str(caught.value) == f'-amp: TRAIN.AMP.DTYPE {dtype}: found gpu:0 of {message}'


@pytest.mark.parametrize('capability, dtype', [((7, 0), 'float16'), ((8, 0), 'bfloat16'), ((9, 0), 'float16')])
def test_a_gpu_with_the_dtype(amp_config, capability, dtype):
    with simulated_gpu(capability):
        found = Amp(amp_config('O1', dtype))
    assert found.enabled and found.note == f'mixed precision O1 {dtype}'
    assert (found.scaler is not None) is found.skips_overflow is (dtype == 'float16')


@pytest.mark.parametrize('level, dtype', MODES)
def test_an_evaluation_and_a_prediction(amp_config, trained, tmp_path, level, dtype):
    """With the weights of a float32 run; the loss is near that of float32, and not the same."""
    weights = str(trained / 'last')
    plain = jobs.evaluate(amp_config(level, dtype, 'DEVICE', 'cpu', amp=False, pretrained=weights,
                                     output_dir=str(tmp_path / 'plain')))
    with simulated_gpu():
        found = jobs.evaluate(amp_config(level, dtype, pretrained=weights, output_dir=str(tmp_path / 'eval')))
        table, _ = jobs.predict(amp_config(level, dtype, pretrained=weights, output_dir=str(tmp_path / 'pred')))
    assert found.loss != plain.loss and found.loss == pytest.approx(plain.loss, rel=0.02)
    assert len(table.read_text().splitlines()) == 12
    for job in ('eval', 'pred'):
        assert f'mixed precision {level} {dtype}' in (tmp_path / job / f'log_{job}.txt').read_text()


def test_an_o2_run_goes_on_in_float32(amp_config, tmp_path):
    """And in O2 again: the state is of float32 numbers under the same names."""
    folder = tmp_path / 'run'
    with simulated_gpu():
        jobs.train(amp_config('O2', 'float16', output_dir=str(folder)))
    state = checkpoint.read(folder / 'last.pdstate')
    jobs.train(amp_config('O2', 'float16', 'DEVICE', 'cpu', amp=False, epochs=2, output_dir=str(folder), resume='auto'))
    plain = checkpoint.read(folder / 'last.pdstate')['optimizer']
    assert {key for key in state['optimizer'] if not key.endswith('master_weight')} == plain.keys()
    with simulated_gpu():
        jobs.train(amp_config('O2', 'float16', epochs=3, output_dir=str(folder), resume='auto'))
    assert [record['epoch'] for record in records(folder)] == [1, 2, 3]


@pytest.mark.parametrize('dtype, what, found', [('bfloat16', 'loss', 'step 2'), ('bfloat16', 'gradient norm', 'step 3'),
                                                ('float16', 'loss', 'step 2')])
def test_a_number_that_is_not_finite_is_found_before_a_checkpoint(amp_config, tmp_path, gpu, monkeypatch, dtype, what,
                                                                  found):
    """On a GPU numbers are looked at when a line or a checkpoint is written; the message names the step all the same.
    In bfloat16 the update of that step has been made by then, in float16 it has not."""
    job = trainer(amp_config('O1', dtype, 'REPORT_FREQ', 100, 'TRAIN.GRAD_CLIP', 1.0), tmp_path)
    steps = []
    forward_backward = job._forward_backward

    def diverge(*args):
        steps.append(job.state.step)
        loss, correct = forward_backward(*args)
        if job.state.step == 2:
            if what == 'loss':
                return loss * float('nan'), correct
            with paddle.no_grad():
                job.model.head.bias.grad.scale_(float('inf'))
        return loss, correct

    job._forward_backward = diverge
    with pytest.raises(NonFiniteError) as caught:
        job.fit()
    assert re.fullmatch(rf'{what} is (nan|inf) at epoch 1, {found}, LR \S+; last good checkpoint: none yet',
                        str(caught.value))
    assert steps == (list(range(6)) if dtype == 'bfloat16' else [0, 1, 2])
    assert not list(tmp_path.glob('*.pd*'))


@pytest.mark.parametrize('device, forks', [('cpu', 1), ('gpu:0', 0), ('gpu:3', 0)])
def test_only_processes_on_cpus_leave_a_child_behind(monkeypatch, device, forks):
    """On a GPU it would hold the device and its memory for 10 s more than the process."""
    calls = []
    monkeypatch.setenv('PADDLE_TRAINERS_NUM', '2')
    monkeypatch.setattr(paddle, 'get_device', lambda: device)
    monkeypatch.setattr(distributed.os, 'fork', lambda: calls.append(1) or 1)
    with pytest.raises(KeyError), distributed.delay_abort_on_error():
        raise KeyError('a failure')
    assert len(calls) == forks


@pytest.mark.parametrize('count, device', [(1, 'gpu:1'), (4, 'gpu:4'), (2, 'gpu:17')])
def test_a_gpu_that_is_not_there(amp_config, tmp_path, gpu, monkeypatch, count, device):
    """Paddle ends the process for one."""
    monkeypatch.setattr(paddle.device.cuda, 'device_count', lambda: count)
    with pytest.raises(InputError) as caught:
        jobs.train(amp_config('O1', 'float16', 'DEVICE', device, output_dir=str(tmp_path / 'run')))
    assert str(caught.value) == f'-device {device}: found {count} GPUs, expected gpu:0 to gpu:{count - 1}'
    assert not (tmp_path / 'run').exists()


def test_cinn_is_not_asked_for(config, tmp_path, monkeypatch):
    """It is Paddle's default on a GPU."""
    options = []
    monkeypatch.setattr(paddle.jit, 'to_static', lambda net, **given: options.append(given) or net)
    trainer(config('TRAIN.TO_STATIC', True), tmp_path)
    assert options == [{'full_graph': True, 'backend': None}]


@pytest.mark.parametrize('value', [float('inf'), float('nan'), -float('inf')])
def test_numbers_that_json_does_not_have(tmp_path, value):
    logger = RunLogger(tmp_path, 'log.txt')
    logger.record({'epoch': 1, 'grad_norm': value, 'lr': 0.5})
    assert records(tmp_path) == [{'epoch': 1, 'grad_norm': None, 'lr': 0.5}]
    (tmp_path / 'log.jsonl').write_text('{"epoch": 1, "grad_norm": Infinity}\n')  # of an earlier version
    logger.rewind(1)
    assert records(tmp_path) == [{'epoch': 1, 'grad_norm': None}]
