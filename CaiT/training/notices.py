# SPDX-License-Identifier: Apache-2.0
"""Lines about a training run that is allowed and probably not meant: each was reported by someone who lost a run."""
from __future__ import annotations

import dataclasses
from typing import Any, List, Optional, Set

import numpy as np
from yacs.config import CfgNode

from CaiT.training import distributed
from CaiT.training.optim import Schedule
from CaiT.training.resume import Checkpoint

MAX_INITIAL = 0.1  # of an average: above it the warning appears
JUMP = 1.05  # factor between two learning rates that is no jump yet


def training_notices(config: CfgNode, schedule: Schedule, dataset: Any, sampler: Any,
                     resumed: Optional[Checkpoint]) -> List[str]:
    """Log lines for a run that starts or resumes. ``schedule``: of this run; ``sampler``: of its training batches."""
    train, steps = config.TRAIN, len(sampler)
    lines = resumed.note.split('\n') if resumed else []
    per_step = config.DATA.BATCH_SIZE * distributed.world_size()
    per_update, images = per_step * train.ACCUM_ITER, len(dataset)
    if images < per_update:
        scaled = ', for which the learning rate is scaled' if train.LR_BATCH else ''
        lines.append(f'warning: the training set ({images} images) is smaller than one update ({per_update} images)'
                     f'{scaled}; expected a smaller -batch_size')
    left_out = images - steps * per_step
    if left_out > 0:
        lines.append(f'epoch: {steps} steps of {per_step} images, {left_out} of {images} images '
                     f'({100 * left_out / images:.1f} %) are left out of each')
    labels = _class_ids(dataset)
    if len(labels) < config.MODEL.NUM_CLASSES:
        lines.append(f'warning: the training set has {len(labels)} classes (ids {min(labels)} to {max(labels)}), the '
                     f'head has {config.MODEL.NUM_CLASSES}; expected -num_classes={max(labels) + 1}, or lists with all')
    if schedule.warmup_epochs >= schedule.epochs and schedule.warmup_epochs:
        highest = max(schedule.at(epoch + (steps - 1) / steps) for epoch in range(schedule.epochs))
        lines.append(f'warning: a warm-up of {schedule.warmup_epochs:g} epochs is not shorter than a run of '
                     f'{schedule.epochs}: the learning rate reaches {highest:.2g} of {schedule.peak_lr:.2g}')
    updates = train.EPOCHS * -(-steps // train.ACCUM_ITER)
    initial = train.EMA_DECAY ** updates if train.EMA_DECAY else 0.0
    if initial > MAX_INITIAL:
        lines.append(f'warning: moving average of the weights: with TRAIN.EMA_DECAY {train.EMA_DECAY:g}, after the '
                     f'{updates} updates of this run {100 * initial:.1f} % of it are still the initial weights')
    if config.MODEL.PRETRAINED and config.MODEL.DROP_RATE and not resumed:
        lines.append(f'warning: MODEL.DROP_RATE {config.MODEL.DROP_RATE:g} with -pretrained: fine-tuning with dropout '
                     'learns little, expected 0')
    if resumed:
        lines += _resume_lines(config, schedule, resumed, steps)
    return [line for line in lines if line]


def evaluation_notices(num_classes: int, dataset: Any) -> List[str]:
    """Log lines for an evaluation whose images are of few of the head's classes: a subset, or ids of other classes."""
    labels = _class_ids(dataset)
    if 2 * len(labels) > num_classes:
        return []
    line = (f'warning: the validation set has {len(labels)} classes (ids {min(labels)} to {max(labels)}), the head '
            f'has {num_classes}: accuracy is over all {num_classes}')
    if max(labels) < len(labels):
        line += '; if these ids are not those of the weights it means nothing (make_lists --classes FILE)'
    return [line]


def _class_ids(dataset: Any) -> Set[int]:
    """The class ids of a dataset, without a look at its samples: the names of those in shards are read from the disk.
    """
    return set(np.unique(dataset.labels).tolist())


def _resume_lines(config: CfgNode, schedule: Schedule, resumed: Checkpoint, steps: int) -> List[str]:
    progress, epochs = resumed.progress, config.TRAIN.EPOCHS
    if progress.epoch > epochs:
        return [f'warning: nothing to train, the checkpoint has done {progress.epoch - 1} epochs of {epochs}']
    position = progress.epoch - 1 + min(progress.step / resumed.state['steps'], 1)
    before = dataclasses.replace(schedule, epochs=resumed.epochs).at(position)
    now = schedule.at(position)
    if max(before, now) <= JUMP * min(before, now):
        return []
    return [f'warning: resumed for {epochs} epochs instead of {resumed.epochs}: the learning rate jumps from '
            f'{before:.2g} to {now:.2g}']
