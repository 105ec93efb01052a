# SPDX-License-Identifier: Apache-2.0
"""The models' operations on a CPU by oneDNN's kernels, forward and backward; everywhere else Paddle's own.

Paddle's eager CPU kernels are what makes it slow there: a bias gradient, GELU or LayerNorm costs as much as the matrix
product beside it. ``wanted`` decides for all of them.
"""
from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from CaiT.models import kernels, onednn

Gradients = Tuple[paddle.Tensor, ...]


def wanted(*tensors: Optional[paddle.Tensor]) -> bool:
    """Whether an operation on these tensors takes oneDNN: eager float32 on a CPU, all of them learning or none.
    Exports, compiled training, GPUs, half precision, partly frozen layers and those without bias (None) do not."""
    return paddle.in_dynamic_mode() and all(
        t is not None and t.dtype == paddle.float32 and t.place.is_cpu_place() for t in tensors
    ) and (not paddle.is_grad_enabled() or len({t.stop_gradient for t in tensors}) == 1) and bool(kernels.version())


def note() -> str:
    """Whose kernels a CPU runs."""
    return f'CPU kernels: oneDNN {kernels.version()}' if kernels.version() else "CPU kernels: Paddle's own"


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: Optional[paddle.Tensor]) -> paddle.Tensor:
    """x [..., in] times weight [in, out] plus bias [out]."""
    if wanted(x, weight, bias):
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


