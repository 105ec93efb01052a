# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average (EMA) of the weights, in float32 whatever the training dtype: of the master weights."""
from __future__ import annotations

import contextlib
from typing import Dict, Iterator, List, Tuple

import numpy as np
import paddle
from paddle import _C_ops, nn

from CaiT.training.amp import float32_weights

CHUNK = 1 << 18  # values that are averaged in one call: few calls, and a copy of the weights that fits a CPU's cache


class Ema:
    """average <- decay * average + (1 - decay) * weights at each ``update``; initialized with the weights.

    The averages lie one after the other in a few arrays, so that an update is a few calls per array and not per weight.
    """

    def __init__(self, model: nn.Layer, decay: float) -> None:
        self.decay = decay
        weights = dict(float32_weights(model))
        self.shapes = {name: list(weight.shape) for name, weight in weights.items()}
        self.chunks: List[Tuple[List[str], paddle.Tensor]] = []  # names, and their averages [values]
        names: List[str] = []
        for name in weights:
            if names and sum(weights[one].size for one in (*names, name)) > CHUNK:
                self.chunks.append((names, _joined([weights[one] for one in names])))
                names = []
            names.append(name)
        self.chunks.append((names, _joined([weights[one] for one in names])))

    @paddle.no_grad()
    def update(self, model: nn.Layer) -> None:
        weights = dict(float32_weights(model))
        for names, average in self.chunks:
            latest = _joined([weights[name] for name in names])
            latest.scale_(1 - self.decay)
            average.scale_(self.decay)
            average.add_(latest)

    @contextlib.contextmanager
    def applied(self, model: nn.Layer) -> Iterator[None]:
        """Within the block ``model`` holds the averaged weights; afterwards its own, restored bit for bit."""
        original = {name: parameter.numpy() for name, parameter in model.named_parameters()}
        averages = self.arrays()
        try:
            for name, parameter in model.named_parameters():
                parameter.set_value(paddle.to_tensor(averages.pop(name)).astype(parameter.dtype))
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.set_value(original[name])

    def arrays(self) -> Dict[str, np.ndarray]:
        """A copy of the averages by the weights' names."""
        found = {}
        for names, average in self.chunks:
            values, start = average.numpy(), 0
            for name in names:
                end = start + int(np.prod(self.shapes[name]))
                found[name] = values[start:end].reshape(self.shapes[name])
                start = end
        return found

    def restore(self, arrays: Dict[str, np.ndarray]) -> None:
        """The inverse of ``arrays``; InputError was raised before for names or shapes that differ."""
        for names, average in self.chunks:
            average.set_value(np.concatenate([np.asarray(arrays[name]).reshape(-1) for name in names]))


def _joined(tensors: List[paddle.Tensor]) -> paddle.Tensor:
    """A new array [values] of float32 tensors one after the other, in one call."""
    return _C_ops.coalesce_tensor([tensor.detach() for tensor in tensors], paddle.float32, True, False, False, 0.0,
                                  False, -1, -1, [], [])[1]
