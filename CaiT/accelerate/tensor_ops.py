# SPDX-License-Identifier: Apache-2.0
"""oneDNN's kernels on Paddle's tensors.

Paddle itself uses oneDNN for inference only; training runs its plain CPU kernels, of which all but matrix products
use one thread and few vector instructions.

All tensors are float32, dense, on the CPU; results are new tensors, except where a name ends in _ (in place). R rows, C
columns; B images, H heads, N tokens of d channels each.
"""
from __future__ import annotations

import ctypes
import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import paddle
from paddle import _C_ops

from CaiT.accelerate import primitives
from CaiT.accelerate.library import FLOAT_BYTES, dense_strides

Tensor = paddle.Tensor
Runs = Sequence[Tuple[int, int]]  # of images: the first, how many

_MIN_PACKED_ROWS = 256  # fewer rows than this do not repay the reorder of the weight
_PLACE = paddle.CPUPlace()
_longest_ones: Optional[Tensor] = None


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) GELU."""
    return _run(primitives.gelu(math.prod(x.shape))[0], [x], [x.shape])[0]


def gelu_grad_(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x from that of gelu(x), written over the latter."""
    primitives.gelu(math.prod(x.shape))[1](x.data_ptr(), grad.data_ptr(), grad.data_ptr())
    return grad


def softmax_(x: Tensor) -> Tensor:
    """Over the last axis, in place."""
    primitives.softmax(*_flat(x))[0](x.data_ptr(), x.data_ptr())
    return x


