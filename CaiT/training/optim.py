# SPDX-License-Identifier: Apache-2.0
"""Learning rates as pure functions of the position in training, and optimisers with their parameter groups."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import paddle
from paddle import _C_ops, nn
from yacs.config import CfgNode

from CaiT.errors import InputError

MASTER = 'master_weight'


@dataclass(frozen=True)
class Schedule:
    """The learning rate at a position in epochs (a fraction inside an epoch: the rate changes with every update).

    Warm-up rises linearly from ``start`` to ``peak`` over ``warmup`` epochs; then ``kind`` leads to ``end``:
    'cosine', 'linear', 'step' (times ``rate`` every ``every`` epochs), 'multistep' (times ``rate`` at each milestone)
    or 'constant'. Cosine counts the warm-up among its epochs, as timm's per-update schedule does.
    """
    peak: float
    epochs: int
    warmup: int = 0
    start: float = 0.0
    end: float = 0.0
    kind: str = 'cosine'
    every: int = 30
    rate: float = 0.1
    milestones: Tuple[int, ...] = ()

    def at(self, position: float) -> float:
        if position < self.warmup:
            return self.start + (self.peak - self.start) * position / self.warmup
        done = min(position / self.epochs, 1.0)
        if self.kind == 'cosine':
            return self.end + (self.peak - self.end) * (1 + math.cos(math.pi * done)) / 2
        if self.kind == 'linear':
            return self.peak + (self.end - self.peak) * done
        if self.kind == 'step':
            return self.peak * self.rate ** (position // self.every)
        if self.kind == 'multistep':
            return self.peak * self.rate ** sum(position >= milestone for milestone in self.milestones)
        return self.peak


def build_schedule(config: CfgNode, pictures_per_update: int) -> Tuple[Schedule, str]:
    """The schedule of ``config.TRAIN`` with its peak scaled linearly to the global batch, and a line that says so."""
    train = config.TRAIN
    factor = pictures_per_update / train.LR_BATCH if train.LR_BATCH else 1.0
    schedule = Schedule(train.BASE_LR * factor, train.EPOCHS, train.WARMUP_EPOCHS, train.WARMUP_START_LR, train.END_LR,
                        train.LR_SCHEDULE, train.LR_STEP, train.LR_DECAY, train.LR_MILESTONES)
    line = (f'learning rate: base {train.BASE_LR:g} x factor {factor:g} ({pictures_per_update} pictures per update / '
            f'{train.LR_BATCH or "unscaled"}) = {schedule.peak:g}')
    return schedule, line


def parameter_groups(model: nn.Layer, weight_decay: float, layer_decay: float = 1.0) -> List[Dict[str, Any]]:
    """Groups by weight decay and depth: [{'names', 'params', 'weight_decay', 'learning_rate': scale}].

    Parameters of one axis (norms, biases, LayerScale) and those the model names (tokens, position embedding) do not
    decay. With ``layer_decay`` < 1 the rate shrinks by that factor per layer from the head down to the embedding.
    """
    skip, last = model.no_weight_decay(), model.num_layer_ids - 1
    groups: Dict[Tuple[bool, int], Dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        decays = parameter.ndim > 1 and name not in skip
        depth = model.layer_id(name) if layer_decay != 1.0 else last
        group = groups.setdefault((decays, depth), {
            'names': [], 'params': [], 'weight_decay': weight_decay if decays else 0.0,
            'learning_rate': layer_decay ** (last - depth)})
        group['names'].append(name)
        group['params'].append(parameter)
    return list(groups.values())


def build_optimizer(model: nn.Layer, config: CfgNode) -> Tuple[paddle.optimizer.Optimizer, str]:
    """The optimiser of ``config.TRAIN``, and a line that counts what decays and what does not.

    Its learning rate is set by the trainer before every update; clipping is the trainer's too.
    """
    train, options = config.TRAIN, config.TRAIN.OPTIMIZER
    groups = parameter_groups(model, train.WEIGHT_DECAY, train.LAYER_DECAY)
    line = 'optimizer: {}, weight decay {:g} on {} tensors ({:,} values), none on {} tensors ({:,} values)'.format(
        options.NAME, train.WEIGHT_DECAY, *_count(groups, True), *_count(groups, False))
    if train.LAYER_DECAY != 1.0:
        line += f', layer decay {train.LAYER_DECAY:g} over {model.num_layer_ids} depths'
    still = {name for group in groups if not group['weight_decay'] for name in
             (parameter.name for parameter in group['params'])}
    plain = [{key: value for key, value in group.items() if key != 'names'} for group in groups]
    betas = dict(beta1=options.BETAS[0], beta2=options.BETAS[1], epsilon=options.EPS)
    rate = train.BASE_LR
    if options.NAME == 'AdamW':
        return paddle.optimizer.AdamW(rate, parameters=plain, weight_decay=train.WEIGHT_DECAY, **betas), line
    if options.NAME == 'LAMB':
        for group in plain:
            group.pop('weight_decay')  # LAMB's own takes part in its trust ratio; the group's would join the gradient
        return paddle.optimizer.Lamb(rate, lamb_weight_decay=train.WEIGHT_DECAY, parameters=plain,
                                     exclude_from_weight_decay_fn=lambda p: p.name in still, **betas), line
    return paddle.optimizer.Momentum(rate, momentum=options.MOMENTUM, use_nesterov=options.NESTEROV,
                                     parameters=plain), line


@paddle.no_grad()
def clip_gradients(parameters: Sequence[paddle.Tensor], largest: float) -> float:
    """The global norm of the gradients; where it exceeds ``largest`` (0: never) they are scaled down in place."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = paddle.stack([_C_ops.squared_l2_norm(g.astype('float32')) for g in gradients]).sum().sqrt().item()
    if largest and norm > largest:
        for gradient in gradients:
            gradient.scale_(largest / (norm + 1e-6))
    return norm


