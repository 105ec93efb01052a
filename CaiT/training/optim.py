# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules as pure functions of the position in training; optimizers and their parameter groups."""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import paddle
from paddle import _C_ops, nn
from yacs.config import CfgNode

from CaiT.errors import InputError
from CaiT.training.amp import MASTER_NAME

MASTER = 'master_weight'
OLD_SLOT = 'fp32_master_0_'  # within the names of older checkpoints of O2 runs


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the position in epochs, which is fractional: it changes with every update.

    Warm-up is linear from ``warmup_start_lr`` to ``peak_lr`` over ``warmup_epochs``; then ``kind`` applies: 'cosine' or
    'linear' down to ``end_lr``, 'step' (times ``decay`` every ``step_epochs``), 'multistep' (times ``decay`` at each of
    ``milestones``) or 'constant'. The cosine includes the warm-up epochs, as timm's per-update schedule does.
    """
    peak_lr: float
    epochs: int
    warmup_epochs: float = 0
    warmup_start_lr: float = 0.0
    end_lr: float = 0.0
    kind: str = 'cosine'
    step_epochs: int = 30
    decay: float = 0.1
    milestones: Tuple[int, ...] = ()

    def at(self, position: float) -> float:
        """The learning rate ``position`` epochs after the start."""
        if position < self.warmup_epochs:
            return self.warmup_start_lr + (self.peak_lr - self.warmup_start_lr) * position / self.warmup_epochs
        fraction = min(position / self.epochs, 1.0)
        if self.kind == 'cosine':
            return self.end_lr + (self.peak_lr - self.end_lr) * (1 + math.cos(math.pi * fraction)) / 2
        if self.kind == 'linear':
            return self.peak_lr + (self.end_lr - self.peak_lr) * fraction
        if self.kind == 'step':
            return self.peak_lr * self.decay ** (position // self.step_epochs)
        if self.kind == 'multistep':
            return self.peak_lr * self.decay ** sum(position >= milestone for milestone in self.milestones)
        return self.peak_lr


def build_schedule(config: CfgNode, images_per_update: int) -> Tuple[Schedule, str]:
    """The schedule of ``config.TRAIN``, its peak scaled linearly with the global batch size; and lines for the log.

    No learning rate is above the peak: an end, or a start of the warm-up, that would be is lowered to it.
    """
    train = config.TRAIN
    factor = images_per_update / train.LR_BATCH if train.LR_BATCH else 1.0
    warmup_epochs = train.WARMUP_EPOCHS or train.WARMUP_FRACTION * train.EPOCHS
    schedule = Schedule(train.BASE_LR * factor, train.EPOCHS, warmup_epochs, train.WARMUP_START_LR, train.END_LR,
                        train.LR_SCHEDULE, train.LR_STEP, train.LR_DECAY, train.LR_MILESTONES)
    lines = [f'learning rate: base {train.BASE_LR:g} x factor {factor:g} ({images_per_update} images per update / '
             f'{train.LR_BATCH or "unscaled"}) = {schedule.peak_lr:g}']
    # Batch size scales the peak alone; with a small batch it can fall below the two ends, which are given as they are.
    ends = {'TRAIN.WARMUP_START_LR': 'warmup_start_lr'} if warmup_epochs else {}
    if train.LR_SCHEDULE in ('cosine', 'linear'):
        ends['TRAIN.END_LR'] = 'end_lr'
    for key, field in ends.items():
        if getattr(schedule, field) > schedule.peak_lr:
            lines.append(f'warning: {key} {getattr(schedule, field):g} is above the scaled peak '
                         f'{schedule.peak_lr:g} and is lowered to it')
            schedule = dataclasses.replace(schedule, **{field: schedule.peak_lr})
    return schedule, '\n'.join(lines)


def parameter_groups(model: nn.Layer, weight_decay: float, layer_decay: float = 1.0) -> List[Dict[str, Any]]:
    """Groups by weight decay and depth: [{'names', 'params', 'weight_decay', 'learning_rate': scale}].

    One-dimensional parameters (norms, biases, LayerScale) and those of ``model.no_weight_decay()`` (tokens, position
    embedding) have no weight decay. ``layer_decay`` is a learning-rate factor per layer, from the head down to the
    patch embedding.
    """
    no_weight_decay, last_layer = model.no_weight_decay(), model.num_layer_ids - 1
    groups: Dict[Tuple[bool, int], Dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        decays = parameter.ndim > 1 and name not in no_weight_decay
        layer = model.layer_id(name) if layer_decay != 1.0 else last_layer
        group = groups.setdefault((decays, layer), {
            'names': [], 'params': [], 'weight_decay': weight_decay if decays else 0.0,
            'learning_rate': layer_decay ** (last_layer - layer)})
        group['names'].append(name)
        group['params'].append(parameter)
    return list(groups.values())


def build_optimizer(model: nn.Layer, config: CfgNode) -> Tuple[paddle.optimizer.Optimizer, str]:
    """The optimizer of ``config.TRAIN``, and a log line with the number of parameters with and without weight decay.

    The trainer sets the learning rate before every update and clips the gradients.
    """
    train, options = config.TRAIN, config.TRAIN.OPTIMIZER
    groups = parameter_groups(model, train.WEIGHT_DECAY, train.LAYER_DECAY)
    line = 'optimizer: {}, weight decay {:g} on {} tensors ({:,} values), none on {} tensors ({:,} values)'.format(
        options.NAME, train.WEIGHT_DECAY, *_count(groups, True), *_count(groups, False))
    if train.LAYER_DECAY != 1.0:
        line += f', layer decay {train.LAYER_DECAY:g} over {model.num_layer_ids} depths'
    not_decayed = {parameter.name for group in groups if not group['weight_decay'] for parameter in group['params']}
    paddle_groups = [{key: value for key, value in group.items() if key != 'names'} for group in groups]
    betas = dict(beta1=options.BETAS[0], beta2=options.BETAS[1], epsilon=options.EPS)
    lr = train.BASE_LR
    if options.NAME == 'AdamW':
        return paddle.optimizer.AdamW(lr, parameters=paddle_groups, weight_decay=train.WEIGHT_DECAY, **betas), line
    if options.NAME == 'LAMB':
        for group in paddle_groups:
            group.pop('weight_decay')  # would be added to the gradient; lamb_weight_decay enters the trust ratio
        return paddle.optimizer.Lamb(lr, lamb_weight_decay=train.WEIGHT_DECAY, parameters=paddle_groups,
                                     exclude_from_weight_decay_fn=lambda p: p.name in not_decayed, **betas), line
    return paddle.optimizer.Momentum(lr, momentum=options.MOMENTUM, use_nesterov=options.NESTEROV,
                                     parameters=paddle_groups), line


@paddle.no_grad()
def clip_gradients(parameters: Sequence[paddle.Tensor], max_norm: float) -> paddle.Tensor:
    """Scale the gradients in place so that their global norm is at most ``max_norm`` (0: no clipping); returns the norm
    before clipping, a tensor []. Does not wait for the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = _global_norm(gradients)
    if max_norm:
        factor = paddle.clip(max_norm / (norm + 1e-6), max=1.0)
        for gradient in gradients:
            gradient.multiply_(factor)
    return norm


