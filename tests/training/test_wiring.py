# SPDX-License-Identifier: Apache-2.0
"""Each setting arrives where it acts, at values that are not its default; what is reported is right by number."""
from __future__ import annotations

import contextlib
import json
import multiprocessing
import re

import numpy as np
import paddle
import pytest

from CaiT import create_model
from CaiT.data.train_transforms import TrainTransform
from CaiT.errors import NonFiniteError
from CaiT.training import jobs
from CaiT.training.data import build_prediction_loader, build_train_loader, build_train_transform, build_val_loader
from CaiT.training.logger import RunLogger
from CaiT.training.losses import build_loss
from CaiT.training.optim import build_optimizer, build_schedule, clip_gradients
from CaiT.training.trainer import Trainer


def trainer(config, folder):
    return Trainer(config, folder, RunLogger(folder, 'log_train.txt'))


def records(folder):
    return [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]


def targets_of_epochs(config, epochs=3):
    loader, sampler = build_train_loader(config)
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += [targets.numpy() for _, targets in loader]
    return found


@pytest.mark.parametrize('ends', [True, False])
def test_data_workers_of_a_run(config, tmp_path, ends):
    """Started once, for training and for validation; gone at the end, also when an error ends the run."""
    job, seen = trainer(config('DATA.NUM_WORKERS', 1, epochs=3), tmp_path), []

    def refresh():
        seen.append({child.pid for child in multiprocessing.active_children()})
        if len(seen) == 2 and not ends:
            raise NonFiniteError('val_loss is nan')
    with contextlib.nullcontext() if ends else pytest.raises(NonFiniteError):
        job.fit(refresh)
    assert len(seen) == (3 if ends else 2) and len(seen[0]) == 2 and all(pids == seen[0] for pids in seen)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize('smoothing', [0.0, 0.3])
def test_label_smoothing_reaches_mixing_and_the_loss(config, smoothing):
    for targets in targets_of_epochs(config('AUG.MIXUP', 0.8, 'TRAIN.LABEL_SMOOTHING', smoothing), 1):
        assert targets.min() == pytest.approx(smoothing / 3, abs=1e-6)
    logits, label = np.float32([[1.0, 2.0, 4.0]]), paddle.to_tensor([1])
    log_softmax = logits - np.log(np.exp(logits).sum())
    weights = np.full(3, smoothing / 3) + np.array([0, 1 - smoothing, 0])
    for name, expected in (('CE', -(weights * log_softmax).sum()), ('BCE', np.mean(
            np.log1p(np.exp(logits)) - weights * logits))):
        assert build_loss(name, smoothing)(paddle.to_tensor(logits), label).item() == pytest.approx(expected, rel=1e-5)


def test_each_batch_is_mixed_by_a_draw_of_its_own(config):
    """In mode 'batch' a batch has one lam; other batches and epochs have others."""
    lams = [targets[targets > 0].min() for targets in targets_of_epochs(config('AUG.MIXUP', 1.0))]
    assert len(lams) == 18 and len(np.unique(np.round(lams, 4))) >= 15


@pytest.mark.parametrize('opts, mixed', [
    (['AUG.MIX_PROB', 0], (0, 0)), (['AUG.MIX_PROB', 0.5], (0.2, 0.8)), ([], (0.81, 1))])  # two of one class: not seen
def test_probability_of_mixing_arrives(config, opts, mixed):
    found = [bool((targets.max(1) < 1).any()) for targets in targets_of_epochs(config('AUG.MIXUP', 9, *opts), 5)]
    assert mixed[0] <= np.mean(found) <= mixed[1]


def test_every_mixing_option_arrives(config, monkeypatch):
    from CaiT.training import data
    calls = []
    monkeypatch.setattr(data, 'Mixing', lambda *args: calls.append(args))
    build_train_loader(config('AUG.MIXUP', 0.3, 'AUG.CUTMIX', 0.4, 'AUG.MIX_PROB', 0.6, 'AUG.MIX_SWITCH_PROB', 0.7,
                              'AUG.MIX_MODE', 'elem', 'TRAIN.LABEL_SMOOTHING', 0.2))
    assert calls == [(0.3, 0.4, 3, 4, 0.6, 0.7, 'elem', 0.2)]


def test_every_augmentation_option_arrives(config):
    given = {'KIND': 'random_resized_crop', 'SCALE': (0.2, 0.9), 'RATIO': (0.7, 1.6), 'SHIFT': 0.25, 'ROTATE': 5.0,
             'ZOOM': 0.1, 'INTERPOLATION': 'lanczos', 'HFLIP': 0.1, 'COLOR_JITTER': 0.2, 'AUTO_AUGMENT': '3augment',
             'ERASE_PROB': 0.15, 'ERASE_MODE': 'const'}
    transform = build_train_transform(config(*[word for key, value in given.items() for word in (f'AUG.{key}', value)]))
    assert isinstance(transform, TrainTransform)
    assert {key.upper(): value for key, value in vars(transform.options).items()} == given


