# SPDX-License-Identifier: Apache-2.0
"""All options of a recipe at once, none of them, and those that exclude each other."""
from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from CaiT.config import get_config
from CaiT.data.mixing import Mixing
from CaiT.errors import InputError
from CaiT.report.run_page import Refresher
from CaiT.training import checkpoint, jobs
from CaiT.training.data import build_train_transform
from CaiT.training.losses import build_loss
from CaiT.training.optim import build_schedule

ROOT = Path(__file__).resolve().parents[2]

EVERYTHING = [
    'MODEL.DROP_PATH_RATE', 0.2, 'MODEL.DROP_RATE', 0.1, 'MODEL.ATTN_DROP_RATE', 0.1,
    'AUG.KIND', 'random_resized_crop', 'AUG.SCALE', (0.3, 1.0), 'AUG.RATIO', (0.8, 1.25), 'AUG.COLOR_JITTER', 0.3,
    'AUG.ERASE_PROB', 0.5, 'AUG.MIXUP', 0.8, 'AUG.CUTMIX', 1.0, 'AUG.MIX_PROB', 0.9, 'AUG.MIX_MODE', 'pair',
    'AUG.REPEATS', 3, 'TRAIN.LAYER_DECAY', 0.9, 'TRAIN.GRAD_CLIP', 1.0, 'TRAIN.ACCUM_ITER', 2,
    'TRAIN.LABEL_SMOOTHING', 0.1, 'TRAIN.EMA_DECAY', 0.9, 'TRAIN.RECOMPUTE', True, 'TRAIN.LR_BATCH', 8,
    'SAVE_STEPS', 1, 'DATA.NUM_WORKERS', 2]
NOTHING = [
    'AUG.SHIFT', 0, 'AUG.HFLIP', 0, 'AUG.INTERPOLATION', '', 'TRAIN.LR_SCHEDULE', 'constant', 'TRAIN.WARMUP_EPOCHS', 0,
    'TRAIN.WEIGHT_DECAY', 0, 'TRAIN.OPTIMIZER.NAME', 'Momentum', 'TRAIN.OPTIMIZER.MOMENTUM', 0,
    'DATA.USE_SHARED_MEMORY', False]


@pytest.mark.parametrize('augment, loss, optimizer, schedule', [
    ('rand-m9-mstd0.5-inc1', 'CE', 'AdamW', 'cosine'),
    pytest.param('autoaugment', 'BCE', 'LAMB', 'multistep', marks=pytest.mark.slow),
    pytest.param('3augment', 'CE', 'Momentum', 'step', marks=pytest.mark.slow)])
def test_a_run_with_every_option_on_finishes(config, tiny_teacher, dashboard, tmp_path, augment, loss, optimizer,
                                             schedule):
    teacher = ['TRAIN.DISTILL.TYPE', 'soft', 'TRAIN.DISTILL.TEACHER', 'tiny_teacher',
               'TRAIN.DISTILL.TEACHER_WEIGHTS', tiny_teacher()]
    jobs.train(config(*EVERYTHING, *teacher, 'AUG.AUTO_AUGMENT', augment, 'TRAIN.LOSS', loss, 'TRAIN.LR_SCHEDULE',
                      schedule, 'TRAIN.OPTIMIZER.NAME', optimizer, 'TRAIN.OPTIMIZER.NESTEROV', True,
                      'TRAIN.VISUALDL', True, amp=True, output_dir=str(tmp_path)), Refresher)
    records = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    assert [record['epoch'] for record in records] == [1, 2]
    assert records[0].keys() == {
        'epoch', 'train_loss', 'train_acc', 'lr', 'grad_norm', 'data_time', 'batch_time', 'images_per_second',
        'memory_mib', 'eta', 'val_loss', 'val_top1', 'val_top5', 'ema_loss', 'ema_top1', 'ema_top5'}
    assert all(np.isfinite(list(record.values())).all() for record in records)
    assert records[0]['eta'] > 0 == records[1]['eta'] and records[0]['memory_mib'] > 100
    assert {(name, step) for name, _, step in dashboard[:-1]} >= {('train_loss', 6), ('val_top1', 12), ('step_loss', 0),
                                                             ('step_lr', 8), ('step_grad_norm', 10)}
    assert dashboard[-1] == 'closed'
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {'last.pdstate', 'best.pdparams', 'best_ema.pdparams', 'config.yaml', 'curves.png', 'run.html'}


@pytest.fixture
def dashboard(monkeypatch):
    """The calls of VisualDL's writer, [(name, value, step), …, 'closed'], without VisualDL."""
    calls = []

    class LogWriter:
        def __init__(self, logdir):
            assert logdir.endswith('visualdl')

        def add_scalar(self, tag, value, step):
            calls.append((tag, float(value), step))

        def close(self):
            calls.append('closed')

    monkeypatch.setitem(sys.modules, 'visualdl', types.SimpleNamespace(LogWriter=LogWriter))
    return calls


