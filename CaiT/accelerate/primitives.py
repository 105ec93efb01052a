# SPDX-License-Identifier: Apache-2.0
"""oneDNN's primitives for given sizes and data types, kept in caches of bounded size.

A ``Kernel`` that a cache has dropped destroys its primitive as soon as no thread uses it.
"""
from __future__ import annotations

import ctypes
import functools
import threading
from typing import Optional, Tuple

from CaiT.accelerate.onednn import (
    BYTES,
    FLOAT32,
    IN_ORDER,
    Argument,
    Handles,
    Sizes,
    check,
    chosen_layout,
    engine,
    library,
)

# Entries of the caches. A training step needs six products and four packed ones for every number of images that
# stochastic depth leaves (CaiT-XXS24 at drop prob 0.4 and batch 32: 273 and 123), few of the other kinds. All caches
# full are about 150 MB.
FEW, PACKED, PRODUCTS = 64, 128, 320
# propagation kinds and algorithms (dnnl_types.h)
_TRAINING, _BACKWARD = 64, 128
_LINEAR, _GELU_ERF, _SOFTMAX, ADD, MULTIPLY = 38, 49, 0x30000, 0x1fff0, 0x1fff1
_SCALE_AND_SHIFT = 2 | 4
# arguments of a primitive
_SRC, _SRC1, _DST, _WEIGHTS, _BIAS, _MEAN, _VARIANCE, _SCALE, _SHIFT = 1, 2, 17, 33, 41, 49, 50, 51, 52
_DIFF_SRC, _DIFF_DST, _DIFF_SCALE, _DIFF_SHIFT = 129, 145, 255, 256

Dtypes = Tuple[int, int, int]  # of a, b and y
_ALL_FLOAT32: Dtypes = (FLOAT32, FLOAT32, FLOAT32)
Named = Tuple[int, ctypes.c_void_p]  # an argument and its memory descriptor


class Kernel:
    """A primitive, called with addresses in the order of its ``arguments``.

    It keeps the addresses of its call, so one thread at a time runs it.
    """
    alive = 0  # kernels that are not destroyed yet, for tests

    def __init__(self, primitive_desc: ctypes.c_void_p, *arguments: Named) -> None:
        self._handles = Handles()
        self._lock = threading.Lock()
        try:
            self._primitive = self._handles.make('primitive', 'primitive_create', primitive_desc)
            self._stream = self._handles.make('stream', 'stream_create', engine(), IN_ORDER)
            self._memories = [self._handles.make('memory', 'memory_create', desc, engine(), None)
                              for _, desc in arguments]
        except RuntimeError:
            self._handles.destroy()
            raise
        Kernel.alive += 1
        self._arguments = (Argument * len(arguments))(
            *(Argument(name, memory) for (name, _), memory in zip(arguments, self._memories)))
        self._execute = library().dnnl_primitive_execute
        self._set_address = library(keep_gil=True).dnnl_memory_set_data_handle
        self._set_address.argtypes = (ctypes.c_void_p, ctypes.c_void_p)

    def __call__(self, *addresses: int) -> None:
        with self._lock:
            for memory, address in zip(self._memories, addresses):
                self._set_address(memory, address)
            check('primitive_execute', self._execute(self._primitive, self._stream, len(addresses), self._arguments))

    def __del__(self) -> None:
        if hasattr(self, '_execute'):
            type(self).alive -= 1  # by the instance: module names are gone when Python exits
            self._handles.destroy()


@functools.lru_cache(maxsize=FEW)
def gelu(size: int, dtype: int = FLOAT32) -> Tuple[Kernel, Kernel]:
    """Forward: x to y. Backward: x and the gradient of y to that of x."""
    with Handles() as make:
        x, unused = make.memory_desc((size,), dtype=dtype), ctypes.c_float(0)
        forward = make.primitive_desc('eltwise_forward', _TRAINING, _GELU_ERF, x, x, unused, unused)
        backward = make.primitive_desc('eltwise_backward', _GELU_ERF, x, x, x, unused, unused, forward)
        return Kernel(forward, (_SRC, x), (_DST, x)), Kernel(backward, (_SRC, x), (_DIFF_DST, x), (_DIFF_SRC, x))


@functools.lru_cache(maxsize=FEW)
def softmax(rows: int, columns: int, dtype: int = FLOAT32) -> Tuple[Kernel, Kernel]:
    """Forward: x to y. Backward: y and the gradient of y to that of x."""
    with Handles() as make:
        x = make.memory_desc((rows, columns), dtype=dtype)
        forward = make.primitive_desc('softmax_forward', _TRAINING, _SOFTMAX, x, x, 1)
        backward = make.primitive_desc('softmax_backward', _SOFTMAX, x, x, x, 1, forward)
        return Kernel(forward, (_SRC, x), (_DST, x)), Kernel(backward, (_DST, x), (_DIFF_DST, x), (_DIFF_SRC, x))


