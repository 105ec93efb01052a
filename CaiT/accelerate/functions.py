# SPDX-License-Identifier: Apache-2.0
"""The accelerated operations with their gradients.

Paddle's eager CPU kernels make training slow there: a bias gradient, GELU or LayerNorm costs as much as the matrix
product beside it. ``is_eligible`` decides for all operations; where it says no, Paddle's own run.
"""
from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle.autograd import PyLayer

from CaiT.accelerate import tensor_ops as ops

# not_to_static: Paddle 3.0 translates what a model could call even where ``is_eligible`` does not let it.
Gradients = Tuple[Optional[paddle.Tensor], ...]
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
    return _apply(_Linear, x, weight, bias)


@paddle.jit.not_to_static
def layer_norm(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float) -> paddle.Tensor:
    """x [..., C] normalized over the last axis, times weight [C] plus bias [C]."""
    return _apply(_LayerNorm, x, weight, bias, epsilon)


@paddle.jit.not_to_static
def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """The exact (erf) GELU."""
    return _apply(_Gelu, x)


@paddle.jit.not_to_static
def patches(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """Images [B, in, S, S], which want no gradient, to tokens [B, (S/P)^2, C]: a convolution of stride P with weight
    [C, in, P, P], plus bias [C]."""
    return _apply(_Patches, x, weight, bias)


@paddle.jit.not_to_static
def add_to_each(x: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
    """x [B, N, C] plus value [1, N, C]."""
    return _apply(_AddToEach, x, value)


class Selection(NamedTuple):
    """The images whose branch stochastic depth keeps: ``runs`` of (first, how many), None for all of them; the branch
    is multiplied by ``scale``."""
    runs: Optional[ops.Runs]
    scale: float

    def count(self, batch: int) -> int:
        return batch if self.runs is None else sum(count for _, count in self.runs)


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
              num_heads: int, scale: float, epsilon: float) -> paddle.Tensor:
    """x [B, N, C] plus its normalized self-attention, projected, times LayerScale gamma [C].

    ``parameters``: weight and bias of the LayerNorm, of queries, keys and values [C, 3 * C], of the projection [C, C],
    and of talking heads [H, H] before and after the softmax, if any. ``scale``: of the scores.
    """
    norm, qkv, proj, mixing = parameters[:2], parameters[2:4], parameters[4:6], parameters[6:]
    return _apply(_Attention, x, selection, (num_heads, scale, epsilon), *norm, *qkv, gamma, *proj, *mixing)


def mlp(x: paddle.Tensor, selection: Selection, parameters: Parameters, gamma: Optional[paddle.Tensor],
        epsilon: float) -> paddle.Tensor:
    """x [B, N, C] plus its normalized MLP times LayerScale gamma [C]. ``parameters``: weight and bias of the LayerNorm
    and of both Linears."""
    return _apply(_Mlp, x, selection, epsilon, *parameters[:4], gamma, *parameters[4:])


def _apply(function: type, *arguments: Any) -> paddle.Tensor:
    """The output of a PyLayer that can be differentiated once.

    Paddle 3.3 ends the process when the backward pass of any PyLayer runs twice (``retain_graph=True``): a hook on the
    output raises before it gets there.
    """
    y = function.apply(*arguments)
    if not y.stop_gradient:
        y.register_hook(_Once())
    return y


class _Once:
    def __init__(self) -> None:
        self.ran = False

    def __call__(self, grad: paddle.Tensor) -> None:
        if self.ran:
            raise RuntimeError('second backward pass through an accelerated layer: call CaiT.accelerate.restore(model) '
                               'first, the plain Paddle layers allow it')
        self.ran = True


class _Function(PyLayer):
    """A PyLayer whose gradients, computed by oneDNN, cannot be differentiated again."""

    @classmethod
    def check_first_order(cls) -> None:
        if paddle.is_grad_enabled():  # create_graph=True
            raise RuntimeError('gradient of a gradient through an accelerated layer (create_graph=True): call '
                               'CaiT.accelerate.restore(model) first, the plain Paddle layers allow it')


class _Linear(_Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        return ops.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        _Function.check_first_order()
        return ops.linear_grad(*ctx.saved_tensor(), ops.dense(grad))


class _LayerNorm(_Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor,
                epsilon: float) -> paddle.Tensor:
        y, mean, variance = ops.layer_norm(x, weight, bias, epsilon)
        ctx.save_for_backward(x, mean, variance, weight)
        ctx.epsilon = epsilon
        return y

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        _Function.check_first_order()
        return ops.layer_norm_grad(*ctx.saved_tensor(), ops.dense(grad), ctx.epsilon)


class _Gelu(_Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x)
        return ops.gelu(x)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> paddle.Tensor:
        _Function.check_first_order()
        return ops.gelu_grad_(*ctx.saved_tensor(), grad.clone())


class _Patches(_Function):
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
        _Function.check_first_order()
        weight_grad, bias_grad = ops.parameters_grad(*ctx.saved_tensor(), ops.dense(grad))
        return None, weight_grad.t().reshape(ctx.shape), bias_grad


class _AddToEach(_Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
        return ops.add_to_each(x, value)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        _Function.check_first_order()
        total = ops.sum_rows(ops.dense(grad).reshape([grad.shape[0], -1]))
        # Paddle adds x's other gradients to the tensor that it is given, which must not be the one that it gave.
        return grad.clone(), total.reshape([1, *grad.shape[1:]])


class _Mlp(_Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, selection: Selection, epsilon: float,
                *parameters: Optional[paddle.Tensor]) -> paddle.Tensor:
        norm, fc1, fc2 = parameters[:2], parameters[2:4], _ScaledLinear(selection.scale, *parameters[4:])
        part = ops.gather(x, selection.runs)
        normalized = ops.layer_norm(part, *norm, epsilon)
        hidden = ops.linear(normalized[0], *fc1)
        active = ops.gelu(hidden)
        ctx.selection, ctx.epsilon, ctx.fc2 = selection, epsilon, fc2
        ctx.save_for_backward(part, norm[0], *normalized, fc1[0], hidden, active)
        return ops.add(x, ops.linear(active, *fc2.folded), selection.runs)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        _Function.check_first_order()
        part, norm, u, mean, variance, fc1, hidden, active = ctx.saved_tensor()
        grad = ops.dense(grad)
        active_grad, *fc2_grads = ops.linear_grad(active, ctx.fc2.folded[0], ops.gather(grad, ctx.selection.runs))
        u_grad, *fc1_grads = ops.linear_grad(u, fc1, ops.gelu_grad_(hidden, active_grad))
        part_grad, *norm_grads = ops.layer_norm_grad(part, mean, variance, norm, u_grad, ctx.epsilon)
        return (ops.add(grad, part_grad, ctx.selection.runs), *norm_grads, *fc1_grads, *ctx.fc2.grads(*fc2_grads))


class _Attention(_Function):
    """The bias of the mixing before the softmax adds the same to a whole row, which softmax does not see: it is left
    out, its gradient is zero. The bias of the mixing after it adds the same to every value of attn: its gradient is the
    product of two sums, that of the values and that of the gradient of the output."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, selection: Selection, numbers: Tuple[int, float, float],
                *parameters: Optional[paddle.Tensor]) -> paddle.Tensor:
        num_heads, scale, epsilon = numbers
        norm, to_qkv, mixing = parameters[:2], parameters[2:4], parameters[7:]
        proj = _ScaledLinear(selection.scale, *parameters[4:7])
        part = ops.gather(x, selection.runs)
        normalized = ops.layer_norm(part, *norm, epsilon)
        qkv = ops.linear(normalized[0], *to_qkv)
        scores = ops.scores(qkv, num_heads, scale)
        if mixing:
            before, _, after, bias = mixing
            softmax = ops.softmax_(_mix(scores, before))
            attn = ops.add_per_head_(_mix(softmax, after), bias)
            saved = attn, scores, softmax, before, after
        else:
            attn = ops.softmax_(scores)
            saved = attn,
        attn_out = ops.apply_attn(attn, qkv)
        ctx.selection, ctx.numbers, ctx.proj = selection, numbers, proj
        ctx.save_for_backward(part, norm[0], *normalized, to_qkv[0], qkv, attn_out, *saved)
        return ops.add(x, ops.linear(attn_out, *proj.folded), selection.runs)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        _Function.check_first_order()
        part, norm, u, mean, variance, weight, qkv, attn_out, attn, *mixing = ctx.saved_tensor()
        (num_heads, scale, epsilon), channels = ctx.numbers, grad.shape[-1]
        grad = ops.dense(grad)
        out_grad, *proj_grads = ops.linear_grad(attn_out, ctx.proj.folded[0], ops.gather(grad, ctx.selection.runs))
        qkv_grad, mixing_grads = paddle.empty_like(qkv), ()
        attn_grad = ops.apply_attn_grad(attn, qkv, out_grad, qkv_grad)
        if mixing:
            scores, softmax, before, after = mixing
            sums = ops.sum_tokens(out_grad, channels) * ops.sum_tokens(qkv, channels)  # [B, C]; values lie last
            bias_grad = sums.reshape([-1, num_heads, channels // num_heads]).sum([0, 2])
            softmax_grad, after_grad = _mix_grad(softmax, after, attn_grad)
            scores_grad, before_grad = _mix_grad(scores, before, ops.softmax_grad_(softmax, softmax_grad))
            mixing_grads = before_grad, paddle.zeros_like(bias_grad), after_grad, bias_grad
        else:
            scores_grad = ops.softmax_grad_(attn, attn_grad)
        ops.scores_grad(qkv, scores_grad, scale, qkv_grad)
        u_grad, *weight_grads = ops.linear_grad(u, weight, qkv_grad)
        part_grad, *norm_grads = ops.layer_norm_grad(part, mean, variance, norm, u_grad, epsilon)
        x_grad = ops.add(grad, part_grad, ctx.selection.runs)
        return (x_grad, *norm_grads, *weight_grads, *ctx.proj.grads(*proj_grads), *mixing_grads)


def _per_head(x: paddle.Tensor) -> paddle.Tensor:
    """[B, H, N, M] as [B, H, N * M]."""
    return x.reshape([x.shape[0], x.shape[1], -1])


def _mix(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """The heads of x [B, H, N, M] mixed by weight [in, out]. For so few rows Paddle's product is the faster one."""
    return paddle.matmul(weight, _per_head(x), transpose_x=True).reshape(x.shape)


def _mix_grad(x: paddle.Tensor, weight: paddle.Tensor, grad: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
    flat = _per_head(grad)
    return (paddle.matmul(weight, flat).reshape(x.shape),
            paddle.matmul(_per_head(x), flat, transpose_y=True).sum(0))


class _ScaledLinear:
    """A Linear whose outputs are multiplied by gamma [C] (if there is one) and by ``scale``: both are folded into its
    weight and bias, and no further pass over the outputs or their gradient is needed."""

    def __init__(self, scale: float, gamma: Optional[paddle.Tensor], weight: paddle.Tensor,
                 bias: paddle.Tensor) -> None:
        self.scale, self.gamma, self.weight, self.bias = scale, gamma, weight, bias
        self.factor, self.folded = gamma, (weight, bias)
        if scale != 1.0:
            self.factor = (paddle.ones_like(bias) if gamma is None else gamma) * scale
        if self.factor is not None:
            self.folded = ops.mul(weight, self.factor), ops.mul(bias, self.factor)

    def grads(self, weight_grad: paddle.Tensor, bias_grad: paddle.Tensor) -> Tuple[paddle.Tensor, ...]:
        """The gradients of gamma, if there is one, weight and bias, from those of the folded weight and bias."""
        gradients = weight_grad, bias_grad
        if self.factor is not None:
            gradients = ops.mul(weight_grad, self.factor), ops.mul(bias_grad, self.factor)
        if self.gamma is None:
            return gradients
        gamma_grad = ops.sum_rows(ops.mul(self.weight, weight_grad)) + self.bias * bias_grad
        return (gamma_grad if self.scale == 1.0 else gamma_grad * self.scale, *gradients)
