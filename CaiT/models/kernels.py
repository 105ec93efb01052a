# SPDX-License-Identifier: Apache-2.0
"""oneDNN's primitives, one for each size that is asked for, by the C interface of the library in Paddle's wheel.

Interface: oneDNN 3 (https://uxlfoundation.github.io/oneDNN), stable within the major version. Numbers below are those
of its header files. All is float32.
"""
from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
from typing import Any, Callable, Optional, Tuple

import paddle

from CaiT import runtime

# kinds of propagation and algorithms
_TRAINING, _BACKWARD = 64, 128
_LINEAR, _GELU_ERF, _SOFTMAX, ADD, MULTIPLY = 38, 49, 0x30000, 0x1fff0, 0x1fff1
_SCALE_AND_SHIFT = 2 | 4
# arguments of a primitive
_SRC, _SRC1, _DST, _WEIGHTS, _BIAS, _MEAN, _VARIANCE, _SCALE, _SHIFT = 1, 2, 17, 33, 41, 49, 50, 51, 52
_DIFF_SRC, _DIFF_DST, _DIFF_SCALE, _DIFF_SHIFT = 129, 145, 255, 256
_CPU, _FLOAT32, _IN_ORDER, _AXES, BYTES, _ANY, _WEIGHTS_LAYOUT = 1, 3, 1, 12, 4, 1, 131

Sizes = Tuple[int, ...]
_thread = threading.local()  # kernels: they keep the addresses of their call, so threads cannot share them


class _Argument(ctypes.Structure):
    _fields_ = [('name', ctypes.c_int), ('memory', ctypes.c_void_p)]


class _Version(ctypes.Structure):
    _fields_ = [('major', ctypes.c_int), ('minor', ctypes.c_int), ('patch', ctypes.c_int)]


@functools.lru_cache(maxsize=None)
def version() -> str:
    """The library's version, empty where it cannot be used: not in this wheel, of another major version, switched off
    with the other settings (CAIT_RUNTIME=off), or with stride kernels, under which tensors are not dense."""
    if runtime.off() or paddle.get_flags('FLAGS_use_stride_kernel')['FLAGS_use_stride_kernel']:
        return ''
    try:
        function = _library().dnnl_version
    except (OSError, AttributeError):
        return ''
    function.restype = ctypes.POINTER(_Version)
    found = function().contents
    return f'{found.major}.{found.minor}.{found.patch}' if found.major == 3 else ''


class Kernel:
    """A primitive, called with addresses in the order of its ``arguments`` (names and shapes)."""

    def __init__(self, description: ctypes.c_void_p, *arguments: Tuple[int, ctypes.c_void_p]) -> None:
        self.primitive = _made('primitive_create', description)
        self.memories = [_made('memory_create', shape, _engine(), None) for _, shape in arguments]
        self.arguments = (_Argument * len(arguments))(
            *(_Argument(name, memory) for (name, _), memory in zip(arguments, self.memories)))
        self.stream = _made('stream_create', _engine(), _IN_ORDER)
        self.execute = _library().dnnl_primitive_execute
        self.place = _library(quick=True).dnnl_memory_set_data_handle
        self.place.argtypes = (ctypes.c_void_p, ctypes.c_void_p)

    def __call__(self, *addresses: int) -> None:
        for memory, address in zip(self.memories, addresses):
            self.place(memory, address)
        _check('primitive_execute', self.execute(self.primitive, self.stream, len(addresses), self.arguments))


def _per_thread(build: Callable[..., Any]) -> Callable[..., Any]:
    """What ``build`` made of its arguments, once in every thread."""
    @functools.wraps(build)
    def found(*sizes: Any) -> Any:
        kernels = _thread.__dict__
        key = (build.__name__, sizes)
        if key not in kernels:
            kernels[key] = build(*sizes)
        return kernels[key]
    return found


@_per_thread
def gelu(size: int) -> Tuple[Kernel, Kernel]:
    x, none = _shape((size,)), ctypes.c_float(0)
    forward = _description('eltwise_forward', _TRAINING, _GELU_ERF, x, x, none, none)
    backward = _description('eltwise_backward', _GELU_ERF, x, x, x, none, none, forward)
    return Kernel(forward, (_SRC, x), (_DST, x)), Kernel(backward, (_SRC, x), (_DIFF_DST, x), (_DIFF_SRC, x))


@_per_thread
def softmax(rows: int, columns: int) -> Tuple[Kernel, Kernel]:
    x = _shape((rows, columns))
    forward = _description('softmax_forward', _TRAINING, _SOFTMAX, x, x, 1)
    backward = _description('softmax_backward', _SOFTMAX, x, x, x, 1, forward)
    return Kernel(forward, (_SRC, x), (_DST, x)), Kernel(backward, (_DST, x), (_DIFF_DST, x), (_DIFF_SRC, x))