@functools.lru_cache(maxsize=FEW)
def layer_norm(rows: int, columns: int, epsilon: float, dtype: int = FLOAT32) -> Tuple[Kernel, Kernel]:
    """Forward: x, scale, shift to y, means, variances. Backward: x, means, variances, scale, shift, the gradient of y
    to those of x, scale and shift. ``dtype``: of y and its gradient; everything else is float32."""
    with Handles() as make:
        x, y = make.memory_desc((rows, columns)), make.memory_desc((rows, columns), dtype=dtype)
        row, column, small = make.memory_desc((rows,)), make.memory_desc((columns,)), ctypes.c_float(epsilon)
        forward = make.primitive_desc('layer_normalization_forward', _TRAINING, x, y, row, small, _SCALE_AND_SHIFT)
        backward = make.primitive_desc('layer_normalization_backward', _BACKWARD, x, y, x, row, small,
                                       _SCALE_AND_SHIFT, forward)
        return (Kernel(forward, (_SRC, x), (_SCALE, column), (_SHIFT, column), (_DST, y), (_MEAN, row),
                       (_VARIANCE, row)),
                Kernel(backward, (_SRC, x), (_MEAN, row), (_VARIANCE, row), (_SCALE, column), (_SHIFT, column),
                       (_DIFF_DST, y), (_DIFF_SRC, x), (_DIFF_SCALE, column), (_DIFF_SHIFT, column)))


@functools.lru_cache(maxsize=PRODUCTS)
def product(a: Sizes, a_strides: Sizes, b: Sizes, b_strides: Sizes, y: Sizes, y_strides: Sizes, has_bias: bool,
            scale: float, dtypes: Dtypes = _ALL_FLOAT32) -> Kernel:
    """``scale`` times (a times b, plus a bias)."""
    with Handles() as make:
        x, weight, result = map(make.memory_desc, (a, b, y), (a_strides, b_strides, y_strides), dtypes)
        bias = _bias_desc(make, y) if has_bias else None
        attributes = None
        if scale != 1.0:
            attributes = make.make('primitive_attr', 'primitive_attr_create')
            post_ops = make.make('post_ops', 'post_ops_create')
            check('post_ops_append_eltwise', library().dnnl_post_ops_append_eltwise(
                post_ops, _LINEAR, ctypes.c_float(scale), ctypes.c_float(0)))
            check('primitive_attr_set_post_ops', library().dnnl_primitive_attr_set_post_ops(attributes, post_ops))
        multiply = make.primitive_desc('matmul', x, weight, bias, result, attributes=attributes)
        return Kernel(multiply, (_SRC, x), (_WEIGHTS, weight), *([(_BIAS, bias)] if has_bias else []), (_DST, result))


@functools.lru_cache(maxsize=PACKED)
def packed_product(a: Sizes, a_strides: Sizes, b: Sizes, b_strides: Sizes, y: Sizes, y_strides: Sizes,
                   has_bias: bool, dtypes: Dtypes = _ALL_FLOAT32) -> Tuple[Kernel, Kernel, int]:
    """The reorder of b into the data type of a and the layout that the product reads fastest, the product, and the
    number of values that b has in that layout."""
    with Handles() as make:
        x, weight, result = map(make.memory_desc, (a, b, y), (a_strides, b_strides, y_strides), dtypes)
        bias = _bias_desc(make, y) if has_bias else None
        multiply = make.primitive_desc('matmul', x, make.any_layout_desc(b, dtypes[0]), bias, result)
        packed, size = chosen_layout(multiply)
        reorder = make.make('primitive_desc', 'reorder_primitive_desc_create', weight, engine(), packed, engine(), None)
        return (Kernel(reorder, (_SRC, weight), (_DST, packed)),
                Kernel(multiply, (_SRC, x), (_WEIGHTS, packed), *([(_BIAS, bias)] if has_bias else []), (_DST, result)),
                size // BYTES[dtypes[0]])


@functools.lru_cache(maxsize=FEW)
def binary(algorithm: int, a: Sizes, b: Sizes, dtypes: Dtypes = _ALL_FLOAT32) -> Kernel:
    """a and b to their sum or product, of a's sizes; b is broadcast along its axes of size 1."""
    with Handles() as make:
        x, y, result = (make.memory_desc(sizes, dtype=dtype) for sizes, dtype in zip((a, b, a), dtypes))
        return Kernel(make.primitive_desc('binary', algorithm, x, y, result), (_SRC, x), (_SRC1, y), (_DST, result))


@functools.lru_cache(maxsize=FEW)
def convert(size: int, dtype: int, to_dtype: int) -> Kernel:
    """x to x in another data type."""
    with Handles() as make:
        x, y = make.memory_desc((size,), dtype=dtype), make.memory_desc((size,), dtype=to_dtype)
        reorder = make.make('primitive_desc', 'reorder_primitive_desc_create', x, engine(), y, engine(), None)
        return Kernel(reorder, (_SRC, x), (_DST, y))


CACHES = (gelu, softmax, layer_norm, product, packed_product, binary, convert)


def _bias_desc(make: Handles, y: Sizes) -> Optional[ctypes.c_void_p]:
    return make.memory_desc((*(1 for _ in y[:-1]), y[-1]))


def clear_caches() -> None:
    """Destroy all kernels that no thread is running."""
    for cache in CACHES:
        cache.cache_clear()
