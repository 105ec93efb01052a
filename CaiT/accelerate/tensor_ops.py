# SPDX-License-Identifier: Apache-2.0
"""oneDNN's kernels on Paddle's tensors.

Paddle itself uses oneDNN for inference only; training runs its plain CPU kernels, of which all but matrix products
use one thread and few vector instructions.

All tensors are dense and on the CPU; results are new tensors, except where a name ends in _ (in place). Parameters,
their gradients and what is added to x are float32; other tensors float32 or bfloat16, results as their inputs unless a
``dtype`` (of ``onednn``) says otherwise. R rows, C columns; B images, H heads, N tokens of d channels each.
"""
from __future__ import annotations

import ctypes
import math
from typing import Dict, Optional, Sequence, Tuple

import paddle

from CaiT.accelerate import primitives
from CaiT.accelerate.onednn import BFLOAT16, BYTES, FLOAT32
from CaiT.accelerate.views import Tensor, dtype_of, empty, flat, merged_heads, multiply, multiply_weight, parts, view

Runs = Sequence[Tuple[int, int]]  # of images: the first, how many

_longest_ones: Dict[int, Tensor] = {}  # by data type


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) GELU."""
    y = empty(x.shape, dtype_of(x))
    primitives.gelu(math.prod(x.shape), dtype_of(x))[0](x.data_ptr(), y.data_ptr())
    return y


def gelu_grad_(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x from that of gelu(x), written over the latter."""
    primitives.gelu(math.prod(x.shape), dtype_of(x))[1](x.data_ptr(), grad.data_ptr(), grad.data_ptr())
    return grad


def softmax_(x: Tensor) -> Tensor:
    """Over the last axis, in place."""
    primitives.softmax(*flat(x), dtype_of(x))[0](x.data_ptr(), x.data_ptr())
    return x


