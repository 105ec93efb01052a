# SPDX-License-Identifier: Apache-2.0
"""Every accelerated operation against Paddle's own on small numbers, before the first use in a process."""
from __future__ import annotations

from typing import Any, Callable, List, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F

from CaiT.accelerate import functions
from CaiT.accelerate.onednn import BFLOAT16, FLOAT32

# of an array's largest number: float32 rounding gives 1e-6, bfloat16 up to 3e-2, a wrong kernel 1e-1 and more
TOLERANCE = {FLOAT32: 1e-4, BFLOAT16: 6e-2}
SMALL = 1e-3  # of the largest of all arrays: arrays below it, biases that softmax cannot see, are rounding alone
TOKENS = {FLOAT32: 5, BFLOAT16: 65}  # of an image: bfloat16 needs MIN_PACKED_ROWS in all
BATCH, HEADS, DIM, MANY = 4, 2, 16, 300
Case = Tuple[str, Callable[..., paddle.Tensor], Callable[..., paddle.Tensor], List[Tuple[int, ...]]]


def _cases() -> List[Case]:
    """(name, accelerated, plain, shapes of their tensors)."""
    x, norm, linear = (BATCH, TOKENS[FLOAT32], DIM), [(DIM,), (DIM,)], [(DIM, DIM), (DIM,)]
    images = paddle.to_tensor(np.linspace(-1, 1, BATCH * 3 * 8 * 8, dtype='float32').reshape(BATCH, 3, 8, 8))
    return [
        ('linear', functions.linear, F.linear, [x, *linear]),
        ('linear of one output', functions.linear, F.linear, [(BATCH + 1, DIM), (DIM, 1), (1,)]),
        ('linear of many rows', functions.linear, F.linear, [(MANY, DIM), *linear]),
        ('LayerNorm', lambda *a: functions.layer_norm(*a, 1e-6), lambda y, *a: F.layer_norm(y, [DIM], *a, 1e-6),
         [x, *norm]),
        ('GELU', functions.gelu, F.gelu, [x]),
        ('patch embedding', lambda *a: functions.patches(images, *a),
         lambda w, b: F.conv2d(images, w, b, stride=4).flatten(2).transpose([0, 2, 1]), [(DIM, 3, 4, 4), (DIM,)]),
        ('position embedding', functions.add_to_each, lambda a, b: a + b, [x, (1, TOKENS[FLOAT32], DIM)]),
        *_branches(FLOAT32)]


def _branches(dtype: int) -> List[Case]:
    x, norm, linear = (BATCH, TOKENS[dtype], DIM), [(DIM,), (DIM,)], [(DIM, DIM), (DIM,)]
    runs, count = ([(0, 1), (2, 2)], 1.25) if dtype == FLOAT32 else (None, 1.0)
    selection = functions.Selection(runs, count)
    keep = paddle.to_tensor(np.float32([1.25, 0, 1.25, 1.25] if runs else [1.0] * BATCH).reshape(BATCH, 1, 1))
    mixing = [(HEADS, HEADS), (HEADS,)] * 2
    return [
        ('MLP', lambda y, g, *a: functions.mlp(y, selection, a, g, 1e-6, dtype),
         lambda y, g, *a: y + keep * g * _plain_mlp(y, *a), [x, (DIM,), *norm, *linear, *linear]),
        ('talking-heads attention', lambda y, g, *a: functions.attention(y, selection, a, g, HEADS, 0.3, 1e-6, dtype),
         lambda y, g, *a: y + keep * g * _plain_attention(y, *a),
         [x, (DIM,), *norm, (DIM, 3 * DIM), (3 * DIM,), *linear, *mixing]),
        ('attention',
         lambda y, *a: functions.attention(y, functions.Selection(None, 1.0), a, None, HEADS, 0.3, 1e-6, dtype),
         lambda y, *a: y + _plain_attention(y, *a), [x, *norm, (DIM, 3 * DIM), (3 * DIM,), *linear]),
    ]


def _plain_mlp(x: Any, norm: Any, shift: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> paddle.Tensor:
    return F.linear(F.gelu(F.linear(F.layer_norm(x, [DIM], norm, shift, 1e-6), w1, b1)), w2, b2)


def _plain_attention(x: Any, norm: Any, shift: Any, qkv: Any, qkv_bias: Any, proj: Any, proj_bias: Any,
                     *mixing: Any) -> paddle.Tensor:
    def mix(heads: paddle.Tensor, weight: Any, bias: Any) -> paddle.Tensor:
        return F.linear(heads.transpose([0, 2, 3, 1]), weight, bias).transpose([0, 3, 1, 2])
    y = F.linear(F.layer_norm(x, [DIM], norm, shift, 1e-6), qkv, qkv_bias)
    q, k, v = y.reshape([BATCH, -1, 3, HEADS, DIM // HEADS]).transpose([2, 0, 3, 1, 4]).unbind(0)
    attn = paddle.matmul(q, k, transpose_y=True) * 0.3
    attn = F.softmax(mix(attn, *mixing[:2])) if mixing else F.softmax(attn)
    attn = mix(attn, *mixing[2:]) if mixing else attn
    out = paddle.matmul(attn, v).transpose([0, 2, 1, 3]).reshape([BATCH, -1, DIM])
    return F.linear(out, proj, proj_bias)


def _results(function: Callable[..., paddle.Tensor], arrays: List[np.ndarray]) -> List[np.ndarray]:
    """The output and the gradients of a weighted sum of it."""
    inputs = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
    y = function(*inputs)
    weights = np.random.default_rng(1).normal(0, 1, y.shape).astype('float32')
    (y * paddle.to_tensor(weights)).sum().backward()
    return [y.numpy(), *(one.grad.numpy() for one in inputs)]


def disagreement(dtype: int = FLOAT32) -> str:
    """What differs from Paddle, or fails, in one line; empty when all operations that run in ``dtype`` agree."""
    rng = np.random.default_rng(0)
    with paddle.enable_grad():
        for name, fast, plain, shapes in _cases() if dtype == FLOAT32 else _branches(dtype):
            arrays = [rng.normal(0, 0.5, shape).astype('float32') for shape in shapes]
            try:
                found, expected = _results(fast, arrays), _results(plain, arrays)
            except RuntimeError as error:
                return f'{name}: {error}'
            largest = max(float(np.abs(one).max()) for one in expected)
            for one, other in zip(found, expected):
                error = float(np.abs(one - other).max())
                if not error <= TOLERANCE[dtype] * max(float(np.abs(other).max()), SMALL * largest):
                    return f"{name} differs from Paddle's by {error:.1e}"
    return ''