@_per_thread
def layer_norm(rows: int, columns: int, epsilon: float) -> Tuple[Kernel, Kernel]:
    x, row, column = _shape((rows, columns)), _shape((rows,)), _shape((columns,))
    small = ctypes.c_float(epsilon)
    forward = _description('layer_normalization_forward', _TRAINING, x, x, row, small, _SCALE_AND_SHIFT)
    backward = _description('layer_normalization_backward', _BACKWARD, x, x, x, row, small, _SCALE_AND_SHIFT, forward)
    return (Kernel(forward, (_SRC, x), (_SCALE, column), (_SHIFT, column), (_DST, x), (_MEAN, row), (_VARIANCE, row)),
            Kernel(backward, (_SRC, x), (_MEAN, row), (_VARIANCE, row), (_SCALE, column), (_SHIFT, column),
                   (_DIFF_DST, x), (_DIFF_SRC, x), (_DIFF_SCALE, column), (_DIFF_SHIFT, column)))


@_per_thread
def product(a: Sizes, a_strides: Sizes, b: Sizes, b_strides: Sizes, y: Sizes, y_strides: Sizes, biased: bool,
            scale: float) -> Kernel:
    """a times b, plus a bias, times ``scale``."""
    one, other, result, bias = _shape(a, a_strides), _shape(b, b_strides), _shape(y, y_strides), _bias(y, biased)
    attributes = None
    if scale != 1.0:
        attributes, after = _made('primitive_attr_create'), _made('post_ops_create')
        _check('post_ops_append_eltwise', _library().dnnl_post_ops_append_eltwise(
            after, _LINEAR, ctypes.c_float(scale), ctypes.c_float(0)))
        _check('primitive_attr_set_post_ops', _library().dnnl_primitive_attr_set_post_ops(attributes, after))
    more = [(_BIAS, bias)] if biased else []
    return Kernel(_description('matmul', one, other, bias, result, attributes=attributes),
                  (_SRC, one), (_WEIGHTS, other), *more, (_DST, result))


@_per_thread
def laid_out(a: Sizes, a_strides: Sizes, b: Sizes, b_strides: Sizes, y: Sizes, y_strides: Sizes,
             biased: bool) -> Tuple[Kernel, Kernel, int]:
    """What lays b out as a product reads it fastest, the product, and how many values b then has."""
    one, other, result, bias = _shape(a, a_strides), _shape(b, b_strides), _shape(y, y_strides), _bias(y, biased)
    any_layout = _made('memory_desc_create_with_tag', len(b), (ctypes.c_int64 * _AXES)(*b), _FLOAT32, _ANY)
    multiply = _description('matmul', one, any_layout, bias, result)
    ask, size = _library().dnnl_primitive_desc_query_md, _library().dnnl_memory_desc_get_size
    ask.restype, size.restype = ctypes.c_void_p, ctypes.c_size_t
    packed = ctypes.c_void_p(ask(multiply, _WEIGHTS_LAYOUT, 0))
    layout = _made('reorder_primitive_desc_create', other, _engine(), packed, _engine(), None)
    more = [(_BIAS, bias)] if biased else []
    return (Kernel(layout, (_SRC, other), (_DST, packed)),
            Kernel(multiply, (_SRC, one), (_WEIGHTS, packed), *more, (_DST, result)), size(packed) // BYTES)


def _bias(y: Sizes, biased: bool) -> Optional[ctypes.c_void_p]:
    return _shape((*(1 for _ in y[:-1]), y[-1])) if biased else None


@_per_thread
def binary(algorithm: int, one: Sizes, other: Sizes) -> Kernel:
    """``other`` is stretched along its axes of size 1."""
    x, y = _shape(one), _shape(other)
    return Kernel(_description('binary', algorithm, x, y, x), (_SRC, x), (_SRC1, y), (_DST, x))


# The C interface ------------------------------------------------------------------------------------------------------

def dense(sizes: Sizes) -> Sizes:
    """The strides of a dense tensor."""
    return tuple(math.prod(sizes[axis + 1:]) for axis in range(len(sizes)))


@functools.lru_cache(maxsize=None)
def _library(quick: bool = False) -> ctypes.CDLL:
    """``quick``: calls keep Python's lock, for those too short to give it away."""
    path = os.path.join(os.path.dirname(paddle.__file__), 'libs', 'libdnnl.so.3')
    return (ctypes.PyDLL if quick else ctypes.CDLL)(path)


@functools.lru_cache(maxsize=None)
def _engine() -> ctypes.c_void_p:
    return _made('engine_create', _CPU, ctypes.c_size_t(0))


@functools.lru_cache(maxsize=None)
def _shape(sizes: Sizes, strides: Sizes = ()) -> ctypes.c_void_p:
    """A memory descriptor; dense unless strides are given."""
    longs = ctypes.c_int64 * _AXES
    return _made('memory_desc_create_with_strides', len(sizes), longs(*sizes), _FLOAT32,
                 longs(*strides or dense(sizes)))


def _description(kind: str, *arguments: Any, attributes: Optional[ctypes.c_void_p] = None) -> ctypes.c_void_p:
    return _made(f'{kind}_primitive_desc_create', _engine(), *arguments, attributes)


def _made(function: str, *arguments: Any) -> ctypes.c_void_p:
    """The object that a C function makes. Descriptors and kernels stay for the process: there are few."""
    found = ctypes.c_void_p()
    _check(function, getattr(_library(), f'dnnl_{function}')(ctypes.byref(found), *arguments))
    return found


def _check(function: str, status: int) -> None:
    if status:
        raise RuntimeError(f'oneDNN: dnnl_{function} answers status {status}')