def softmax_grad_(y: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x from y = softmax(x) and the gradient of y, written over the latter."""
    primitives.softmax(*flat(y), dtype_of(y))[1](y.data_ptr(), grad.data_ptr(), grad.data_ptr())
    return grad


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float,
               dtype: int = FLOAT32) -> Tuple[Tensor, Tensor, Tensor]:
    """x [..., C] normalized over the last axis, times weight [C] plus bias [C]; the rows' means and variances [R]."""
    rows, columns = flat(x)
    outputs = empty(x.shape, dtype), empty([rows]), empty([rows])
    primitives.layer_norm(rows, columns, epsilon, dtype)[0](*(t.data_ptr() for t in (x, weight, bias, *outputs)))
    return outputs


def layer_norm_grad(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, grad: Tensor,
                    epsilon: float) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    rows, columns = flat(x)
    shift = weight  # required, though no gradient depends on it
    outputs = empty(x.shape), empty([columns]), empty([columns])
    primitives.layer_norm(rows, columns, epsilon, dtype_of(grad))[1](
        *(t.data_ptr() for t in (x, mean, variance, weight, shift, grad, *outputs)))
    return outputs


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [..., in] times weight [in, out] plus bias [out]."""
    (rows, inputs), outputs = flat(x), weight.shape[1]
    y = empty([*x.shape[:-1], outputs], dtype_of(x))
    multiply_weight(view(x, (rows, inputs)), view(weight, weight.shape), view(y, (rows, outputs)), bias)
    return y


def linear_grad(x: Tensor, weight: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    (rows, inputs), outputs = flat(x), weight.shape[1]
    to_x = empty(x.shape, dtype_of(grad))
    multiply_weight(view(grad, (rows, outputs)), view(weight, weight.shape).transposed(), view(to_x, (rows, inputs)))
    return (to_x, *parameters_grad(x, grad))


def parameters_grad(x: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor]:
    """Of ``linear_grad``, the gradients of weight and bias."""
    (rows, inputs), outputs = flat(x), grad.shape[-1]
    to_weight = empty([inputs, outputs])
    multiply(view(x, (rows, inputs)).transposed(), view(grad, (rows, outputs)), view(to_weight, (inputs, outputs)))
    return to_weight, sum_rows(grad)


def sum_rows(x: Tensor) -> Tensor:
    """The sum [C] of the rows of x [..., C], in float32. As a product: the fastest way to sum."""
    rows, columns = flat(x)
    ones, y = _ones(rows, dtype_of(x)), empty([columns])
    multiply(view(ones, (1, rows)), view(x, (rows, columns)), view(y, (1, columns)))
    return y


def sum_tokens(x: Tensor, channels: int) -> Tensor:
    """The sums [B, channels], in float32, over the tokens of x [B, N, C]'s last channels."""
    batch, tokens, width = x.shape
    ones, y = _ones(batch * tokens, dtype_of(x)), empty([batch, channels])
    multiply(view(ones, (batch, 1, tokens)),
             view(x, (batch, tokens, channels), width - channels, (tokens * width, width, 1)),
             view(y, (batch, 1, channels)))
    return y


def mul(x: Tensor, factor: Tensor) -> Tensor:
    """x [..., C] times ``factor``, of the same shape or [C]; float32."""
    rows, columns = flat(x)
    y = empty(x.shape)
    primitives.binary(primitives.MULTIPLY, (rows, columns), (math.prod(factor.shape) // columns, columns))(
        x.data_ptr(), factor.data_ptr(), y.data_ptr())
    return y


def gather(x: Tensor, runs: Optional[Runs]) -> Tensor:
    """The images of x [B, N, C] in ``runs``, one after the other; x itself when ``runs`` is None (all of them).
    float32."""
    if runs is None:
        return x
    y = empty([sum(count for _, count in runs), *x.shape[1:]])
    size, done = math.prod(x.shape[1:]) * BYTES[FLOAT32], 0
    for first, count in runs:
        ctypes.memmove(y.data_ptr() + done * size, x.data_ptr() + first * size, count * size)
        done += count
    return y


def add(x: Tensor, y: Tensor, runs: Optional[Runs]) -> Tensor:
    """x [B, N, C] plus y [B or fewer, N, C], whose images are those of x in ``runs``; float32. Overwrites y if it can,
    when ``runs`` is None and y float32."""
    shape, dtypes = tuple(x.shape), (FLOAT32, dtype_of(y), FLOAT32)
    if runs is None:
        out = empty(shape) if dtype_of(y) == BFLOAT16 else y
        primitives.binary(primitives.ADD, shape, shape, dtypes)(x.data_ptr(), y.data_ptr(), out.data_ptr())
        return out
    out = empty(shape)
    size, y_size = (math.prod(shape[1:]) * BYTES[dtype] for dtype in dtypes[:2])
    position = done = 0
    for first, count in (*runs, (shape[0], 0)):
        ctypes.memmove(out.data_ptr() + position * size, x.data_ptr() + position * size, (first - position) * size)
        if count:
            some = (count, *shape[1:])
            primitives.binary(primitives.ADD, some, some, dtypes)(
                x.data_ptr() + first * size, y.data_ptr() + done * y_size, out.data_ptr() + first * size)
        position, done = first + count, done + count
    return out


def add_to_each(x: Tensor, value: Tensor) -> Tensor:
    """x [B, N, C] plus value [1, N, C]; float32."""
    y = empty(x.shape)
    primitives.binary(primitives.ADD, tuple(x.shape), tuple(value.shape))(
        x.data_ptr(), value.data_ptr(), y.data_ptr())
    return y


def convert(x: Tensor, dtype: int) -> Tensor:
    """x in another data type; x itself when it has it."""
    if dtype_of(x) == dtype:
        return x
    y = empty(x.shape, dtype)
    primitives.convert(math.prod(x.shape), dtype_of(x), dtype)(x.data_ptr(), y.data_ptr())
    return y


def dense(x: Tensor) -> Tensor:
    """x itself, or a dense copy of a view."""
    return x if x.is_contiguous() else x.contiguous()


# Attention on what one Linear gives, queries, keys and values side by side: qkv [B, N, 3 * H * d] ---------------------

def scores(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """Each query's product with each key, times scale: [B, H, N, N]."""
    q, k, _ = parts(qkv, heads)
    batch, tokens, _ = qkv.shape
    y = empty([batch, heads, tokens, tokens], dtype_of(qkv))
    multiply(q, k.transposed(), view(y, y.shape), scale=scale)
    return y


def apply_attn(attn: Tensor, qkv: Tensor) -> Tensor:
    """attn [B, H, N, N] times the values, heads side by side: [B, N, H * d]."""
    batch, heads, tokens, _ = attn.shape
    y = empty([batch, tokens, qkv.shape[2] // 3], dtype_of(qkv))
    multiply(view(attn, attn.shape), parts(qkv, heads)[2], merged_heads(y, heads))
    return y


def apply_attn_grad(attn: Tensor, qkv: Tensor, grad: Tensor, to_qkv: Tensor) -> Tensor:
    """The gradient of attn; that of the values is written to its part in ``to_qkv``."""
    heads = attn.shape[1]
    g, to_attn = merged_heads(grad, heads), empty(attn.shape, dtype_of(grad))
    multiply(g, parts(qkv, heads)[2].transposed(), view(to_attn, attn.shape))
    multiply(view(attn, attn.shape).transposed(), g, parts(to_qkv, heads)[2])
    return to_attn


def scores_grad(qkv: Tensor, grad: Tensor, scale: float, to_qkv: Tensor) -> None:
    """The gradients of queries and keys, into their parts of ``to_qkv``."""
    heads, g = grad.shape[1], view(grad, grad.shape)
    (q, k, _), (to_q, to_k, _) = parts(qkv, heads), parts(to_qkv, heads)
    multiply(g, k, to_q, scale=scale)
    multiply(g.transposed(), q, to_k, scale=scale)


def mix_heads(x: Tensor, weight: Tensor) -> Tensor:
    """The heads of x [B, H, N, M] mixed by weight [in, out]."""
    if dtype_of(x) == FLOAT32:  # for so few rows Paddle's product is the faster one
        return paddle.matmul(weight, _per_head(x), transpose_x=True).reshape(x.shape)
    batch, heads, *_ = x.shape
    rows, small = (batch, heads, math.prod(x.shape[2:])), convert(weight, dtype_of(x))
    y = empty(x.shape, dtype_of(x))
    multiply(view(small, (1, heads, heads)).transposed(), view(x, rows), view(y, rows))
    return y


def mix_heads_grad(x: Tensor, weight: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor]:
    """The gradients of x and weight."""
    if dtype_of(x) == FLOAT32:
        flat_grad = _per_head(grad)
        return (paddle.matmul(weight, flat_grad).reshape(x.shape),
                paddle.matmul(_per_head(x), flat_grad, transpose_y=True).sum(0))
    batch, heads, tokens, columns = x.shape
    rows, small = (batch, heads, tokens * columns), convert(weight, dtype_of(x))
    to_x, to_weight = empty(x.shape, dtype_of(x)), empty([batch, tokens, heads, heads])
    multiply(view(small, (1, heads, heads)), view(grad, rows), view(to_x, rows))
    # token by token: as one long product of so few rows it takes three times as long
    sizes, strides = (batch, tokens, heads, columns), (heads * tokens * columns, columns, tokens * columns, 1)
    multiply(view(x, sizes, 0, strides), view(grad, sizes, 0, strides).transposed(),
             view(to_weight, to_weight.shape))
    return to_x, to_weight.sum([0, 1])


def add_per_head_(x: Tensor, bias: Tensor) -> Tensor:
    """x [B, H, N, M] plus bias [H], in place."""
    batch, heads, rows, columns = x.shape
    add_bias = primitives.binary(primitives.ADD, (batch, heads, rows * columns), (1, heads, 1),
                                 (dtype_of(x), FLOAT32, dtype_of(x)))
    add_bias(x.data_ptr(), bias.data_ptr(), x.data_ptr())
    return x


def _per_head(x: Tensor) -> Tensor:
    """[B, H, N, M] as [B, H, N * M]."""
    return x.reshape([x.shape[0], x.shape[1], -1])


def _ones(size: int, dtype: int) -> Tensor:
    """At least ``size`` ones, kept for the next call."""
    ones = _longest_ones.get(dtype)
    if ones is None or ones.shape[0] < size:
        ones = _longest_ones[dtype] = convert(paddle.ones([size], 'float32'), dtype)
    return ones
