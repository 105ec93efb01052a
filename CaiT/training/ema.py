# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of the weights, in float32 whatever the model trains in."""
from __future__ import annotations

import contextlib
from typing import Dict, Iterator

import numpy as np
import paddle
from paddle import nn


class Ema:
    """average <- decay * average + (1 - decay) * weights, after every update; starts at the weights themselves."""

    def __init__(self, model: nn.Layer, decay: float) -> None:
        self.decay = decay
        self.average = {name: p.astype('float32').clone().detach() for name, p in model.named_parameters()}

    @paddle.no_grad()
    def update(self, model: nn.Layer) -> None:
        for name, parameter in model.named_parameters():
            average = self.average[name]
            average.scale_(self.decay)
            average.add_(parameter.astype('float32') * (1 - self.decay))

    @contextlib.contextmanager
    def applied(self, model: nn.Layer) -> Iterator[None]:
        """Within the block the model holds the average; after it, bit for bit what it held before."""
        own = {name: parameter.numpy() for name, parameter in model.named_parameters()}
        try:
            for name, parameter in model.named_parameters():
                parameter.set_value(self.average[name].astype(parameter.dtype))
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.set_value(own[name])

    def arrays(self) -> Dict[str, np.ndarray]:
        return {name: average.numpy() for name, average in self.average.items()}

    def restore(self, arrays: Dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self.average[name].set_value(array)
