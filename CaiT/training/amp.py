# SPDX-License-Identifier: Apache-2.0
"""Automatic mixed precision (AMP). On a CPU it is CaiT.accelerate's. Paddle's, on a GPU, was never run on one: read
against Paddle 3.3.1's source and run on a simulated device (CaiT/tools/simulated_gpu.py); docs/gpu.md lists what was
seen and what was not."""
from __future__ import annotations

import contextlib
import math
from typing import Any, ContextManager, Dict, Iterator, List, Optional, Tuple

import numpy as np
import paddle
from paddle import nn
from paddle.base import core
from yacs.config import CfgNode

from CaiT import accelerate
from CaiT.errors import InputError, NonFiniteError, shown

# Compute capability from which a GPU computes in a dtype. Below it Paddle (3.3.1, amp/auto_cast.py) switches autocast
# off with no more than a warning.
GPU_CAPABILITY = {'float16': 7, 'bfloat16': 8}
MASTER_NAME = '{}_fp32_master_0'  # as Paddle's optimizers name the master weight of a parameter


def decide(device: str, level: str, dtype: str, job: str = 'training') -> Tuple[bool, str]:
    """Whether Paddle computes in ``dtype`` with ``-amp`` on ``device`` ('cpu', 'gpu:0'), and the line for the log.

    The only place that decides, but for CPUs, where ``accelerate_for`` returns the line. InputError for float16 on a
    CPU and for a GPU that lacks ``dtype``: Paddle would compute in float32 instead.
    """
    if device.startswith('cpu'):
        if dtype == 'float16':
            raise InputError('-amp: found TRAIN.AMP.DTYPE float16 on a CPU, expected auto or bfloat16')
        return False, ''
    if not device.startswith('gpu'):
        return False, f'-amp: {device} has no mixed precision in Paddle, {job} in float32'
    major, minor = paddle.device.cuda.get_device_capability()
    if major < GPU_CAPABILITY[dtype]:
        instead = ', or TRAIN.AMP.DTYPE float16' if major >= GPU_CAPABILITY['float16'] else ''
        raise InputError(f'-amp: TRAIN.AMP.DTYPE {dtype}: found {device} of compute capability {major}.{minor}, '
                         f'expected {GPU_CAPABILITY[dtype]}.0 or higher{instead}')
    return True, f'mixed precision {level} {dtype}'


class LossScale:
    """The factor of a float16 loss that keeps small gradients from underflow: doubled after ``growth_interval``
    updates, halved after one whose gradients are not finite, which is skipped.

    Paddle's GradScaler does the same, but (3.3.1, amp/grad_scaler.py) prints ``float(scale)`` of a tensor of shape [1]
    when it skips an update, which raises TypeError with NumPy 2.4. The numbers are its defaults.
    """
    growth_interval = 2000

    def __init__(self, factor: float = 2.0 ** 15) -> None:
        self.factor, self.good = factor, 0

    def update(self, finite: bool) -> None:
        """After an update (``finite``) or a skipped one. NonFiniteError when no factor would help."""
        if not finite:
            if self.factor <= 1.0:
                raise NonFiniteError('float16 gradients are not finite even without a loss scale')
            self.factor, self.good = self.factor / 2, 0
        elif self.good + 1 == self.growth_interval:
            self.factor, self.good = self.factor * 2, 0
        else:
            self.good += 1

    def state_dict(self) -> Dict[str, Any]:
        return {'scale': np.float32([self.factor]), 'incr_count': self.good}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Of this class, or of Paddle's GradScaler in older checkpoints."""
        try:
            factor, good = float(np.reshape(state['scale'], -1)[0]), int(state['incr_count'])
        except (KeyError, IndexError, TypeError, ValueError):
            factor = good = -1
        if not (math.isfinite(factor) and factor > 0 and 0 <= good):
            raise InputError(f'scaler: found {shown(str(state))}, expected a positive scale and a count of updates')
        self.factor, self.good = factor, min(good, self.growth_interval - 1)