def _count(groups: List[Dict[str, Any]], decaying: bool) -> Tuple[int, int]:
    """(tensors, values) of the groups that decay, or of those that do not."""
    tensors = [p for group in groups if bool(group['weight_decay']) == decaying for p in group['params']]
    return len(tensors), sum(int(np.prod(p.shape)) for p in tensors)


def optimizer_arrays(optimizer: paddle.optimizer.Optimizer, model: nn.Layer) -> Dict[str, np.ndarray]:
    """The optimiser's accumulators under public names: {'blocks.0.attn.qkv.weight/moment1_0': array}, and with O2 the
    float32 weights behind the half-precision ones ({'…/master_weight': array}).

    Paddle keys them by automatic names that depend on what else was built in the process.
    """
    state = dict(optimizer.state_dict())
    masters = state.pop('master_weights', {})
    arrays = {}
    for name, parameter in model.named_parameters():
        if parameter.name in masters:
            arrays[f'{name}/{MASTER}'] = np.asarray(masters[parameter.name])
        prefix = f'{parameter.name}_'
        for key in [key for key in state if key.startswith(prefix)]:
            arrays[f'{name}/{key[len(prefix):]}'] = np.asarray(state.pop(key))
    return arrays


def restore_optimizer(optimizer: paddle.optimizer.Optimizer, model: nn.Layer, arrays: Dict[str, np.ndarray]) -> None:
    """Give the optimiser back what ``optimizer_arrays`` took; InputError when a parameter is not of this model."""
    automatic = {name: parameter.name for name, parameter in model.named_parameters()}
    state, masters = {}, {}
    for key, array in arrays.items():
        name, slot = key.split('/')
        if name not in automatic:
            raise InputError(f'optimizer state: parameter {name} is not in this model')
        if slot == MASTER:
            masters[automatic[name]] = paddle.to_tensor(array)
        else:
            state[f'{automatic[name]}_{slot}'] = paddle.to_tensor(array)
    if masters:
        state['master_weights'] = masters
    optimizer.set_state_dict(state)