def test_repeats_seed_and_batch_size_arrive(config):
    def order(*opts):
        loader, sampler = build_train_loader(config(*opts))
        return [index for batch in sampler for index, _ in batch], loader
    found, _ = order('AUG.REPEATS', 3)
    assert found[0] == found[1] == found[2] != found[3] and len(set(found)) == 8
    assert order('SEED', 1)[0] != order('SEED', 2)[0] and order('SEED', 1)[0] == order('SEED', 1)[0]
    sizes = [len(targets) for _, targets in build_val_loader(config('DATA.BATCH_SIZE_EVAL', 3))]
    assert sizes == [3, 3, 3, 2]  # -batch_size is 4
    assert [len(batch[1]) for batch in build_prediction_loader(config('DATA.BATCH_SIZE_EVAL', 6))[0]] == [6, 5]


@pytest.mark.parametrize('epochs, every, evaluated', [(3, 2, [2, 3]), (2, 5, [2]), (4, 2, [2, 4]), (3, 1, [1, 2, 3])])
def test_evaluated_epochs(config, tmp_path, epochs, every, evaluated):
    """Every so many epochs, and the last one always."""
    jobs.train(config('VALIDATE_FREQ', every, epochs=epochs, output_dir=str(tmp_path)))
    assert [record['epoch'] for record in records(tmp_path) if 'val_top1' in record] == evaluated


@pytest.mark.parametrize('save, accumulate, saved', [
    (1, 2, [2, 4]), (2, 1, [2, 4]), (2, 2, [4]), (1, 4, [4]), (0, 1, [])])
def test_checkpoints_within_an_epoch(config, tmp_path, monkeypatch, save, accumulate, saved):
    """SAVE_STEPS counts updates; the end of the epoch has a checkpoint of its own."""
    job = trainer(config('SAVE_STEPS', save, 'TRAIN.ACCUM_ITER', accumulate, epochs=1), tmp_path)
    steps = []
    monkeypatch.setattr(job, '_save', lambda *tags: steps.append((job.state.epoch, job.state.step)))
    job.fit()
    assert [step for epoch, step in steps if epoch == 1] == saved and steps[-1] == (2, 0)


@pytest.mark.parametrize('every, accumulate, reported', [
    (2, 1, [0, 2, 4]), (4, 1, [0, 4]), (3, 2, [0, 3]), (100, 1, [0])])
def test_reported_steps(config, tmp_path, every, accumulate, reported):
    jobs.train(config('REPORT_FREQ', every, 'TRAIN.ACCUM_ITER', accumulate, epochs=1, output_dir=str(tmp_path)))
    text = (tmp_path / 'log_train.txt').read_text()
    assert [int(step) for step in re.findall(r'Epoch\[001/001\], Step\[(\d{4})/0006\]', text)] == reported
    assert [int(step) for step in re.findall(r'\[Train\]\[Epoch 1/1\]\[Iter: (\d+)/6\]', text)] == reported


def test_learning_rate_of_each_update(config, tmp_path, monkeypatch):
    """By the position of the update's first micro-batch; the record has that of the last one."""
    from CaiT.training import trainer as module
    chosen = config('TRAIN.ACCUM_ITER', 4, 'TRAIN.WARMUP_EPOCHS', 0, 'TRAIN.END_LR', 1e-4, epochs=2)
    job = trainer(chosen, tmp_path)
    schedule, _ = build_schedule(chosen, 16)
    found = []
    update = job._update
    monkeypatch.setattr(job, '_update', lambda group: (update(group), found.append(job.optimizer.get_lr())))
    monkeypatch.setattr(module, 'clip_gradients', lambda parameters, max_norm: float(max_norm == 0))
    job.fit()
    assert found == pytest.approx([schedule.at(position) for position in (0, 4 / 6, 1, 1 + 4 / 6)])
    assert [record['lr'] for record in records(tmp_path)] == pytest.approx(found[1::2])


def test_clipping_is_handed_on(config, tmp_path, monkeypatch):
    from CaiT.training import trainer as module
    norms = []
    monkeypatch.setattr(module, 'clip_gradients', lambda parameters, max_norm: norms.append(max_norm) or 0.5)
    job = trainer(config('TRAIN.GRAD_CLIP', 0.25, epochs=1), tmp_path)
    assert job.fit() and norms == [0.25] * 6 and records(tmp_path)[0]['grad_norm'] == 0.5