def test_a_run_with_every_option_off_finishes(config, tmp_path):
    jobs.train(config(*NOTHING, output_dir=str(tmp_path), epochs=1))
    assert checkpoint.read(tmp_path / 'last.pdstate')['ema'] == {}


def test_the_dashboard_that_is_not_installed_is_one_line(config, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'visualdl', None)
    with pytest.raises(InputError, match=r'^TRAIN\.VISUALDL True: visualdl is not installed; pip install visualdl$'):
        jobs.train(config('TRAIN.VISUALDL', True, output_dir=str(tmp_path)))


@pytest.mark.parametrize('opts, message', [
    (['AUG.MIXUP', 0.8, 'AUG.MIX_MODE', 'pair', 'DATA.BATCH_SIZE', 3], "'pair': found a batch of 3, expected an even"),
    (['AUG.MIXUP', -1], r'AUG\.MIXUP: found -1\.0, expected at least 0'),
    (['AUG.AUTO_AUGMENT', 'randaugment'], "auto_augment: found 'randaugment'"),
    (['AUG.ERASE_PROB', 2], r'AUG\.ERASE_PROB: found 2\.0, expected a number from 0 to 1'),
    (['TRAIN.EMA_DECAY', 1.5], r'TRAIN\.EMA_DECAY: found 1\.5, expected a number from 0 to 1'),
    (['TRAIN.DISTILL.TYPE', 'hard'], r'found no TRAIN\.DISTILL\.TEACHER'),
    (['TRAIN.DISTILL.TYPE', 'warm'], r"TRAIN\.DISTILL\.TYPE: found 'warm', expected one of none, hard, soft"),
    (['TRAIN.DISTILL.TAU', 0], r'TRAIN\.DISTILL\.TAU: found 0\.0, expected more than 0'),
    (['TRAIN.OPTIMIZER.NAME', 'Adam'], "found 'Adam', expected one of AdamW, Momentum, LAMB"),
    (['DEVICE', 'gpu'], 'found no GPU'),
])
def test_invalid_settings_are_one_line(config, tmp_path, opts, message):
    with pytest.raises(InputError, match=message) as error:
        jobs.train(config(*opts, batch_size=None, output_dir=str(tmp_path)))
    assert '\n' not in str(error.value)
    assert not list(tmp_path.glob('*.pdstate'))


@pytest.mark.parametrize('path', sorted((ROOT / 'CaiT/configs').glob('*.yaml')) +
                         sorted((ROOT / 'benchmarks/recipes').glob('*.yaml')), ids=lambda path: path.stem)
def test_shipped_recipes_can_be_trained(path):
    """Their augmentations, losses, schedules and mixing exist. (That each model builds is tested with the configs.)"""
    chosen = get_config(str(path))
    build_train_transform(chosen)
    build_loss(chosen.TRAIN.LOSS, chosen.TRAIN.LABEL_SMOOTHING)
    schedule, _ = build_schedule(chosen, 1024)
    assert schedule.peak_lr >= schedule.at(chosen.TRAIN.EPOCHS) >= 0
    assert chosen.TRAIN.WARMUP_EPOCHS < chosen.TRAIN.EPOCHS
    if chosen.AUG.MIXUP or chosen.AUG.CUTMIX:
        Mixing(chosen.AUG.MIXUP, chosen.AUG.CUTMIX, 10, chosen.DATA.BATCH_SIZE, chosen.AUG.MIX_PROB,
               chosen.AUG.MIX_SWITCH_PROB, chosen.AUG.MIX_MODE)


def test_resume_with_another_optimizer_is_refused(config, tmp_path):
    jobs.train(config(epochs=1, output_dir=str(tmp_path)))
    with pytest.raises(InputError, match=r"OPTIMIZER\.NAME is 'AdamW' there and 'LAMB' in this run"):
        jobs.train(config('TRAIN.OPTIMIZER.NAME', 'LAMB', output_dir=str(tmp_path), resume='auto'))


def test_an_average_that_starts_on_resume_starts_at_the_resumed_weights(config, tmp_path):
    """Not at the first values of a fresh model: one update later it is still close to the weights."""
    jobs.train(config('TRAIN.WARMUP_EPOCHS', 0, epochs=1, output_dir=str(tmp_path)))
    before = checkpoint.read(tmp_path / 'last.pdstate')['model']
    jobs.train(config('TRAIN.EMA_DECAY', 1.0, 'RESUME_ANYWAY', True, output_dir=str(tmp_path), resume='auto'))
    after = checkpoint.read(tmp_path / 'last.pdstate')
    assert all(np.array_equal(after['ema'][name], before[name]) for name in before)


def test_a_run_that_died_before_its_first_state_starts_its_log_afresh(config, tmp_path):
    (tmp_path / 'log.jsonl').write_text('{"epoch": 1, "train_loss": 9.0}\n')
    jobs.train(config(epochs=1, output_dir=str(tmp_path), resume='auto'))
    records = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    assert [record['epoch'] for record in records] == [1] and records[0]['train_loss'] < 9
