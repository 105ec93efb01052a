# SPDX-License-Identifier: Apache-2.0
"""What a run trains with, built from its configuration: data, model, loss, optimizer; and, when it goes on from a
checkpoint, their state."""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import paddle
from yacs.config import CfgNode

from CaiT.config import build_model, with_data_of
from CaiT.data.loader import Loader
from CaiT.training import distributed, resume
from CaiT.training.acceleration import accelerate_for
from CaiT.training.amp import Amp
from CaiT.training.class_weights import class_weights
from CaiT.training.data import build_train_loader, build_val_loader
from CaiT.training.distill import build_teacher
from CaiT.training.ema import Ema
from CaiT.training.evaluator import criterion_name
from CaiT.training.freeze import freeze
from CaiT.training.logger import RunLogger
from CaiT.training.losses import build_loss
from CaiT.training.notices import training_notices
from CaiT.training.optim import Schedule, build_optimizer, build_schedule
from CaiT.training.run_state import restore, restore_weights
from CaiT.training.train_state import TrainState


@dataclasses.dataclass
class Parts:
    """What ``build`` returns. ``net`` is ``model`` as it runs in training: of several processes, compiled."""
    model: paddle.nn.Layer
    net: paddle.nn.Layer
    teacher: Any
    loss: Any
    loader: Loader
    sampler: Any
    val_loader: Loader
    optimizer: paddle.optimizer.Optimizer
    schedule: Schedule
    amp: Amp
    ema: Optional[Ema]
    state: TrainState
    resumed: Optional[resume.Checkpoint]


def build(config: CfgNode, folder: Path, logger: RunLogger) -> Parts:
    """The parts of a training run in ``folder``, which is not written to; logs what was loaded and what is in force.

    Seeds Paddle's global generator with SEED. Raises InputError for errors in the user's input.
    """
    distill = config.TRAIN.DISTILL
    resumed = resume.find_checkpoint(config, folder)
    paddle.seed(config.SEED)
    model = build_model(config, pretrained=not resumed)  # a resumed run does without that file
    model.set_grad_checkpointing(config.TRAIN.RECOMPUTE)
    if config.MODEL.PRETRAINED and not resumed:
        report = model.load_report
        logger.info('\n'.join(report.lines()))
        _, line = with_data_of(config, report.data, report.data_source)
        if line:
            logger.info(f'note: training uses its own data config; of these weights: {line}')
    freeze_line = freeze(model, config.TRAIN.FREEZE)
    loader, sampler = build_train_loader(config)
    val_loader = build_val_loader(config)
    for note in dict.fromkeys(loader.notes + val_loader.notes):  # each once
        logger.info(note)
    weights, weights_line = class_weights(config, loader.dataset.labels)
    loss = build_loss(config.TRAIN.LOSS, config.TRAIN.LABEL_SMOOTHING, distill.TYPE, distill.ALPHA, distill.TAU,
                      weights)
    teacher = build_teacher(config) if distill.TYPE != 'none' else None
    optimizer, weight_decay_line = build_optimizer(model, config)
    schedule, lr_line = build_schedule(
        config, config.DATA.BATCH_SIZE * config.TRAIN.ACCUM_ITER * distributed.world_size())
    amp = Amp(config)
    state = TrainState(epoch=config.TRAIN.LAST_EPOCH + 1)
    notices = training_notices(config, schedule, loader.dataset, sampler, resumed)
    for line in filter(None, (freeze_line, weight_decay_line, lr_line, weights_line, *notices, amp.note,
                              teacher and teacher.note)):
        logger.info(line)
    if resumed:
        restore_weights(resumed, model, config)
    amp.decorate(model, optimizer)
    if resumed:
        state = restore(resumed, optimizer, model, amp, len(sampler))
        best = (f'best {criterion_name(config.DATA.MULTI_LABEL)} {state.best_top1:.4f} (epoch {state.best_epoch})'
                if state.best_epoch else 'no epoch was evaluated yet')
        logger.info(f'resumed from {resumed.path}: epoch {state.epoch}, step {state.step}, {best}')
    ema = Ema(model, config.TRAIN.EMA_DECAY) if config.TRAIN.EMA_DECAY else None
    if ema and resumed and resumed.state['ema']:
        ema.restore(resumed.state['ema'])
    logger.info(accelerate_for(config, model))
    # backend=None: the default on a GPU is CINN, whose numbers nobody has compared with those of eager mode.
    net = paddle.jit.to_static(model, full_graph=True, backend=None) if config.TRAIN.TO_STATIC else model
    return Parts(model, distributed.wrap(net), teacher, loss, loader, sampler, val_loader, optimizer, schedule, amp,
                 ema, state, resumed)
