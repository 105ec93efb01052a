# SPDX-License-Identifier: Apache-2.0
"""Mixed precision, where the device has it. Written and reviewed, not run: no GPU was at hand."""
from __future__ import annotations

import contextlib
from typing import Any, ContextManager, Dict, Tuple

import paddle
from paddle import nn
from yacs.config import CfgNode


class Precision:
    """Float32, or Paddle's autocast of ``level`` (O1, O2) and ``dtype`` (bfloat16, float16).

    float16 scales the loss so that small gradients survive; bfloat16 has float32's range and needs no scale. On a CPU
    Paddle's autocast silently does nothing, so there training is float32 and ``note`` says so.
    """

    def __init__(self, config: CfgNode) -> None:
        amp = config.TRAIN.AMP
        on_gpu = paddle.get_device().startswith('gpu')
        self.enabled = config.AMP and on_gpu
        self.level, self.dtype = amp.LEVEL, amp.DTYPE
        scaled = self.enabled and self.dtype == 'float16'
        self.scaler = paddle.amp.GradScaler(init_loss_scaling=2.0 ** 15) if scaled else None
        self.note = ''
        if config.AMP:
            self.note = (f'mixed precision {self.level} {self.dtype}' if self.enabled else
                         f'-amp: {paddle.get_device()} has no mixed precision in Paddle, training in float32')

    def decorate(self, model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> Tuple[nn.Layer, Any]:
        """O2 keeps the weights in ``dtype`` and their float32 masters (and gradients) in the optimiser."""
        if not (self.enabled and self.level == 'O2'):
            return model, optimizer
        return paddle.amp.decorate(model, optimizer, level='O2', dtype=self.dtype, master_weight=True,
                                   master_grad=True, excluded_layers=[nn.LayerNorm])

    def autocast(self) -> ContextManager:
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

    def state(self) -> Dict[str, Any]:
        """The scaler's state as plain values and arrays; empty without one."""
        state = self.scaler.state_dict() if self.scaler else {}
        return {key: value.numpy() if isinstance(value, paddle.Tensor) else value for key, value in state.items()}

    def restore(self, state: Dict[str, Any]) -> None:
        if self.scaler and state:
            self.scaler.load_state_dict(state)
