# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average (EMA) of the weights, in float32 whatever the training dtype: of the master weights."""
from __future__ import annotations

import contextlib
from typing import Dict, Iterator

import numpy as np
import paddle
from paddle import nn

from CaiT.training.amp import float32_weights


class Ema:
    """average <- decay * average + (1 - decay) * weights at each ``update``; initialized with the weights."""

    def __init__(self, model: nn.Layer, decay: float) -> None:
        self.decay = decay
        self.average = {name: weight.clone().detach() for name, weight in float32_weights(model)}

    @paddle.no_grad()
    def update(self, model: nn.Layer) -> None:
        for name, weight in float32_weights(model):
            average = self.average[name]
            average.scale_(self.decay)
            average.add_(weight * (1 - self.decay))

    @contextlib.contextmanager
    def applied(self, model: nn.Layer) -> Iterator[None]:
        """Within the block ``model`` holds the averaged weights; afterwards its own, restored bit for bit."""
        original = {name: parameter.numpy() for name, parameter in model.named_parameters()}
        try:
            for name, parameter in model.named_parameters():
                parameter.set_value(self.average[name].astype(parameter.dtype))
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.set_value(original[name])

    def arrays(self) -> Dict[str, np.ndarray]:
        return {name: average.numpy() for name, average in self.average.items()}

    def restore(self, arrays: Dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self.average[name].set_value(array)
