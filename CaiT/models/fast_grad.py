# SPDX-License-Identifier: Apache-2.0
"""Operations whose backward pass Paddle's CPU kernels make slow, with their own, written as matrix products.

Paddle sums the gradient of a broadcast parameter (a bias, LayerScale, talking heads) in one slow thread; a product with
a vector of ones is the same sum, many times faster. The forward passes are the plain ones, to the bit. ``wanted``
decides for all of them.
"""
from __future__ import annotations

import functools
from typing import Any, Optional, Tuple

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

Gradients = Tuple[paddle.Tensor, ...]


def wanted(*tensors: paddle.Tensor) -> bool:
    """Whether an operation on these tensors takes its own backward pass: eager float32 on a CPU, all of them learning.
    Exports, compiled training, evaluation without gradients, GPUs, half precision and frozen parameters do not."""
    return paddle.in_dynamic_mode() and all(
        not t.stop_gradient and t.dtype == paddle.float32 and t.place.is_cpu_place() for t in tensors)


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: Optional[paddle.Tensor]) -> paddle.Tensor:
    """x [..., in] times weight [in, out] plus bias [out]."""
    if bias is not None and wanted(x, weight, bias):
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def layer_norm(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """Normalised over the last axis C of x [..., C], times weight [C] plus bias [C]."""
    if wanted(x, weight, bias):
        return _LayerNorm.apply(x, weight, bias, epsilon)
    return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)


def mix(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """The heads of x [B, H, P] mixed by weight [in, out] plus bias [H]."""
    if wanted(x, weight, bias):
        return _Mix.apply(x, weight, bias)
    return _plain_mix(x, weight, bias)


def scale(x: paddle.Tensor, gamma: paddle.Tensor) -> paddle.Tensor:
    """LayerScale: x [..., C] times gamma [C]."""
    return _Scale.apply(x, gamma) if wanted(x, gamma) else x * gamma


def _plain_mix(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    return paddle.matmul(weight, x, transpose_x=True) + bias.unsqueeze(-1)


@functools.lru_cache(maxsize=64)
def _filled(value: float, *shape: int) -> paddle.Tensor:
    return paddle.full(shape, value)


def _column_sums(x: paddle.Tensor) -> paddle.Tensor:
    """[R, C] to [C]."""
    return paddle.matmul(_filled(1.0, 1, x.shape[0]), x).reshape([-1])


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        x, weight = ctx.saved_tensor()
        inputs, outputs = weight.shape
        rows = grad.reshape([-1, outputs])
        return (paddle.matmul(rows, weight, transpose_y=True).reshape(x.shape),
                paddle.matmul(x.reshape([-1, inputs]), rows, transpose_x=True), _column_sums(rows))


class _LayerNorm(PyLayer):
    """With n the normalised x, s its 1 / standard deviation and g the gradient:
    dx = (g w - mean(g w) - n mean(g w n)) s, means over C, taken by products with w / C."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor,
                epsilon: float) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        return F.layer_norm(x, weight.shape, weight, bias, epsilon)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        saved, weight = ctx.saved_tensor()
        width = weight.shape[0]
        x, grad = saved.reshape([-1, width]), grad.reshape([-1, width])  # [R, C]
        mean = _filled(1.0 / width, width, 1)
        x = x - paddle.matmul(x, mean)
        inverse = (paddle.matmul(x * x, mean) + ctx.epsilon).rsqrt()  # [R, 1]
        x = x * inverse
        product, share = grad * x, (weight / width).unsqueeze(-1)
        back = (grad * weight - paddle.matmul(grad, share) - x * paddle.matmul(product, share)) * inverse
        return back.reshape(saved.shape), _column_sums(product), _column_sums(grad)


class _Mix(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        return _plain_mix(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        x, weight = ctx.saved_tensor()
        return (paddle.matmul(weight, grad), paddle.matmul(x, grad, transpose_y=True).sum(0),
                paddle.matmul(grad, _filled(1.0, grad.shape[2], 1)).sum(0).reshape([-1]))


class _Scale(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, gamma: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x, gamma)
        return x * gamma

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        x, gamma = ctx.saved_tensor()
        return grad * gamma, _column_sums((grad * x).reshape([-1, gamma.shape[0]]))