def softmax_grad_(y: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x from y = softmax(x) and the gradient of y, written over the latter."""
    primitives.softmax(*_flat(y))[1](y.data_ptr(), grad.data_ptr(), grad.data_ptr())
    return grad


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tuple[Tensor, Tensor, Tensor]:
    """x [..., C] normalised over the last axis, times weight [C] plus bias [C]; the rows' means and variances [R]."""
    rows, columns = _flat(x)
    return _run(primitives.layer_norm(rows, columns, epsilon)[0], [x, weight, bias], [x.shape, [rows], [rows]])


def layer_norm_grad(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, grad: Tensor,
                    epsilon: float) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    rows, columns = _flat(x)
    shift = weight  # required, though no gradient depends on it
    return _run(primitives.layer_norm(rows, columns, epsilon)[1], [x, mean, variance, weight, shift, grad],
                [x.shape, [columns], [columns]])


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [..., in] times weight [in, out] plus bias [out]."""
    (rows, inputs), outputs = _flat(x), weight.shape[1]
    y = _empty([*x.shape[:-1], outputs])
    _apply(_matrix(x, rows, inputs), _matrix(weight, *weight.shape), _matrix(y, rows, outputs), bias)
    return y


def linear_grad(x: Tensor, weight: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    (rows, inputs), outputs = _flat(x), weight.shape[1]
    to_x = _empty(x.shape)
    _apply(_matrix(grad, rows, outputs), _matrix(weight, inputs, outputs).transposed(), _matrix(to_x, rows, inputs))
    return (to_x, *parameters_grad(x, grad))


def parameters_grad(x: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor]:
    """Of ``linear_grad``, the gradients of weight and bias."""
    (rows, inputs), outputs = _flat(x), grad.shape[-1]
    to_weight = _empty([inputs, outputs])
    _multiply(_matrix(x, rows, inputs).transposed(), _matrix(grad, rows, outputs), _matrix(to_weight, inputs, outputs))
    return to_weight, sum_rows(grad)


def sum_rows(x: Tensor) -> Tensor:
    """The sum [C] of the rows of x [..., C]. As a product: the fastest way to sum."""
    rows, columns = _flat(x)
    ones, y = _ones(rows), _empty([columns])
    _multiply(_matrix(ones, 1, rows), _matrix(x, rows, columns), _matrix(y, 1, columns))
    return y


def sum_tokens(x: Tensor, channels: int) -> Tensor:
    """The sums [B, channels] over the tokens of x [B, N, C]'s last channels."""
    batch, tokens, width = x.shape
    ones, y = _ones(batch * tokens), _empty([batch, channels])
    start = x.data_ptr() + (width - channels) * FLOAT_BYTES
    _multiply(_View(ones.data_ptr(), (batch, 1, tokens), (tokens, tokens, 1)),
              _View(start, (batch, tokens, channels), (tokens * width, width, 1)),
              _View(y.data_ptr(), (batch, 1, channels), (channels, channels, 1)))
    return y


def mul(x: Tensor, factor: Tensor) -> Tensor:
    """x [..., C] times ``factor``, of the same shape or [C]."""
    rows, columns = _flat(x)
    kernel = primitives.binary(primitives.MULTIPLY, (rows, columns), (math.prod(factor.shape) // columns, columns))
    return _run(kernel, [x, factor], [x.shape])[0]


def gather(x: Tensor, runs: Optional[Runs]) -> Tensor:
    """The images of x [B, N, C] in ``runs``, one after the other; x itself when ``runs`` is None (all of them)."""
    if runs is None:
        return x
    y = _empty([sum(count for _, count in runs), *x.shape[1:]])
    size, done = math.prod(x.shape[1:]) * FLOAT_BYTES, 0
    for first, count in runs:
        ctypes.memmove(y.data_ptr() + done * size, x.data_ptr() + first * size, count * size)
        done += count
    return y


def add(x: Tensor, y: Tensor, runs: Optional[Runs]) -> Tensor:
    """x [B, N, C] plus y [B or fewer, N, C], whose images are those of x in ``runs``. Overwrites y when ``runs``
    is None."""
    shape = tuple(x.shape)
    if runs is None:
        primitives.binary(primitives.ADD, shape, shape)(y.data_ptr(), x.data_ptr(), y.data_ptr())
        return y
    out = _empty(shape)
    size, position, done = math.prod(shape[1:]) * FLOAT_BYTES, 0, 0
    for first, count in (*runs, (shape[0], 0)):
        ctypes.memmove(out.data_ptr() + position * size, x.data_ptr() + position * size, (first - position) * size)
        if count:
            some = (count, *shape[1:])
            primitives.binary(primitives.ADD, some, some)(
                x.data_ptr() + first * size, y.data_ptr() + done * size, out.data_ptr() + first * size)
        position, done = first + count, done + count
    return out


def add_to_each(x: Tensor, value: Tensor) -> Tensor:
    """x [B, N, C] plus value [1, N, C]."""
    return _run(primitives.binary(primitives.ADD, tuple(x.shape), tuple(value.shape)), [x, value], [x.shape])[0]


def add_per_head_(x: Tensor, bias: Tensor) -> Tensor:
    """x [B, H, N, M] plus bias [H], in place."""
    batch, heads, rows, columns = x.shape
    add_bias = primitives.binary(primitives.ADD, (batch, heads, rows * columns), (1, heads, 1))
    add_bias(x.data_ptr(), bias.data_ptr(), x.data_ptr())
    return x


def dense(x: Tensor) -> Tensor:
    """x itself, or a dense copy of a view."""
    return x if x.is_contiguous() else x.contiguous()


# Attention on what one Linear gives, queries, keys and values side by side: qkv [B, N, 3 * H * d] ---------------------

def scores(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """Each query's product with each key, times scale: [B, H, N, N]."""
    q, k, _ = _parts(qkv, heads)
    batch, tokens, _ = qkv.shape
    y = _empty([batch, heads, tokens, tokens])
    _multiply(q, k.transposed(), _heads(y), scale=scale)
    return y


def apply_attn(attn: Tensor, qkv: Tensor) -> Tensor:
    """attn [B, H, N, N] times the values, heads side by side: [B, N, H * d]."""
    batch, heads, tokens, _ = attn.shape
    y = _empty([batch, tokens, qkv.shape[2] // 3])
    _multiply(_heads(attn), _parts(qkv, heads)[2], _merged(y, heads))
    return y


def apply_attn_grad(attn: Tensor, qkv: Tensor, grad: Tensor, to_qkv: Tensor) -> Tensor:
    """The gradient of attn; that of the values is written to its part in ``to_qkv``."""
    heads = attn.shape[1]
    g, to_attn = _merged(grad, heads), _empty(attn.shape)
    _multiply(g, _parts(qkv, heads)[2].transposed(), _heads(to_attn))
    _multiply(_heads(attn).transposed(), g, _parts(to_qkv, heads)[2])
    return to_attn


def scores_grad(qkv: Tensor, grad: Tensor, scale: float, to_qkv: Tensor) -> None:
    """The gradients of queries and keys, into their parts of ``to_qkv``."""
    heads, g = grad.shape[1], _heads(grad)
    (q, k, _), (to_q, to_k, _) = _parts(qkv, heads), _parts(to_qkv, heads)
    _multiply(g, k, to_q, scale=scale)
    _multiply(g.transposed(), q, to_k, scale=scale)


class _View(NamedTuple):
    """Matrices in memory: [..., rows, columns] from ``address`` on, ``strides`` in values."""
    address: int
    sizes: Tuple[int, ...]
    strides: Tuple[int, ...]

    def transposed(self) -> _View:
        sizes, strides = ((*one[:-2], one[-1], one[-2]) for one in self[1:])
        if sizes[-2] == 1 and strides[-1] == 1:  # one row: with its own stride of 1 oneDNN takes it for a column
            strides = (*strides[:-2], sizes[-1], 1)
        return _View(self.address, sizes, strides)


def _matrix(x: Tensor, rows: int, columns: int) -> _View:
    return _View(x.data_ptr(), (rows, columns), (columns, 1))


def _heads(x: Tensor) -> _View:
    """A dense [B, H, N, M]."""
    sizes = tuple(x.shape)
    return _View(x.data_ptr(), sizes, dense_strides(sizes))


def _merged(x: Tensor, heads: int) -> _View:
    """[B, N, H * d] as [B, H, N, d]."""
    batch, tokens, dim = x.shape
    return _View(x.data_ptr(), (batch, heads, tokens, dim // heads), (tokens * dim, dim // heads, dim, 1))


def _parts(qkv: Tensor, heads: int) -> List[_View]:
    """Queries, keys and values as [B, H, N, d]."""
    batch, tokens, width = qkv.shape
    dim = width // 3
    sizes, strides = (batch, heads, tokens, dim // heads), (tokens * width, dim // heads, width, 1)
    return [_View(qkv.data_ptr() + part * dim * FLOAT_BYTES, sizes, strides) for part in range(3)]


def _multiply(a: _View, b: _View, y: _View, bias: Optional[Tensor] = None, scale: float = 1.0) -> None:
    """y becomes scale times a times b, plus bias [columns of y]."""
    kernel = primitives.product(*a[1:], *b[1:], *y[1:], bias is not None, scale)
    kernel(a.address, b.address, *([] if bias is None else [bias.data_ptr()]), y.address)


def _apply(x: _View, weight: _View, y: _View, bias: Optional[Tensor] = None) -> None:
    """As ``_multiply``. When x has many rows, the weight is first reordered into the layout that the product reads
    fastest."""
    if x.sizes[0] < _MIN_PACKED_ROWS:
        _multiply(x, weight, y, bias)
        return
    reorder, product, size = primitives.packed_product(*x[1:], *weight[1:], *y[1:], bias is not None)
    packed = _empty([size])
    reorder(weight.address, packed.data_ptr())
    product(x.address, packed.data_ptr(), *([] if bias is None else [bias.data_ptr()]), y.address)


def _run(kernel: primitives.Kernel, inputs: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> Tuple[Tensor, ...]:
    """Fill new tensors of these shapes."""
    outputs = tuple(map(_empty, shapes))
    kernel(*(x.data_ptr() for x in inputs), *(y.data_ptr() for y in outputs))
    return outputs


def _empty(shape: Sequence[int]) -> Tensor:
    return _C_ops.empty(shape, paddle.float32, _PLACE)  # what paddle.empty calls, a quarter of its time


def _flat(x: Tensor) -> Tuple[int, int]:
    """Rows and columns of x, the last axis being the columns."""
    columns = x.shape[-1]
    return math.prod(x.shape[:-1]), columns


def _ones(size: int) -> Tensor:
    """At least ``size`` ones, kept for the next call."""
    global _longest_ones
    ones = _longest_ones
    if ones is None or ones.shape[0] < size:
        ones = _longest_ones = paddle.ones([size], 'float32')
    return ones
