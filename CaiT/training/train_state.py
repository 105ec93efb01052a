# SPDX-License-Identifier: Apache-2.0
"""The position in training, as checkpoints store it."""
from __future__ import annotations

import dataclasses
import sys
from typing import Any, Dict, Mapping

import numpy as np

from CaiT.errors import InputError, shown

RENAMED_KEYS = {'pictures': 'images', 'rate': 'lr'}  # of state['progress'] in older checkpoints
SINCE_LATER = ('lr', 'grad_norm', 'skipped')  # not in the oldest checkpoints


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """The seed of Paddle's generator for one micro-batch."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)[0])


@dataclasses.dataclass
class TrainState:
    """The position in training: ``step`` micro-batches of ``epoch`` are done. ``loss_sum``, ``correct`` and ``images``
    are sums over them; ``lr`` is that of the last update, ``grad_norm`` that of the last one whose norm was needed:
    with clipping each, else those of log lines and of the end of an epoch. ``skipped`` counts the updates of this epoch
    that float16 has skipped. ``best_top1`` is a mAP where images have several classes."""
    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    images: float = 0
    lr: float = 0.0
    grad_norm: float = 0.0
    best_top1: float = -1.0
    best_ema_top1: float = -1.0
    best_epoch: int = 0
    skipped: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], epochs: int, steps: int) -> TrainState:
        """From ``state['progress']`` of a checkpoint, written by this or an older version.

        InputError, naming the key, for a missing or unknown one and for a position that a run of ``epochs`` epochs of
        ``steps`` micro-batches cannot have.
        """
        values = {RENAMED_KEYS.get(key, key): value for key, value in values.items()}
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in [*fields, *values]:
            if key not in fields:
                raise InputError(f'progress: unknown key {shown(repr(key))}')
            if key not in values and key not in SINCE_LATER:
                raise InputError(f'progress: {key} is missing')
        for key, value in values.items():
            if type(value) not in (int, float):
                raise InputError(f'progress: {key}: found {shown(repr(value))}, expected a number')
        for key, (kind, low, high) in {
                'epoch': (int, 1, epochs + 1), 'step': (int, 0, steps), 'best_epoch': (int, 0, epochs),
                'skipped': (int, 0, steps),
                'loss_sum': (float, -sys.float_info.max, sys.float_info.max), 'images': (float, 0, sys.float_info.max),
                'correct': (float, 0, values['images']), 'best_top1': (float, -1, 1), 'best_ema_top1': (float, -1, 1),
                'lr': (float, 0, sys.float_info.max)}.items():
            value = values.get(key, 0)
            if (kind is int and type(value) is not int) or not low <= value <= high:
                expected = 'an integer' if kind is int else 'a number'
                raise InputError(f'progress: {key}: found {value}, expected {expected} from {low:g} to {high:g}')
        for key in ('loss_sum', 'correct', 'images'):
            if values['step'] == 0 and values[key] != 0:
                raise InputError(f'progress: {key}: found {values[key]:g} after 0 steps, expected 0')
        if values['images'] < values['step']:
            raise InputError(f'progress: images: found {values["images"]:g} after {values["step"]} steps')
        if values['best_epoch'] >= values['epoch']:
            raise InputError(f'progress: best_epoch: found {values["best_epoch"]} in epoch {values["epoch"]}')
        return cls(**values)

    def averages(self) -> Dict[str, float]:
        return {'loss': self.loss_sum / self.images, 'acc': self.correct / self.images}

    def next_epoch(self) -> None:
        self.epoch, self.step, self.loss_sum, self.correct, self.images = self.epoch + 1, 0, 0.0, 0.0, 0
        self.skipped = 0