class Amp:
    """Mixed precision as ``level`` and ``dtype`` say, or float32 when not ``enabled``; ``note`` is a line for the log.

    O1: parameters are float32, Paddle casts the inputs of products. O2: the weights of products (``nn.Linear``,
    convolutions, talking heads) are stored in ``dtype``, and each has a float32 master weight, which the optimizer
    updates, and of which the moving average and the saved weights are made. All other parameters stay float32:
    LayerNorm, tokens, the position embedding and LayerScale, whose 1e-6 float16 cannot represent. Gradients are float32
    in both.
    """

    def __init__(self, config: CfgNode, job: str = 'training') -> None:
        self.level, self.dtype, device = config.TRAIN.AMP.LEVEL, config.TRAIN.AMP.DTYPE, paddle.get_device()
        self.on_cpu, self.enabled, self.note = config.AMP and device.startswith('cpu'), False, ''
        if self.dtype == 'auto':
            self.dtype = 'bfloat16' if device.startswith('cpu') else 'float16'
        if config.AMP:
            self.enabled, self.note = decide(device, self.level, self.dtype, job)
        self.scaler = LossScale() if self.enabled and self.dtype == 'float16' else None
        self.skips_overflow = self.scaler is not None  # an update whose gradients are not finite is skipped
        self.stores_half = self.enabled and self.level == 'O2'
        self._sums: Dict[str, paddle.Tensor] = {}  # of the gradients of earlier micro-batches

    def decorate(self, model: nn.Layer, optimizer: Optional[paddle.optimizer.Optimizer] = None) -> None:
        """With O2, store the weights of products in ``dtype`` and give the optimizer their float32 values."""
        if not self.stores_half:
            return
        exact = {name: parameter.astype('float32').clone().detach() for name, parameter in model.named_parameters()}
        paddle.amp.decorate(model, level='O2', dtype=self.dtype, excluded_layers=kept_in_float32(model))
        if optimizer is None:
            return
        optimizer._multi_precision = True  # Paddle's decorate sets it too, but makes masters of the rounded values
        for name, parameter in model.named_parameters():
            if parameter.dtype != paddle.float32:
                master = parameter.master = exact[name]
                master.name = MASTER_NAME.format(parameter.name)
                if not parameter.stop_gradient:
                    optimizer._master_weights[parameter.name] = master

    def autocast(self) -> ContextManager:
        if self.on_cpu:
            return accelerate.autocast()
        if not self.enabled:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype)

    def backward(self, loss: paddle.Tensor) -> None:
        (loss * self.scaler.factor if self.scaler else loss).backward()

    @paddle.no_grad()
    def collect(self, parameters: List[paddle.Tensor], last: bool) -> None:
        """After each backward pass: with O2 make the gradients float32 and sum them over micro-batches, up to the
        ``last``. Paddle cannot add a half gradient to a float32 one."""
        if not self.stores_half:
            return
        half = [p for p in parameters if p.dtype != paddle.float32 and p.grad is not None]
        core.eager.set_master_grads(half)
        for parameter in half:
            total = self._sums.pop(parameter.name, None)
            if total is not None:
                parameter.grad.add_(total)
            if not last:
                self._sums[parameter.name] = parameter.grad.clone().detach()
                parameter.clear_gradient(False)

    @paddle.no_grad()
    def unscale(self, parameters: List[paddle.Tensor]) -> None:
        if self.scaler:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.scale_(1 / self.scaler.factor)

    def step(self, optimizer: paddle.optimizer.Optimizer, finite: bool = True) -> bool:
        """Update the weights, or skip the update with float16 gradients that are not ``finite``; whether it did."""
        if self.scaler:
            self.scaler.update(finite)
            if not finite:
                return False
        optimizer.step()
        return True

    def state_dict(self) -> Dict[str, Any]:
        """The loss scale as plain values and arrays; empty without one."""
        return self.scaler.state_dict() if self.scaler else {}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        if self.scaler and state:
            self.scaler.load_state_dict(state)


def kept_in_float32(model: nn.Layer) -> List[type]:
    """Classes of the layers whose own parameters stay float32 with O2: LayerNorm, and those with learned parameters
    that are not the weight and bias of a product (tokens, position embedding, LayerScale)."""
    return list({type(layer) for layer in model.sublayers(include_self=True)
                 if isinstance(layer, nn.LayerNorm) or set(layer._parameters) - {'weight', 'bias'}})


def float32_weights(model: nn.Layer) -> Iterator[Tuple[str, paddle.Tensor]]:
    """(name, float32 tensor) of each parameter: its master weight where O2 has made one."""
    for name, parameter in model.named_parameters():
        yield name, getattr(parameter, 'master', parameter).astype('float32')