@pytest.mark.parametrize('recompute', [False, True])
def test_recomputation_arrives(config, tmp_path, recompute):
    assert trainer(config('TRAIN.RECOMPUTE', recompute), tmp_path).model.grad_checkpointing is recompute


@pytest.mark.parametrize('name, attribute, opts, expected', [
    ('AdamW', 'AdamW', ['BETAS', (0.8, 0.95), 'EPS', 1e-7],
     dict(beta1=0.8, beta2=0.95, epsilon=1e-7, weight_decay=0.3)),
    ('LAMB', 'Lamb', ['BETAS', (0.7, 0.99), 'EPS', 1e-5],
     dict(beta1=0.7, beta2=0.99, epsilon=1e-5, lamb_weight_decay=0.3)),
    ('Momentum', 'Momentum', ['MOMENTUM', 0.6, 'NESTEROV', True], dict(momentum=0.6, use_nesterov=True)),
    ('Momentum', 'Momentum', ['MOMENTUM', 0.5], dict(momentum=0.5, use_nesterov=False))])
def test_every_optimizer_option_arrives(config, monkeypatch, name, attribute, opts, expected):
    calls = []
    monkeypatch.setattr(paddle.optimizer, attribute, lambda lr, **options: calls.append((lr, options)))
    words = [word if index % 2 else f'TRAIN.OPTIMIZER.{word}' for index, word in enumerate(opts)]
    model = create_model('cait', embed_dim=8, depth=1, num_heads=2, image_size=16)
    build_optimizer(model, config('TRAIN.OPTIMIZER.NAME', name, 'TRAIN.WEIGHT_DECAY', 0.3, 'TRAIN.BASE_LR', 0.125,
                                  *words))
    (lr, options), = calls
    assert lr == 0.125 and {key: options[key] for key in expected} == expected


@pytest.mark.parametrize('opts, expected', [
    (['TRAIN.LR_SCHEDULE', 'step', 'TRAIN.LR_STEP', 2, 'TRAIN.LR_DECAY', 0.5], [1, 1, 0.5, 0.25]),
    (['TRAIN.LR_SCHEDULE', 'multistep', 'TRAIN.LR_MILESTONES', [1, 5], 'TRAIN.LR_DECAY', 0.5], [1, 0.5, 0.5, 0.25]),
    (['TRAIN.LR_SCHEDULE', 'linear', 'TRAIN.END_LR', 0.4], [1, 0.9, 0.8, 0.5]),
    (['TRAIN.LR_SCHEDULE', 'linear', 'TRAIN.END_LR', 0.4, 'TRAIN.WARMUP_EPOCHS', 2, 'TRAIN.WARMUP_START_LR', 0.2],
     [0.2, 0.6, 0.8, 0.5]),
    (['TRAIN.LR_SCHEDULE', 'constant', 'TRAIN.WARMUP_FRACTION', 0.25, 'TRAIN.WARMUP_START_LR', 0.1],
     [0.1, 0.7, 1, 1])])  # a warm-up of one and a half of six epochs
def test_every_schedule_option_arrives(config, opts, expected):
    schedule, _ = build_schedule(config('TRAIN.WARMUP_EPOCHS', 0, 'TRAIN.BASE_LR', 1, *opts, epochs=6), 4)
    assert [schedule.at(position) for position in (0, 1, 2, 5)] == pytest.approx(expected)


def test_each_epoch_has_an_order_and_randomness_of_its_own(config, tmp_path, monkeypatch):
    from CaiT.training import trainer as module
    seeds, epochs, seed = [], [], module.step_seed
    monkeypatch.setattr(module, 'step_seed', lambda *of: seeds.append(of) or seed(*of))
    job = trainer(config('SEED', 5, 'TRAIN.ACCUM_ITER', 2), tmp_path)
    set_epoch = job.sampler.set_epoch
    monkeypatch.setattr(job.sampler, 'set_epoch', lambda *given: epochs.append(given) or set_epoch(*given))
    job.fit()
    assert epochs == [(1, 0), (2, 0)] and seeds == [(5, epoch, step, 0) for epoch in (1, 2) for step in range(6)]


def test_small_gradients_are_not_scaled_up():
    weight = paddle.to_tensor([3.0, 4.0], stop_gradient=False)
    (weight * paddle.to_tensor([0.6, 0.8])).sum().backward()
    for largest in (5.0, 1.0001, 0.0):
        assert clip_gradients([weight], largest).item() == pytest.approx(1.0)
        np.testing.assert_allclose(weight.grad.numpy(), [0.6, 0.8], rtol=1e-6)
