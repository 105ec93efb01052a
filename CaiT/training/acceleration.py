# SPDX-License-Identifier: Apache-2.0
"""Whether a run is accelerated on a CPU, and the log line that says so."""
from __future__ import annotations

from paddle import nn
from yacs.config import CfgNode

from CaiT.accelerate import accelerate


def accelerate_for(config: CfgNode, model: nn.Layer) -> str:
    """Accelerate ``model`` unless ``config`` says otherwise; returns the line for the log."""
    if not config.TRAIN.ACCELERATE:
        return 'acceleration: off (TRAIN.ACCELERATE False)'
    if config.TRAIN.TO_STATIC:
        return 'acceleration: off, TRAIN.TO_STATIC compiles the plain model'
    return accelerate(model)
