# SPDX-License-Identifier: Apache-2.0
"""Talking-heads attention in one compiled kernel (``native/talking_heads.cpp``), which saves nothing of size N x N.

``prepare`` compiles, loads and checks it; ``ready`` finds it. CAIT_NATIVE=off does without it.
"""
from __future__ import annotations

import ctypes
import functools
import os
from typing import Optional, Sequence, Tuple

import numpy as np
import paddle

from CaiT.accelerate import tensor_ops as ops
from CaiT.accelerate.attend import Products
from CaiT.accelerate.native import build
from CaiT.accelerate.native.build import HEAD_DIM, MAX_TOKENS
from CaiT.accelerate.onednn import BFLOAT16, FLOAT32
from CaiT.accelerate.views import Tensor, dtype_of, empty

TOLERANCE = {FLOAT32: 1e-4, BFLOAT16: 6e-2}  # of an array's largest number
_NAMES = {FLOAT32: 'float32', BFLOAT16: 'bfloat16'}
_kernels = {}  # by number of heads; only those that agree with oneDNN's products


class Kernel:
    """``Products`` for one number of heads; needs ``mixing``."""

    def __init__(self, path: os.PathLike, heads: int) -> None:
        self._library, self._heads = ctypes.CDLL(os.fspath(path)), heads
        self.dtypes = [dtype for dtype, name in _NAMES.items() if hasattr(self._library, f'forward_{name}')]

    def forward(self, qkv: Tensor, heads: int, scale: float,
                mixing: Sequence[Tensor]) -> Tuple[Tensor, Tuple[Tensor, ...]]:
        before, _, after, bias = mixing
        y = empty([*qkv.shape[:2], qkv.shape[2] // 3], dtype_of(qkv))
        self._call('forward', qkv, [qkv, y], [before * scale, after, bias])
        return y, (before, after, bias)

    def backward(self, qkv: Tensor, heads: int, scale: float, saved: Sequence[Tensor],
                 out_grad: Tensor) -> Tuple[Tensor, Tuple[Tensor, ...]]:
        before, after, bias = saved
        qkv_grad, grads = empty(qkv.shape, dtype_of(qkv)), empty([2 * heads * heads + heads])
        self._call('backward', qkv, [qkv, out_grad, qkv_grad], [before * scale, after, bias], [grads])
        before_grad, after_grad, bias_grad = grads.split([heads * heads, heads * heads, heads])
        return qkv_grad, ((before_grad * scale).reshape(before.shape), paddle.zeros_like(bias),
                          after_grad.reshape(after.shape), bias_grad)

    def _call(self, name: str, qkv: Tensor, *groups: Sequence[Tensor]) -> None:
        first, *others = ([ctypes.c_void_p(x.data_ptr()) for x in tensors] for tensors in groups)
        batch, tokens, _ = qkv.shape
        function = getattr(self._library, f'{name}_{_NAMES[dtype_of(qkv)]}')
        if function(*first, batch, tokens, *sum(others, [])):
            raise MemoryError('fused attention: out of memory')


def ready(qkv: Tensor, heads: int) -> Optional[Kernel]:
    """The prepared kernel for qkv [B, N, 3 * H * d], if there is one."""
    kernel = _kernels.get(heads)
    if kernel is None or qkv.shape[2] != 3 * heads * HEAD_DIM or not 0 < qkv.shape[1] <= MAX_TOKENS \
            or dtype_of(qkv) not in kernel.dtypes or build.off():
        return None
    return kernel


def prepare(heads: int) -> str:
    """Make the kernel for this number of heads ready; why that cannot be, or an empty string."""
    return 'CAIT_NATIVE' if build.off() else _prepare(heads)


@functools.lru_cache(maxsize=None)
def _prepare(heads: int) -> str:
    try:
        kernel = Kernel(build.for_paddle(heads), heads)
        problem = disagreement(kernel, heads)
    except (build.BuildError, OSError, RuntimeError) as error:
        problem = str(error)
    if not problem:
        _kernels[heads] = kernel
    return problem


def disagreement(kernel: Kernel, heads: int) -> str:
    """What of the kernel's results differs from ``Products``', on two images of 37 tokens; empty when nothing does."""
    rng, width = np.random.default_rng(0), heads * HEAD_DIM
    mixing = [paddle.to_tensor(rng.normal(0, 0.5, shape).astype('float32')) for shape in ((heads, heads), (heads,)) * 2]
    qkv, grad = (paddle.to_tensor(rng.normal(0, 1, (2, 37, size)).astype('float32')) for size in (3 * width, width))
    with paddle.no_grad():
        expected = _results(Products, qkv, grad, heads, mixing)
        for dtype in kernel.dtypes:
            found = _results(kernel, ops.convert(qkv, dtype), ops.convert(grad, dtype), heads, mixing)
            for one, other in zip(found, expected):
                error = float((ops.convert(one, FLOAT32) - other).abs().max())
                if not error <= TOLERANCE[dtype] * float(other.abs().max()):
                    return f"differs from oneDNN's products by {error:.1e} in {_NAMES[dtype]}"
    return ''


def _results(attend: object, qkv: Tensor, grad: Tensor, heads: int, mixing: Sequence[Tensor]) -> Sequence[Tensor]:
    out, saved = attend.forward(qkv, heads, HEAD_DIM ** -0.5, mixing)
    qkv_grad, mixing_grads = attend.backward(qkv, heads, HEAD_DIM ** -0.5, saved, grad)
    return [out, qkv_grad, *mixing_grads]
