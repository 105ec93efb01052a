# SPDX-License-Identifier: Apache-2.0
"""Self-attention between the Linears of a block, forward and backward, by oneDNN's products.

``fused.Kernel`` has the same two methods. qkv [B, N, 3 * H * d]; ``mixing``: weight and bias of talking heads before
and after the softmax, or nothing.
"""
from __future__ import annotations

from typing import Sequence, Tuple

import paddle

from CaiT.accelerate import tensor_ops as ops
from CaiT.accelerate.views import Tensor, dtype_of, empty


class Products:
    """The bias of the mixing before the softmax adds the same to a whole row, which softmax does not see: it is left
    out, its gradient is zero. The bias of the mixing after it adds the same to every value of attn: its gradient is the
    product of two sums, that of the values and that of the gradient of the output."""

    @staticmethod
    def forward(qkv: Tensor, heads: int, scale: float, mixing: Sequence[Tensor]) -> Tuple[Tensor, Tuple[Tensor, ...]]:
        """attn times the values, heads side by side [B, N, H * d], and what ``backward`` needs."""
        scores = ops.scores(qkv, heads, scale)
        if mixing:
            before, _, after, bias = mixing
            softmax = ops.softmax_(ops.mix_heads(scores, before))
            attn = ops.add_per_head_(ops.mix_heads(softmax, after), bias)
            return ops.apply_attn(attn, qkv), (attn, scores, softmax, before, after)
        attn = ops.softmax_(scores)
        return ops.apply_attn(attn, qkv), (attn,)

    @staticmethod
    def backward(qkv: Tensor, heads: int, scale: float, saved: Sequence[Tensor],
                 out_grad: Tensor) -> Tuple[Tensor, Tuple[Tensor, ...]]:
        """The gradients of qkv and of ``mixing``."""
        attn, *mixing = saved
        qkv_grad, mixing_grads, channels = empty(qkv.shape, dtype_of(qkv)), (), out_grad.shape[-1]
        attn_grad = ops.apply_attn_grad(attn, qkv, out_grad, qkv_grad)
        if mixing:
            scores, softmax, before, after = mixing
            sums = ops.sum_tokens(out_grad, channels) * ops.sum_tokens(qkv, channels)  # [B, C]; values lie last
            bias_grad = sums.reshape([-1, heads, channels // heads]).sum([0, 2])
            softmax_grad, after_grad = ops.mix_heads_grad(softmax, after, attn_grad)
            scores_grad, before_grad = ops.mix_heads_grad(scores, before, ops.softmax_grad_(softmax, softmax_grad))
            mixing_grads = before_grad, paddle.zeros_like(bias_grad), after_grad, bias_grad
        else:
            scores_grad = ops.softmax_grad_(attn, attn_grad)
        ops.scores_grad(qkv, scores_grad, scale, qkv_grad)
        return qkv_grad, mixing_grads
