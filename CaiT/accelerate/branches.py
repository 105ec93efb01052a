# SPDX-License-Identifier: Apache-2.0
"""A transformer block's two residual branches, x plus its MLP and x plus its self-attention, as one PyLayer each.

``dtype`` (of ``onednn``): of what lies between the LayerNorm and the addition to x, and of its gradients. x,
parameters and their gradients, means and variances are float32 either way.
"""
from __future__ import annotations

from typing import Any, NamedTuple, Optional, Tuple

import paddle

from CaiT.accelerate import fused
from CaiT.accelerate import tensor_ops as ops
from CaiT.accelerate.attend import Products
from CaiT.accelerate.pylayer import Function, Gradients
from CaiT.accelerate.views import dtype_of


class Selection(NamedTuple):
    """The images whose branch stochastic depth keeps: ``runs`` of (first, how many), None for all of them; the branch
    is multiplied by ``scale``."""
    runs: Optional[ops.Runs]
    scale: float

    def count(self, batch: int) -> int:
        return batch if self.runs is None else sum(count for _, count in self.runs)


class Mlp(Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, selection: Selection, epsilon: float, dtype: int,
                *parameters: Optional[paddle.Tensor]) -> paddle.Tensor:
        norm, fc1, fc2 = parameters[:2], parameters[2:4], _ScaledLinear(selection.scale, *parameters[4:])
        part = ops.gather(x, selection.runs)
        normalized = ops.layer_norm(part, *norm, epsilon, dtype)
        hidden = ops.linear(normalized[0], *fc1)
        active = ops.gelu(hidden)
        ctx.selection, ctx.epsilon, ctx.fc2 = selection, epsilon, fc2
        ctx.save_for_backward(part, norm[0], *normalized, fc1[0], hidden, active)
        return ops.add(x, ops.linear(active, *fc2.folded), selection.runs)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        Function.check_first_order()
        part, norm, u, mean, variance, fc1, hidden, active = ctx.saved_tensor()
        grad = ops.dense(grad)
        y_grad = ops.convert(ops.gather(grad, ctx.selection.runs), dtype_of(u))
        active_grad, *fc2_grads = ops.linear_grad(active, ctx.fc2.folded[0], y_grad)
        u_grad, *fc1_grads = ops.linear_grad(u, fc1, ops.gelu_grad_(hidden, active_grad))
        part_grad, *norm_grads = ops.layer_norm_grad(part, mean, variance, norm, u_grad, ctx.epsilon)
        return (ops.add(grad, part_grad, ctx.selection.runs), *norm_grads, *fc1_grads, *ctx.fc2.grads(*fc2_grads))


class Attention(Function):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, selection: Selection, numbers: Tuple[int, float, float],
                dtype: int, *parameters: Optional[paddle.Tensor]) -> paddle.Tensor:
        num_heads, scale, epsilon = numbers
        norm, to_qkv, mixing = parameters[:2], parameters[2:4], parameters[7:]
        proj = _ScaledLinear(selection.scale, *parameters[4:7])
        part = ops.gather(x, selection.runs)
        normalized = ops.layer_norm(part, *norm, epsilon, dtype)
        qkv = ops.linear(normalized[0], *to_qkv)
        attend = (fused.ready(qkv, num_heads) if mixing else None) or Products
        attn_out, saved = attend.forward(qkv, num_heads, scale, mixing)
        ctx.selection, ctx.numbers, ctx.proj, ctx.attend = selection, numbers, proj, attend
        ctx.save_for_backward(part, norm[0], *normalized, to_qkv[0], qkv, attn_out, *saved)
        return ops.add(x, ops.linear(attn_out, *proj.folded), selection.runs)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Gradients:
        Function.check_first_order()
        part, norm, u, mean, variance, weight, qkv, attn_out, *saved = ctx.saved_tensor()
        num_heads, scale, epsilon = ctx.numbers
        grad = ops.dense(grad)
        y_grad = ops.convert(ops.gather(grad, ctx.selection.runs), dtype_of(u))
        out_grad, *proj_grads = ops.linear_grad(attn_out, ctx.proj.folded[0], y_grad)
        qkv_grad, mixing_grads = ctx.attend.backward(qkv, num_heads, scale, saved, out_grad)
        u_grad, *weight_grads = ops.linear_grad(u, weight, qkv_grad)
        part_grad, *norm_grads = ops.layer_norm_grad(part, mean, variance, norm, u_grad, epsilon)
        x_grad = ops.add(grad, part_grad, ctx.selection.runs)
        return (x_grad, *norm_grads, *weight_grads, *ctx.proj.grads(*proj_grads), *mixing_grads)


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
