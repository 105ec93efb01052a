# SPDX-License-Identifier: Apache-2.0
"""The models' operations on a CPU by oneDNN's kernels, forward and backward; everywhere else Paddle's own.

Paddle's eager CPU kernels are what makes it slow there: a bias gradient, GELU or LayerNorm costs as much as the matrix
product beside it. ``wanted`` decides for all of them.
"""
from __future__ import annotations

from typing import Any, Optional, Tuple

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from CaiT.models import onednn

Gradients = Tuple[paddle.Tensor, ...]


def wanted(*tensors: paddle.Tensor) -> bool:
    """Whether an operation on these tensors takes oneDNN: eager float32 on a CPU, all of them learning or none.
    Exports, compiled training, GPUs, half precision and frozen parameters do not."""
    learning = paddle.is_grad_enabled()
    return paddle.in_dynamic_mode() and all(
        t.dtype == paddle.float32 and t.place.is_cpu_place() and not (learning and t.stop_gradient) for t in tensors
    ) and bool(onednn.version())


def note() -> str:
    """Whose kernels a CPU runs."""
    return f'CPU kernels: oneDNN {onednn.version()}' if onednn.version() else "CPU kernels: Paddle's own"


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


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """The exact (erf) GELU."""
    return _Gelu.apply(x) if wanted(x) else F.gelu(x)


def attends(qkv: paddle.Tensor) -> bool:
    """Whether ``attention`` can take this batch [B, N, 3 * C]. oneDNN 3.6 misreads queries and keys that lie side by
    side when a picture's step, 3 * N * C values, happens to be B * C: its results are wrong then."""
    batch, tokens, _ = qkv.shape
    return batch != 3 * tokens


def attention(qkv: paddle.Tensor, heads: int, scale: float, *mixing: paddle.Tensor) -> paddle.Tensor:
    """Queries, keys and values side by side [B, N, 3 * C] to what each query reads [B, N, C]; only where ``wanted`` and
    ``attends`` say so.

    ``mixing``: nothing, or weight [H, H] and bias [H] of the talking heads before the softmax, and those after it.
    """
    return _Attention.apply(qkv, heads, scale, *mixing)


def residual(x: paddle.Tensor, branch: paddle.Tensor, gamma: paddle.Tensor,
             keep: Optional[paddle.Tensor]) -> paddle.Tensor:
    """x [B, N, C] plus its branch times LayerScale gamma [C] and, where given, stochastic depth's keep [B, 1, 1]."""
    if wanted(x, branch, gamma):
        return _Residual.apply(x, branch, gamma, keep)
    branch = branch * gamma
    return x + (branch if keep is None else branch * keep)


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        return onednn.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        return onednn.linear_grad(*ctx.saved_tensor(), grad)


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor,
                epsilon: float) -> paddle.Tensor:
        y, mean, variance = onednn.layer_norm(x, weight, bias, epsilon)
        ctx.save_for_backward(x, mean, variance, weight)
        ctx.epsilon = epsilon
        return y

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        return onednn.layer_norm_grad(*ctx.saved_tensor(), grad, ctx.epsilon)


class _Gelu(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x)
        return onednn.gelu(x)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> paddle.Tensor:
        return onednn.gelu_grad(*ctx.saved_tensor(), grad)


class _Attention(PyLayer):
    """The bias of the mixing before the softmax adds the same to a whole row, which softmax does not see: it is left
    out, its gradient is zero."""

    @staticmethod
    def forward(ctx: Any, qkv: paddle.Tensor, heads: int, scale: float, *mixing: paddle.Tensor) -> paddle.Tensor:
        scores = onednn.scores(qkv, heads, scale)
        ctx.scale = scale
        if not mixing:
            attention = onednn.softmax_(scores)
            ctx.save_for_backward(qkv, attention)
            return onednn.attend(attention, qkv)
        before, _, after, bias = mixing
        weights = onednn.softmax_(_mixed(scores, before))
        attention = onednn.add_per_head_(_mixed(weights, after), bias)
        ctx.save_for_backward(qkv, attention, scores, weights, before, after)
        return onednn.attend(attention, qkv)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        qkv, attention, *mixing = ctx.saved_tensor()
        to_qkv, to_mixing = paddle.empty_like(qkv), ()
        grad = onednn.attend_grad(attention, qkv, grad, to_qkv)
        if mixing:
            scores, weights, before, after = mixing
            to_bias = _head_sums(grad)
            grad, to_after = _mixed_grad(weights, after, grad)
            grad, to_before = _mixed_grad(scores, before, onednn.softmax_grad_(weights, grad))
            to_mixing = to_before, paddle.zeros_like(to_bias), to_after, to_bias
        else:
            grad = onednn.softmax_grad_(attention, grad)
        onednn.scores_grad(qkv, grad, ctx.scale, to_qkv)
        return (to_qkv, *to_mixing)


def _per_head(x: paddle.Tensor) -> paddle.Tensor:
    """[B, H, N, M] as [B, H, N * M]."""
    return x.reshape([x.shape[0], x.shape[1], -1])


def _mixed(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """The heads of x [B, H, N, M] mixed by weight [in, out]. For so few rows Paddle's product is the faster one."""
    return paddle.matmul(weight, _per_head(x), transpose_x=True).reshape(x.shape)


def _head_sums(x: paddle.Tensor) -> paddle.Tensor:
    """[B, H, N, M] to [H]."""
    flat = _per_head(x)
    return paddle.matmul(flat, paddle.ones([flat.shape[2], 1], flat.dtype)).sum(0).flatten()


def _mixed_grad(x: paddle.Tensor, weight: paddle.Tensor, grad: paddle.Tensor) -> Gradients:
    flat = _per_head(grad)
    return (paddle.matmul(weight, flat).reshape(x.shape),
            paddle.matmul(_per_head(x), flat, transpose_y=True).sum(0))


class _Residual(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, branch: paddle.Tensor, gamma: paddle.Tensor,
                keep: Optional[paddle.Tensor]) -> paddle.Tensor:
        factor = gamma.reshape([1, 1, -1]) if keep is None else gamma * keep
        ctx.save_for_backward(branch, factor, *([] if keep is None else [keep]))
        return onednn.add_(onednn.times(branch, factor), x)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        branch, factor, *keep = ctx.saved_tensor()
        batch, tokens, _ = branch.shape
        rows = keep[0].expand([batch, tokens, 1]).reshape([-1]) if keep else None
        # Paddle adds x's other gradients to the tensor that it is given, which must not be the one that it gave.
        return (grad.clone(), onednn.times(grad, factor), onednn.sum_rows(grad * branch, rows), *(None for _ in keep))
