# SPDX-License-Identifier: Apache-2.0
"""The inference graph in Paddle: operations for graph.compute, and the layer that ``paddle.jit.save`` writes."""
from __future__ import annotations

from typing import List, Optional, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.deploy.graph import compute
from CaiT.deploy.network import EPS, Array, Network


class PaddleOps:
    """graph.Ops on Paddle tensors; arrays become parameters of ``layer`` when they are first used."""

    def __init__(self, layer: nn.Layer) -> None:
        self.layer = layer

    def array(self, name: str, value: Array) -> paddle.Tensor:
        name = name.replace('.', '__')
        if name not in self.layer._parameters:
            value = np.ascontiguousarray(value, np.float32)
            initial = nn.initializer.Assign(value)
            self.layer.add_parameter(name, self.layer.create_parameter(list(value.shape), default_initializer=initial))
        return getattr(self.layer, name)  # in a static trace, its variable

    def linear(self, x: paddle.Tensor, name: str, weight: Array, bias: Optional[Array]) -> paddle.Tensor:
        return F.linear(x, self.array(f'{name}.weight', weight), self._maybe(f'{name}.bias', bias))

    def matmul(self, x: paddle.Tensor, y: paddle.Tensor, transpose_y: bool = False) -> paddle.Tensor:
        return paddle.matmul(x, y, transpose_y=transpose_y)

    def add(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        return x + y

    def multiply(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        return x * y

    def reshape(self, x: paddle.Tensor, shape: Sequence[int]) -> paddle.Tensor:
        return x.reshape(list(shape))

    def transpose(self, x: paddle.Tensor, axes: Sequence[int]) -> paddle.Tensor:
        return x.transpose(list(axes))

    def split(self, x: paddle.Tensor, axis: int, sizes: Sequence[int]) -> List[paddle.Tensor]:
        return paddle.split(x, list(sizes), axis)

    def concat(self, parts: Sequence[paddle.Tensor], axis: int) -> paddle.Tensor:
        return paddle.concat(list(parts), axis)

    def softmax(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.softmax(x)

    def gelu(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.gelu(x)

    def layer_norm(self, x: paddle.Tensor, name: str, weight: Optional[Array], bias: Optional[Array]) -> paddle.Tensor:
        return F.layer_norm(x, x.shape[-1:], self._maybe(f'{name}.weight', weight), self._maybe(f'{name}.bias', bias),
                            EPS)

    def conv(self, x: paddle.Tensor, name: str, weight: Array, bias: Optional[Array]) -> paddle.Tensor:
        return F.conv2d(x, self.array(f'{name}.weight', weight), self._maybe(f'{name}.bias', bias), weight.shape[-1])

    def to_float(self, x: paddle.Tensor) -> paddle.Tensor:
        return x.astype('float32')

    def expand_batch(self, row: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
        return row.expand([paddle.shape(like)[0], *row.shape[1:]])

    def _maybe(self, name: str, value: Optional[Array]) -> Optional[paddle.Tensor]:
        return None if value is None else self.array(name, value)


class InferenceLayer(nn.Layer):
    """A ``Network`` as a Paddle layer."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net, self.ops = net, PaddleOps(self)
        with paddle.no_grad():
            self(paddle.zeros(self.shape(1), self.dtype))  # registers the parameters
        self.eval()

    @property
    def dtype(self) -> str:
        """Data type of the images."""
        return 'uint8' if self.net.input == 'uint8' else 'float32'

    def shape(self, batch: Optional[int]) -> list:
        """Shape of ``batch`` images; None for a dynamic batch size."""
        size = self.net.image_size
        return [batch, size, size, 3] if self.net.input == 'uint8' else [batch, 3, size, size]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return _compute(self.net, self.ops, x)


class PlainLayer(nn.Layer):
    """A model as it is, for families whose graph is not rewritten; with ``mean`` and ``std`` it takes raw images."""

    def __init__(self, model: nn.Layer, image_size: int, statistics: Optional[Sequence[Sequence[float]]]) -> None:
        super().__init__()
        self.model, self.image_size, self.raw = model, image_size, statistics is not None
        if statistics:
            mean, std = (np.asarray(values, np.float64).reshape(1, 3, 1, 1) for values in statistics)
            self.register_buffer('factor', paddle.to_tensor((1 / (255 * std)).astype(np.float32)))
            self.register_buffer('shift', paddle.to_tensor((mean / std).astype(np.float32)))
        self.eval()

    @property
    def dtype(self) -> str:
        """Type of the images."""
        return 'uint8' if self.raw else 'float32'

    def shape(self, batch: Optional[int]) -> list:
        """Shape of ``batch`` images; None where it is free."""
        size = self.image_size
        return [batch, size, size, 3] if self.raw else [batch, 3, size, size]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.raw:
            x = x.astype('float32').transpose([0, 3, 1, 2]) * self.factor - self.shift
        return self.model(x)


# No control flow depends on a tensor's value, so the function is traced as it is. Rewriting it for dynamic control flow
# would take longer than the rest of an export.
_compute = paddle.jit.not_to_static(compute)
