# SPDX-License-Identifier: Apache-2.0
"""Matrices in the memory of Paddle's tensors, and their products by oneDNN."""
from __future__ import annotations

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import paddle
from paddle import _C_ops

from CaiT.accelerate import primitives
from CaiT.accelerate.onednn import BFLOAT16, BYTES, FLOAT32, dense_strides

Tensor = paddle.Tensor

MIN_PACKED_ROWS = 256  # fewer rows than this do not repay the reorder of the weight
_PADDLE_DTYPES = {FLOAT32: paddle.float32, BFLOAT16: paddle.bfloat16}
_PLACE = paddle.CPUPlace()


class View(NamedTuple):
    """Matrices in memory: [..., rows, columns] from ``address`` on, ``strides`` in values."""
    address: int
    sizes: Tuple[int, ...]
    strides: Tuple[int, ...]
    dtype: int

    def transposed(self) -> View:
        sizes, strides = ((*one[:-2], one[-1], one[-2]) for one in (self.sizes, self.strides))
        if sizes[-2] == 1 and strides[-1] == 1:  # one row: with its own stride of 1 oneDNN takes it for a column
            strides = (*strides[:-2], sizes[-1], 1)
        return View(self.address, sizes, strides, self.dtype)


def view(x: Tensor, sizes: Sequence[int], offset: int = 0, strides: Sequence[int] = ()) -> View:
    """Matrices of these sizes in the memory of x, from its value number ``offset`` on; dense unless strides are
    given."""
    dtype = dtype_of(x)
    return View(x.data_ptr() + offset * BYTES[dtype], tuple(sizes), tuple(strides) or dense_strides(sizes), dtype)


def merged_heads(x: Tensor, heads: int) -> View:
    """[B, N, H * d] as [B, H, N, d]."""
    batch, tokens, dim = x.shape
    return view(x, (batch, heads, tokens, dim // heads), 0, (tokens * dim, dim // heads, dim, 1))


def parts(qkv: Tensor, heads: int) -> List[View]:
    """Queries, keys and values, side by side in [B, N, 3 * H * d], as [B, H, N, d]."""
    batch, tokens, width = qkv.shape
    dim = width // 3
    sizes, strides = (batch, heads, tokens, dim // heads), (tokens * width, dim // heads, width, 1)
    return [view(qkv, sizes, part * dim, strides) for part in range(3)]


def multiply(a: View, b: View, y: View, bias: Optional[Tensor] = None, scale: float = 1.0) -> None:
    """y becomes scale times a times b, plus bias [columns of y]."""
    kernel = primitives.product(*a[1:3], *b[1:3], *y[1:3], bias is not None, scale, (a.dtype, b.dtype, y.dtype))
    kernel(a.address, b.address, *([] if bias is None else [bias.data_ptr()]), y.address)


def multiply_weight(x: View, weight: View, y: View, bias: Optional[Tensor] = None) -> None:
    """y becomes x times weight, plus bias [columns of y]. When x has many rows, the weight is first reordered into the
    layout that the product reads fastest, and into the data type of x."""
    if x.sizes[0] < MIN_PACKED_ROWS:
        multiply(x, weight, y, bias)
        return
    reorder, product, size = primitives.packed_product(
        *x[1:3], *weight[1:3], *y[1:3], bias is not None, (x.dtype, weight.dtype, y.dtype))
    packed = empty([size], x.dtype)
    reorder(weight.address, packed.data_ptr())
    product(x.address, packed.data_ptr(), *([] if bias is None else [bias.data_ptr()]), y.address)


def empty(shape: Sequence[int], dtype: int = FLOAT32) -> Tensor:
    return _C_ops.empty(shape, _PADDLE_DTYPES[dtype], _PLACE)  # what paddle.empty calls, a quarter of its time


def dtype_of(x: Tensor) -> int:
    """oneDNN's number of x's data type."""
    return BFLOAT16 if x.dtype == paddle.bfloat16 else FLOAT32


def flat(x: Tensor) -> Tuple[int, int]:
    """Rows and columns of x, the last axis being the columns."""
    columns = x.shape[-1]
    return math.prod(x.shape[:-1]), columns