def patches(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """Pictures [B, in, S, S] to tokens [B, (S/P)^2, C]: a convolution of stride P with weight [C, in, P, P], plus bias
    [C]."""
    side = weight.shape[2]
    whole = not (x.shape[2] % side or x.shape[3] % side)
    if whole and x.stop_gradient and x.dtype == weight.dtype and wanted(weight, bias):
        return _Patches.apply(x, weight, bias)
    return F.conv2d(x, weight, bias, stride=side).flatten(2).transpose([0, 2, 1])


def add_to_each(x: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
    """x [B, N, C] plus value [1, N, C]."""
    return _AddToEach.apply(x, value) if wanted(x, value) else x + value


def attends(batch: int, tokens: int) -> bool:
    """Whether ``attention`` can take a batch of this size. oneDNN 3.6 misreads queries and keys that lie side by side
    when a picture's step, 3 * N * C values, happens to be B * C: its results are wrong then."""
    return batch != 3 * tokens


class Kept(NamedTuple):
    """The pictures whose branch stochastic depth keeps: ``runs`` of (first, how many), None for all of them; the branch
    is multiplied by ``scale``."""
    runs: Optional[onednn.Runs]
    scale: float

    def count(self, batch: int) -> int:
        return batch if self.runs is None else sum(count for _, count in self.runs)


def kept(drawn: Optional[paddle.Tensor], rate: float) -> Kept:
    """Of what stochastic depth has ``drawn`` for each picture (None where it does not drop). If all are dropped all are
    computed and multiplied by 0, since the optimiser tells a gradient of zeros from none."""
    if drawn is None:
        return Kept(None, 1.0)
    which, scale = np.flatnonzero(drawn.numpy().ravel() >= rate), 1.0 / (1.0 - rate)
    if not which.size:
        return Kept(None, 0.0)
    if which.size == drawn.size:
        return Kept(None, scale)
    runs = np.split(which, np.flatnonzero(np.diff(which) > 1) + 1)
    return Kept([(int(run[0]), run.size) for run in runs], scale)


def attention(x: paddle.Tensor, pictures: Kept, parameters: Sequence[paddle.Tensor], gamma: Optional[paddle.Tensor],
              heads: int, scale: float, epsilon: float) -> paddle.Tensor:
    """x [B, N, C] plus its normalised self-attention, projected, times LayerScale gamma [C]; only where ``wanted`` and
    ``attends`` say so.

    ``parameters``: weight and bias of the LayerNorm, of queries, keys and values [C, 3 * C], of the projection [C, C],
    and of talking heads [H, H] before and after the softmax, if any. ``scale``: of the scores.
    """
    norm, qkv, proj, mixing = parameters[:2], parameters[2:4], parameters[4:6], parameters[6:]
    return _Attention.apply(x, pictures, (heads, scale, epsilon), *norm, *qkv, gamma, *proj, *mixing)


def mlp(x: paddle.Tensor, pictures: Kept, parameters: Sequence[paddle.Tensor], gamma: Optional[paddle.Tensor],
        epsilon: float) -> paddle.Tensor:
    """x [B, N, C] plus its normalised MLP times LayerScale gamma [C]; only where ``wanted`` says so. ``parameters``:
    weight and bias of the LayerNorm and of both Linears."""
    return _Mlp.apply(x, pictures, epsilon, *parameters[:4], gamma, *parameters[4:])


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
        return onednn.gelu_grad_(*ctx.saved_tensor(), grad.clone())


class _Patches(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        batch, channels, height, width = x.shape
        size = weight.shape[2]
        pixels = x.reshape([batch, channels, height // size, size, width // size, size])
        pixels = pixels.transpose([0, 2, 4, 1, 3, 5]).reshape([batch, -1, channels * size * size])
        ctx.save_for_backward(pixels)
        ctx.shape = weight.shape
        return onednn.linear(pixels, weight.flatten(1).t(), bias)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Tuple[None, paddle.Tensor, paddle.Tensor]:
        to_weight, to_bias = onednn.parameters_grad(*ctx.saved_tensor(), grad)
        return None, to_weight.t().reshape(ctx.shape), to_bias


class _AddToEach(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
        return onednn.add_to_each(x, value)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        total = onednn.sum_rows(grad.reshape([grad.shape[0], -1]))
        # Paddle adds x's other gradients to the tensor that it is given, which must not be the one that it gave.
        return grad.clone(), total.reshape([1, *grad.shape[1:]])


class _Mlp(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, pictures: Kept, epsilon: float,
                *parameters: Optional[paddle.Tensor]) -> paddle.Tensor:
        norm, fc1, last = parameters[:2], parameters[2:4], _Scaled(pictures.scale, *parameters[4:])
        part = onednn.take(x, pictures.runs)
        normalised = onednn.layer_norm(part, *norm, epsilon)
        hidden = onednn.linear(normalised[0], *fc1)
        active = onednn.gelu(hidden)
        ctx.pictures, ctx.epsilon, ctx.last = pictures, epsilon, last
        ctx.save_for_backward(part, norm[0], *normalised, fc1[0], hidden, active)
        return onednn.add(x, onednn.linear(active, *last.folded), pictures.runs)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        part, norm, u, mean, variance, fc1, hidden, active = ctx.saved_tensor()
        g = onednn.take(grad, ctx.pictures.runs)
        to_active, *to_last = onednn.linear_grad(active, ctx.last.folded[0], g)
        to_u, *to_fc1 = onednn.linear_grad(u, fc1, onednn.gelu_grad_(hidden, to_active))
        to_part, *to_norm = onednn.layer_norm_grad(part, mean, variance, norm, to_u, ctx.epsilon)
        return (onednn.add(grad, to_part, ctx.pictures.runs), *to_norm, *to_fc1, *ctx.last.grad(*to_last))


class _Attention(PyLayer):
    """The bias of the mixing before the softmax adds the same to a whole row, which softmax does not see: it is left
    out, its gradient is zero. That of the mixing after it adds the same to every weight: its gradient is the product
    of two sums, that over the values and that over the gradient of what was read."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, pictures: Kept, numbers: Tuple[int, float, float],
                *parameters: Optional[paddle.Tensor]) -> paddle.Tensor:
        heads, scale, epsilon = numbers
        norm, to_qkv, last, mixing = (parameters[:2], parameters[2:4], _Scaled(pictures.scale, *parameters[4:7]),
                                      parameters[7:])
        part = onednn.take(x, pictures.runs)
        normalised = onednn.layer_norm(part, *norm, epsilon)
        qkv = onednn.linear(normalised[0], *to_qkv)
        weights = scores = onednn.scores(qkv, heads, scale)
        if mixing:
            before, _, after, bias = mixing
            weights = onednn.softmax_(_mixed(scores, before))
            attention = onednn.add_per_head_(_mixed(weights, after), bias)
            saved = attention, scores, weights, before, after
        else:
            attention = onednn.softmax_(scores)
            saved = attention,
        read = onednn.attend(attention, qkv)
        ctx.pictures, ctx.numbers, ctx.last = pictures, numbers, last
        ctx.save_for_backward(part, norm[0], *normalised, to_qkv[0], qkv, read, *saved)
        return onednn.add(x, onednn.linear(read, *last.folded), pictures.runs)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        part, norm, u, mean, variance, weight, qkv, read, attention, *mixing = ctx.saved_tensor()
        (heads, scale, epsilon), channels = ctx.numbers, grad.shape[-1]
        g = onednn.take(grad, ctx.pictures.runs)
        to_read, *to_last = onednn.linear_grad(read, ctx.last.folded[0], g)
        to_qkv, to_mixing = paddle.empty_like(qkv), ()
        to_attention = onednn.attend_grad(attention, qkv, to_read, to_qkv)
        if mixing:
            scores, weights, before, after = mixing
            sums = onednn.sum_tokens(to_read, channels) * onednn.sum_tokens(qkv, channels)  # [B, C]
            to_bias = sums.reshape([-1, heads, channels // heads]).sum([0, 2])
            to_weights, to_after = _mixed_grad(weights, after, to_attention)
            to_scores, to_before = _mixed_grad(scores, before, onednn.softmax_grad_(weights, to_weights))
            to_mixing = to_before, paddle.zeros_like(to_bias), to_after, to_bias
        else:
            to_scores = onednn.softmax_grad_(attention, to_attention)
        onednn.scores_grad(qkv, to_scores, scale, to_qkv)
        to_u, *to_weight = onednn.linear_grad(u, weight, to_qkv)
        to_part, *to_norm = onednn.layer_norm_grad(part, mean, variance, norm, to_u, epsilon)
        return (onednn.add(grad, to_part, ctx.pictures.runs), *to_norm, *to_weight, *ctx.last.grad(*to_last),
                *to_mixing)


def _per_head(x: paddle.Tensor) -> paddle.Tensor:
    """[B, H, N, M] as [B, H, N * M]."""
    return x.reshape([x.shape[0], x.shape[1], -1])


def _mixed(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """The heads of x [B, H, N, M] mixed by weight [in, out]. For so few rows Paddle's product is the faster one."""
    return paddle.matmul(weight, _per_head(x), transpose_x=True).reshape(x.shape)


def _mixed_grad(x: paddle.Tensor, weight: paddle.Tensor, grad: paddle.Tensor) -> Gradients:
    flat = _per_head(grad)
    return (paddle.matmul(weight, flat).reshape(x.shape),
            paddle.matmul(_per_head(x), flat, transpose_y=True).sum(0))


class _Scaled:
    """A Linear whose outputs are multiplied by gamma [C] (where there is one) and by ``scale``: both are folded into
    its weights, and no gradient passes over the outputs again."""

    def __init__(self, scale: float, gamma: Optional[paddle.Tensor], weight: paddle.Tensor,
                 bias: paddle.Tensor) -> None:
        self.scale, self.gamma, self.weight, self.bias = scale, gamma, weight, bias
        self.factor, self.folded = gamma, (weight, bias)
        if scale != 1.0:
            self.factor = (paddle.ones_like(bias) if gamma is None else gamma) * scale
        if self.factor is not None:
            self.folded = onednn.times(weight, self.factor), onednn.times(bias, self.factor)

    def grad(self, to_weight: paddle.Tensor, to_bias: paddle.Tensor) -> Gradients:
        """The gradients to gamma, if there is one, weight and bias, from those to what they were folded into."""
        gradients = to_weight, to_bias
        if self.factor is not None:
            gradients = onednn.times(to_weight, self.factor), onednn.times(to_bias, self.factor)
        if self.gamma is None:
            return gradients
        to_gamma = onednn.sum_rows(onednn.times(self.weight, to_weight)) + self.bias * to_bias
        return (to_gamma if self.scale == 1.0 else to_gamma * self.scale, *gradients)
