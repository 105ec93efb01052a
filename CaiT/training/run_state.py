# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds of a run, and how a run takes it up again."""
from __future__ import annotations

import dataclasses
from typing import Any, Dict

from paddle import nn
from yacs.config import CfgNode

from CaiT.training import checkpoint, distributed, resume
from CaiT.training.amp import Amp
from CaiT.training.optim import MASTER, optimizer_arrays, restore_optimizer
from CaiT.training.train_state import TrainState


def snapshot(job: Any, totals: TrainState) -> Dict[str, Any]:
    """The training state of a Trainer; ``totals``: its position with the sums over all processes."""
    return {
        'model': checkpoint.weights(job.model),
        'ema': job.ema.arrays() if job.ema else {},
        'optimizer': optimizer_arrays(job.optimizer, job.model),
        'scaler': job.amp.state_dict(),
        'progress': dataclasses.asdict(totals),
        'steps': len(job.sampler),
        'random': {'seed': job.config.SEED},  # together with 'progress' it determines all random choices
        'config': job.config.dump(),
    }


def restore_weights(resumed: resume.Checkpoint, model: nn.Layer, config: CfgNode) -> None:
    """The weights of a checkpoint whose arrays are those of this run; before ``Amp.decorate``. InputError otherwise."""
    state = resumed.state
    resume.check_arrays(resumed, {name: list(p.shape) for name, p in model.named_parameters()},
                        [name for name, p in model.named_parameters() if not p.stop_gradient],
                        config.TRAIN.OPTIMIZER.NAME, config.TRAIN.EMA_DECAY)
    masters = {key[:-len(MASTER) - 1]: array for key, array in state['optimizer'].items()
               if key.endswith(f'/{MASTER}')}  # of which the weights of older O2 checkpoints are rounded copies
    model.set_state_dict({**state['model'], **masters})


def restore(resumed: resume.Checkpoint, optimizer: Any, model: nn.Layer, amp: Amp, steps: int) -> TrainState:
    """The rest, once the weights have the precision of this run: the optimizer's state and the loss scale; returns the
    position in an epoch of ``steps`` micro-batches."""
    restore_optimizer(optimizer, model, resumed.state['optimizer'])
    amp.load_state_dict(resumed.state['scaler'])
    state = resumed.progress
    # With another number of processes an epoch has another number of steps: keep the fraction that is done.
    state.step = state.step * steps // resumed.state['steps']
    if distributed.rank():
        state.loss_sum = state.correct = state.images = 0
    return state
