# SPDX-License-Identifier: Apache-2.0
"""Automatic mixed precision: Paddle's on a GPU (untested: none was available), ours on a CPU."""
from __future__ import annotations

import contextlib
from typing import Any, ContextManager, Dict, Tuple

import paddle
from paddle import nn
from yacs.config import CfgNode

from CaiT import accelerate
from CaiT.errors import InputError


class Amp:
    """Paddle's autocast with ``level`` (O1, O2) and ``dtype`` (bfloat16, float16), or float32 when not ``enabled``.

    With float16 the loss is scaled so that small gradients do not underflow; bfloat16 has the range of float32 and
    needs no scaling. On a CPU Paddle's autocast has no effect: there it is CaiT.accelerate's, always bfloat16 with
    float32 weights, and ``accelerate_for`` returns the line for the log. Raises InputError for float16 on a CPU.
    """

    def __init__(self, config: CfgNode) -> None:
        amp = config.TRAIN.AMP
        on_gpu = paddle.get_device().startswith('gpu')
        self.enabled = config.AMP and on_gpu
        self.on_cpu = config.AMP and paddle.get_device().startswith('cpu')
        if self.on_cpu and amp.DTYPE == 'float16':
            raise InputError('-amp: found TRAIN.AMP.DTYPE float16 on a CPU, expected auto or bfloat16')
        self.level, self.dtype = amp.LEVEL, 'float16' if amp.DTYPE == 'auto' else amp.DTYPE
        scaled = self.enabled and self.dtype == 'float16'
        self.scaler = paddle.amp.GradScaler(init_loss_scaling=2.0 ** 15) if scaled else None
        self.skips_overflow = scaled  # the scaler skips an update whose gradients are not finite
        self.note = ''
        if config.AMP and not self.on_cpu:
            self.note = (f'mixed precision {self.level} {self.dtype}' if self.enabled else
                         f'-amp: {paddle.get_device()} has no mixed precision in Paddle, training in float32')

    def decorate(self, model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> Tuple[nn.Layer, Any]:
        """With O2, convert the weights to ``dtype``; the optimizer holds float32 master weights (and gradients)."""
        if not (self.enabled and self.level == 'O2'):
            return model, optimizer
        return paddle.amp.decorate(model, optimizer, level='O2', dtype=self.dtype, master_weight=True,
                                   master_grad=True, excluded_layers=[nn.LayerNorm])

    def autocast(self) -> ContextManager:
        if self.on_cpu:
            return accelerate.autocast()
        if not self.enabled:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype)

    def backward(self, loss: paddle.Tensor) -> None:
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def unscale(self, optimizer: paddle.optimizer.Optimizer) -> None:
        if self.scaler:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: paddle.optimizer.Optimizer) -> None:
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()

    def state_dict(self) -> Dict[str, Any]:
        """The gradient scaler's state as plain values and arrays; empty without a scaler."""
        state = self.scaler.state_dict() if self.scaler else {}
        return {key: value.numpy() if isinstance(value, paddle.Tensor) else value for key, value in state.items()}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        if self.scaler and state:
            self.scaler.load_state_dict(state)
