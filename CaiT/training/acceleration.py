# SPDX-License-Identifier: Apache-2.0
"""Whether a run is accelerated on a CPU, and the log line that says so."""
from __future__ import annotations

import paddle
from paddle import nn
from yacs.config import CfgNode

from CaiT.accelerate import accelerate, mixed_precision_line


def accelerate_for(config: CfgNode, model: nn.Layer) -> str:
    """Accelerate ``model`` unless ``config`` says otherwise; returns the line for the log, and with -amp on a CPU a
    second one, on mixed precision."""
    off = ''
    if not config.TRAIN.ACCELERATE:
        off = 'off (TRAIN.ACCELERATE False)'
    elif config.TRAIN.TO_STATIC:
        off = 'off, TRAIN.TO_STATIC compiles the plain model'
    line = f'acceleration: {off}' if off else accelerate(model)
    if not config.AMP or not paddle.get_device().startswith('cpu'):
        return line
    if line.startswith('acceleration: off'):
        return f'{line}\nmixed precision: none, float32, because acceleration is off'
    return f'{line}\n{mixed_precision_line(model)}'
