# SPDX-License-Identifier: Apache-2.0
"""Attention on a GPU by Paddle's ``scaled_dot_product_attention``: ViT's and DeiT's, and CaiT's class attention.

Talking heads, which mix the heads before and after the softmax, have no fused kernel and stay as they are. Never run on
a GPU: the numbers were compared on a CPU, where Paddle takes its plain path (docs/gpu.md).
"""
from __future__ import annotations

import functools
from typing import Dict, Optional

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.accelerate.layers import has_hooks
from CaiT.models import cait, vit
from CaiT.models.layers import split_heads

LARGEST_HEAD = 256  # channels; and their number is divisible by 8 (3.3.1, nn/functional/sdpa.py)


class FusedAttention(vit.Attention):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        dtype = fused_dtype(self, x)
        if not dtype:
            return super().forward(x)
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape([batch, tokens, 3, self.num_heads, dim // self.num_heads]).astype(dtype)
        q, k, v = qkv.unbind(2)  # [B, N, H, d] each
        x = F.scaled_dot_product_attention(q, k, v).reshape([batch, tokens, dim])
        return self.proj_drop(self.proj(x))


class FusedClassAttention(cait.ClassAttention):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        dtype = fused_dtype(self, x)
        if not dtype:
            return super().forward(x)
        batch, _, dim = x.shape
        q, k, v = (split_heads(y, self.num_heads).transpose([0, 2, 1, 3]).astype(dtype)  # [B, 1 or 1 + N, H, d]
                   for y in (self.q(x[:, :1]), self.k(x), self.v(x)))
        x = F.scaled_dot_product_attention(q, k, v).reshape([batch, 1, dim])
        return self.proj_drop(self.proj(x))


FUSED: Dict[type, type] = {vit.Attention: FusedAttention, cait.ClassAttention: FusedClassAttention}


def fused_dtype(attn: nn.Layer, x: paddle.Tensor) -> Optional[str]:
    """'float16' or 'bfloat16' when a fused kernel computes ``attn`` on x [B, N, C], None when the plain path does.

    The only place that decides. Within autocast the plain path computes its products in that dtype, too. float32 stays
    plain: its fused kernel has other rounding and little to gain.
    """
    if not paddle.in_dynamic_mode() or not on_gpu(x):
        return None
    drop, each = attn.attn_drop, x.shape[-1] // attn.num_heads
    if each > LARGEST_HEAD or each % 8 or attn.scale != each ** -0.5 or 'attend' in vars(attn):
        return None
    if type(drop) is not nn.Dropout or has_hooks(drop) or (drop.p and drop.training):
        return None
    if paddle.is_autocast_enabled():
        return paddle.get_autocast_dtype()
    return {paddle.float16: 'float16', paddle.bfloat16: 'bfloat16'}.get(x.dtype)


def on_gpu(x: paddle.Tensor) -> bool:
    return x.place.is_gpu_place()


def exchange(model: nn.Layer) -> str:
    """Exchange the attention layers of ``model`` on a GPU; the line for the log."""
    device = paddle.get_device()
    if not hasattr(paddle, 'is_autocast_enabled'):
        return f'acceleration: none on {device}, fused attention needs Paddle 3.2 or later, found {paddle.__version__}'
    problem = _problem(device)
    if problem:
        return f'acceleration: none on {device}, {problem}'
    for layer in model.sublayers(include_self=True):
        if type(layer) in FUSED:
            layer.__class__ = FUSED[type(layer)]
    count = sum(type(layer) in FUSED.values() for layer in model.sublayers(include_self=True))
    if not count:
        return f'acceleration: none on {device}, the model has no attention layer with a fused kernel'
    return f'acceleration: scaled_dot_product_attention in {count} layers on {device}, with float16 or bfloat16'


@functools.lru_cache(maxsize=None)
def _problem(device: str) -> str:
    """Why the fused kernel cannot be used on this device; empty when it agrees with the plain path on small numbers,
    forward and backward."""
    try:
        difference = largest_difference('float16')
    except Exception as error:  # Paddle raises many kinds for a kernel that it does not have
        line = next((line.strip() for line in str(error).splitlines() if 'Error' in line or 'kernel' in line), '')
        return f'it has no fused attention in float16 ({line[:100] or type(error).__name__})'
    return '' if difference <= 0.01 else f'its fused attention is off by {difference:.3g} in float16'


def largest_difference(dtype: str) -> float:
    """Between the fused and the plain path, of the result and its gradients: 2 images, 9 tokens, 2 heads of 16
    channels, all numbers below 1."""
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-1, 1, [2, 9, 2, 16]).astype('float32') for _ in range(4)]
    found = []
    for fused in (True, False):
        q, k, v, weight = (paddle.to_tensor(array).astype(dtype) for array in arrays)
        for one in (q, k, v):
            one.stop_gradient = False
        if fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            q_, k_, v_ = (one.transpose([0, 2, 1, 3]) for one in (q, k, v))
            attn = F.softmax(paddle.matmul(q_ * 16 ** -0.5, k_, transpose_y=True))
            y = paddle.matmul(attn, v_).transpose([0, 2, 1, 3])
        gradients = paddle.grad((y * weight).sum(), [q, k, v])
        found.append([one.astype('float32').numpy() for one in (y, *gradients)])
    return max(float(np.abs(one - two).max()) for one, two in zip(*found))
