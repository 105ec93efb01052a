# SPDX-License-Identifier: Apache-2.0
"""The accelerated operations with their gradients.

Paddle's eager CPU kernels make training slow there: a bias gradient, GELU or LayerNorm costs as much as the matrix
product beside it. ``is_eligible`` decides for all operations; where it says no, Paddle's own run.
"""
from __future__ import annotations

from typing import Any, Optional, Sequence

import numpy as np
import paddle

from CaiT.accelerate import tensor_ops as ops
from CaiT.accelerate.branches import Attention, Mlp, Selection
from CaiT.accelerate.onednn import FLOAT32
from CaiT.accelerate.pylayer import Function, Gradients, apply

# not_to_static: Paddle 3.0 translates what a model could call even where ``is_eligible`` does not let it.
Parameters = Sequence[Optional[paddle.Tensor]]


def is_eligible(*tensors: Optional[paddle.Tensor]) -> bool:
    """Whether an operation on these tensors can be accelerated: eager mode, dense float32 on a CPU, and gradients
    wanted of all of them or of none. Exports, compiled training, GPUs, half precision, partly frozen layers and layers
    without bias (None) are not, nor is anything while Paddle's stride kernels are on, which make transposes views."""
    if not paddle.in_dynamic_mode() or any(
            t is None or t.dtype != paddle.float32 or not t.place.is_cpu_place() or not t.is_contiguous()
            for t in tensors):
        return False
    if paddle.is_grad_enabled() and len({t.stop_gradient for t in tensors}) > 1:
        return False
    return not paddle.get_flags('FLAGS_use_stride_kernel')['FLAGS_use_stride_kernel']


def is_supported_attention(batch: int, tokens: int) -> bool:
    """Whether ``attention`` can run a batch of this size. oneDNN 3.6 misreads queries and keys that lie side by side
    when an image's step, 3 * N * C values, equals B * C: its results are wrong then."""
    return batch != 3 * tokens


@paddle.jit.not_to_static
def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """x [..., in] times weight [in, out] plus bias [out]."""
    return apply(_Linear, x, weight, bias)


@paddle.jit.not_to_static
def layer_norm(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """x [..., C] normalized over the last axis, times weight [C] plus bias [C]."""
    return apply(_LayerNorm, x, weight, bias, epsilon)


@paddle.jit.not_to_static
def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """The exact (erf) GELU."""
    return apply(_Gelu, x)


@paddle.jit.not_to_static
def patches(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """Images [B, in, S, S], which want no gradient, to tokens [B, (S/P)^2, C]: a convolution of stride P with weight
    [C, in, P, P], plus bias [C]."""
    return apply(_Patches, x, weight, bias)


@paddle.jit.not_to_static
def add_to_each(x: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
    """x [B, N, C] plus value [1, N, C]."""
    return apply(_AddToEach, x, value)


def selected_images(keep_mask: Optional[paddle.Tensor], drop_prob: float) -> Selection:
    """From the keep mask of a batch, [B, ...] bools; None: nothing is dropped. When all images are dropped, all are
    computed and multiplied by 0, because the optimizer distinguishes a gradient of zeros from none."""
    if keep_mask is None:
        return Selection(None, 1.0)
    indices, scale = np.flatnonzero(keep_mask.numpy()), 1.0 / (1.0 - drop_prob)
    if not indices.size:
        return Selection(None, 0.0)
    if indices.size == keep_mask.size:
        return Selection(None, scale)
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    return Selection([(int(run[0]), run.size) for run in runs], scale)


def attention(x: paddle.Tensor, selection: Selection, parameters: Parameters, gamma: Optional[paddle.Tensor],
              num_heads: int, scale: float, epsilon: float, dtype: int = FLOAT32) -> paddle.Tensor:
    """x [B, N, C] plus its normalized self-attention, projected, times LayerScale gamma [C].

    ``parameters``: weight and bias of the LayerNorm, of queries, keys and values [C, 3 * C], of the projection [C, C],
    and of talking heads [H, H] before and after the softmax, if any. ``scale``: of the scores. ``dtype``: see
    ``branches``; BFLOAT16 needs ``MIN_PACKED_ROWS`` selected tokens.
    """
    norm, qkv, proj, mixing = parameters[:2], parameters[2:4], parameters[4:6], parameters[6:]
    return apply(Attention, x, selection, (num_heads, scale, epsilon), dtype, *norm, *qkv, gamma, *proj, *mixing)


def mlp(x: paddle.Tensor, selection: Selection, parameters: Parameters, gamma: Optional[paddle.Tensor],
        epsilon: float, dtype: int = FLOAT32) -> paddle.Tensor:
    """x [B, N, C] plus its normalized MLP times LayerScale gamma [C]. ``parameters``: weight and bias of the LayerNorm
    and of both Linears; ``dtype`` as of ``attention``."""
    return apply(Mlp, x, selection, epsilon, dtype, *parameters[:4], gamma, *parameters[4:])


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        return ops.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        Function.check_first_order()
        return ops.linear_grad(*ctx.saved_tensor(), ops.dense(grad))


class _LayerNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor,
                epsilon: float) -> paddle.Tensor:
        y, mean, variance = ops.layer_norm(x, weight, bias, epsilon)
        ctx.save_for_backward(x, mean, variance, weight)
        ctx.epsilon = epsilon
        return y

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        Function.check_first_order()
        return ops.layer_norm_grad(*ctx.saved_tensor(), ops.dense(grad), ctx.epsilon)


class _Gelu(Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x)
        return ops.gelu(x)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> paddle.Tensor:
        Function.check_first_order()
        return ops.gelu_grad_(*ctx.saved_tensor(), grad.clone())


class _Patches(Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        batch, channels, height, width = x.shape
        size = weight.shape[2]
        pixels = x.reshape([batch, channels, height // size, size, width // size, size])
        pixels = pixels.transpose([0, 2, 4, 1, 3, 5]).reshape([batch, -1, channels * size * size])
        ctx.save_for_backward(pixels)
        ctx.shape = weight.shape
        return ops.linear(pixels, weight.flatten(1).t(), bias)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        Function.check_first_order()
        weight_grad, bias_grad = ops.parameters_grad(*ctx.saved_tensor(), ops.dense(grad))
        return None, weight_grad.t().reshape(ctx.shape), bias_grad


class _AddToEach(Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
        return ops.add_to_each(x, value)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        Function.check_first_order()
        total = ops.sum_rows(ops.dense(grad).reshape([grad.shape[0], -1]))
        # Paddle adds x's other gradients to the tensor that it is given, which must not be the one that it gave.
        return grad.clone(), total.reshape([1, *grad.shape[1:]])