def _global_norm(gradients: Sequence[paddle.Tensor]) -> paddle.Tensor:
    return paddle.stack([_C_ops.squared_l2_norm(g.astype('float32')) for g in gradients]).sum().sqrt()


def _count(groups: List[Dict[str, Any]], decaying: bool) -> Tuple[int, int]:
    """Number of (tensors, values) of the groups with weight decay, or of those without."""
    tensors = [p for group in groups if bool(group['weight_decay']) == decaying for p in group['params']]
    return len(tensors), sum(int(np.prod(p.shape)) for p in tensors)


def optimizer_arrays(optimizer: paddle.optimizer.Optimizer, model: nn.Layer) -> Dict[str, np.ndarray]:
    """The optimizer's accumulators under public names: {'blocks.0.attn.qkv.weight/moment1_0': array}, and with O2 the
    float32 master weights ({'…/master_weight': array}).

    Paddle's own keys are generated names, which depend on the layers created before in the same process; those of a
    parameter with a master weight are made of that one's name.
    """
    state = dict(optimizer.state_dict())
    masters = state.pop('master_weights', {})
    arrays = {}
    for name, parameter in model.named_parameters():
        prefix = f'{parameter.name}_'
        if parameter.name in masters:
            master = masters[parameter.name]
            arrays[f'{name}/{MASTER}'] = np.asarray(master)
            if any(key.startswith(f'{master.name}_') for key in state):
                prefix = f'{master.name}_'
        for key in [key for key in state if key.startswith(prefix)]:
            arrays[f'{name}/{key[len(prefix):]}'] = np.asarray(state.pop(key))
    return arrays


def restore_optimizer(optimizer: paddle.optimizer.Optimizer, model: nn.Layer, arrays: Dict[str, np.ndarray]) -> None:
    """The inverse of ``optimizer_arrays``; InputError for a parameter that the model does not have.

    The arrays may be those of another precision: master weights are used where the model has half weights.
    """
    parameters = dict(model.named_parameters())
    masters = dict(getattr(optimizer, '_master_weights', {}))
    for key, array in arrays.items():
        name, slot = key.split('/')
        if name not in parameters:
            raise InputError(f'optimizer state: parameter {name} is not in this model')
        generated = parameters[name].name
        if slot == MASTER and generated in masters:
            masters[generated].set_value(array)
        elif slot == MASTER and parameters[name].dtype != paddle.float32:
            masters[generated] = paddle.to_tensor(array)
            masters[generated].name = MASTER_NAME.format(generated)  # Paddle names the accumulators after it
    state: Dict[str, Any] = {}
    for key, array in arrays.items():
        name, slot = key.split('/')
        generated = parameters[name].name
        if slot != MASTER:
            owner = masters[generated].name if generated in masters else generated
            state[f'{owner}_{slot.replace(OLD_SLOT, "")}'] = paddle.to_tensor(array)
    if masters:
        state['master_weights'] = masters
    optimizer.set_state_dict(state)
