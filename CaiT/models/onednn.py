# SPDX-License-Identifier: Apache-2.0
"""oneDNN's float32 kernels on Paddle's CPU tensors, by the C interface of the library that lies in Paddle's wheel.

Paddle itself uses oneDNN for inference only; training runs its plain CPU kernels, of which all but matrix products
take one thread and few vector instructions. Interface: oneDNN 3 (https://uxlfoundation.github.io/oneDNN), stable
within the major version. Numbers below are those of its header files.

All tensors are float32, dense, on the CPU; results are new tensors, but where a name ends in _. R rows, C columns; B
pictures, H heads, N tokens of d channels each.
"""
from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import paddle
from paddle import _C_ops

from CaiT import runtime

# kinds of propagation and algorithms
_TRAINING, _BACKWARD = 64, 128
_LINEAR, _GELU_ERF, _SOFTMAX, _ADD, _MULTIPLY = 38, 49, 0x30000, 0x1fff0, 0x1fff1
_SCALE_AND_SHIFT = 2 | 4
# arguments of a primitive
_SRC, _SRC1, _DST, _WEIGHTS, _BIAS, _MEAN, _VARIANCE, _SCALE, _SHIFT = 1, 2, 17, 33, 41, 49, 50, 51, 52
_DIFF_SRC, _DIFF_DST, _DIFF_SCALE, _DIFF_SHIFT = 129, 145, 255, 256
_CPU, _FLOAT32, _IN_ORDER, _AXES, _BYTES, _ANY, _WEIGHTS_LAYOUT = 1, 3, 1, 12, 4, 1, 131

_MANY = 256  # rows from which on laying a weight out pays

_PLACE = paddle.CPUPlace()

Tensor, Sizes = paddle.Tensor, Tuple[int, ...]
Runs = Sequence[Tuple[int, int]]  # of pictures: the first, how many
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


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) GELU."""
    return _run(_gelu(math.prod(x.shape))[0], [x], [x.shape])[0]


def gelu_grad_(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient to x, from that to gelu(x), in that one's place."""
    _gelu(math.prod(x.shape))[1](x.data_ptr(), grad.data_ptr(), grad.data_ptr())
    return grad


def softmax_(x: Tensor) -> Tensor:
    """Over the last axis, in x's place."""
    _softmax(*_flat(x))[0](x.data_ptr(), x.data_ptr())
    return x


def softmax_grad_(y: Tensor, grad: Tensor) -> Tensor:
    """The gradient to x from y = softmax(x) and the gradient to it, in that one's place."""
    _softmax(*_flat(y))[1](y.data_ptr(), grad.data_ptr(), grad.data_ptr())
    return grad


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tuple[Tensor, Tensor, Tensor]:
    """x [..., C] normalised over the last axis, times weight [C] plus bias [C]; the rows' means and variances [R]."""
    rows, columns = _flat(x)
    return _run(_layer_norm(rows, columns, epsilon)[0], [x, weight, bias], [x.shape, [rows], [rows]])


def layer_norm_grad(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, grad: Tensor,
                    epsilon: float) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients to x, weight and bias."""
    rows, columns = _flat(x)
    shift = weight  # demanded though no gradient depends on it
    return _run(_layer_norm(rows, columns, epsilon)[1], [x, mean, variance, weight, shift, grad],
                [x.shape, [columns], [columns]])


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [..., in] times weight [in, out] plus bias [out]."""
    (rows, inputs), outputs = _flat(x), weight.shape[1]
    y = _empty([*x.shape[:-1], outputs])
    _apply(_matrix(x, rows, inputs), _matrix(weight, *weight.shape), _matrix(y, rows, outputs), bias)
    return y


def linear_grad(x: Tensor, weight: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients to x, weight and bias."""
    (rows, inputs), outputs = _flat(x), weight.shape[1]
    to_x, to_weight, g = _empty(x.shape), _empty(weight.shape), _matrix(grad, rows, outputs)
    _apply(g, _matrix(weight, inputs, outputs).turned(), _matrix(to_x, rows, inputs))
    _multiply(_matrix(x, rows, inputs).turned(), g, _matrix(to_weight, inputs, outputs))
    return to_x, to_weight, sum_rows(grad)


def patches(pixels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """pixels [B, N, in * P * P] by a convolution's weight [C, in, P, P] plus bias [C]: [B, N, C]."""
    (rows, inputs), outputs = _flat(pixels), weight.shape[0]
    y = _empty([*pixels.shape[:-1], outputs])
    _apply(_matrix(pixels, rows, inputs), _matrix(weight, outputs, inputs).turned(), _matrix(y, rows, outputs), bias)
    return y


def patches_grad(pixels: Tensor, weight: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor]:
    """The gradients to weight and bias."""
    (rows, inputs), outputs = _flat(pixels), weight.shape[0]
    to_weight = _empty(weight.shape)
    _multiply(_matrix(grad, rows, outputs).turned(), _matrix(pixels, rows, inputs),
              _matrix(to_weight, outputs, inputs))
    return to_weight, sum_rows(grad)


def sum_rows(x: Tensor) -> Tensor:
    """The sum [C] of the rows of x [..., C]. As a product: the fastest way to sum."""
    rows, columns = _flat(x)
    y = _empty([columns])
    _multiply(_matrix(_ones(rows), 1, rows), _matrix(x, rows, columns), _matrix(y, 1, columns))
    return y


def sum_tokens(x: Tensor, channels: int) -> Tensor:
    """The sums [B, channels] over the tokens of x [B, N, C]'s last channels."""
    batch, tokens, width = x.shape
    y = _empty([batch, channels])
    start = x.data_ptr() + (width - channels) * _BYTES
    _multiply(_View(_ones(batch * tokens).data_ptr(), (batch, 1, tokens), (tokens, tokens, 1)),
              _View(start, (batch, tokens, channels), (tokens * width, width, 1)),
              _View(y.data_ptr(), (batch, 1, channels), (channels, channels, 1)))
    return y


def times(x: Tensor, factor: Tensor) -> Tensor:
    """x [..., C] times ``factor``, of the same shape or [C]."""
    rows, columns = _flat(x)
    kernel = _binary(_MULTIPLY, (rows, columns), (math.prod(factor.shape) // columns, columns))
    return _run(kernel, [x, factor], [x.shape])[0]


def take(x: Tensor, runs: Optional[Runs]) -> Tensor:
    """The pictures of x [B, N, C] in ``runs``, one after the other; x itself where all are meant."""
    if runs is None:
        return x
    y = _empty([sum(count for _, count in runs), *x.shape[1:]])
    size, done = math.prod(x.shape[1:]) * _BYTES, 0
    for first, count in runs:
        ctypes.memmove(y.data_ptr() + done * size, x.data_ptr() + first * size, count * size)
        done += count
    return y


def add(x: Tensor, y: Tensor, runs: Optional[Runs]) -> Tensor:
    """x [B, N, C] plus y [B or fewer, N, C], whose pictures belong to those of x in ``runs``. Takes y's place if it
    can."""
    shape = tuple(x.shape)
    if runs is None:
        _binary(_ADD, shape, shape)(y.data_ptr(), x.data_ptr(), y.data_ptr())
        return y
    out = _empty(shape)
    size, place, done = math.prod(shape[1:]) * _BYTES, 0, 0
    for first, count in (*runs, (shape[0], 0)):
        ctypes.memmove(out.data_ptr() + place * size, x.data_ptr() + place * size, (first - place) * size)
        if count:
            some = (count, *shape[1:])
            _binary(_ADD, some, some)(x.data_ptr() + first * size, y.data_ptr() + done * size,
                                      out.data_ptr() + first * size)
        place, done = first + count, done + count
    return out


def add_to_each(x: Tensor, value: Tensor) -> Tensor:
    """x [B, N, C] plus value [1, N, C]."""
    return _run(_binary(_ADD, tuple(x.shape), tuple(value.shape)), [x, value], [x.shape])[0]


def add_per_head_(x: Tensor, bias: Tensor) -> Tensor:
    """x [B, H, N, M] plus bias [H], in x's place."""
    batch, heads, rows, columns = x.shape
    _binary(_ADD, (batch, heads, rows * columns), (1, heads, 1))(x.data_ptr(), bias.data_ptr(), x.data_ptr())
    return x


# Attention on what one Linear gives, queries, keys and values side by side: qkv [B, N, 3 * H * d] ---------------------

def scores(qkv: Tensor, heads: int, scale: float) -> Tensor:
    """Each query's product with each key, times scale: [B, H, N, N]."""
    q, k, _ = _parts(qkv, heads)
    batch, tokens, _ = qkv.shape
    y = _empty([batch, heads, tokens, tokens])
    _multiply(q, k.turned(), _heads(y), scale=scale)
    return y


def attend(attention: Tensor, qkv: Tensor) -> Tensor:
    """attention [B, H, N, N] times the values, heads side by side: [B, N, H * d]."""
    batch, heads, tokens, _ = attention.shape
    y = _empty([batch, tokens, qkv.shape[2] // 3])
    _multiply(_heads(attention), _parts(qkv, heads)[2], _merged(y, heads))
    return y


def attend_grad(attention: Tensor, qkv: Tensor, grad: Tensor, to_qkv: Tensor) -> Tensor:
    """The gradient to attention; that to the values goes to its place in ``to_qkv``."""
    heads = attention.shape[1]
    g, to_attention = _merged(grad, heads), _empty(attention.shape)
    _multiply(g, _parts(qkv, heads)[2].turned(), _heads(to_attention))
    _multiply(_heads(attention).turned(), g, _parts(to_qkv, heads)[2])
    return to_attention


def scores_grad(qkv: Tensor, grad: Tensor, scale: float, to_qkv: Tensor) -> None:
    """The gradients to queries and keys, into their places in ``to_qkv``."""
    heads, g = grad.shape[1], _heads(grad)
    (q, k, _), (to_q, to_k, _) = _parts(qkv, heads), _parts(to_qkv, heads)
    _multiply(g, k, to_q, scale=scale)
    _multiply(g.turned(), q, to_k, scale=scale)


class _View(NamedTuple):
    """Where matrices lie: [..., rows, columns] from ``address`` on, ``strides`` in values."""
    address: int
    sizes: Tuple[int, ...]
    strides: Tuple[int, ...]

    def turned(self) -> _View:
        return _View(self.address, *((*one[:-2], one[-1], one[-2]) for one in self[1:]))


def _matrix(x: Tensor, rows: int, columns: int) -> _View:
    return _View(x.data_ptr(), (rows, columns), (columns, 1))


def _heads(x: Tensor) -> _View:
    """A dense [B, H, N, M]."""
    sizes = tuple(x.shape)
    return _View(x.data_ptr(), sizes, _dense(sizes))


def _merged(x: Tensor, heads: int) -> _View:
    """[B, N, H * d] as [B, H, N, d]."""
    batch, tokens, dim = x.shape
    return _View(x.data_ptr(), (batch, heads, tokens, dim // heads), (tokens * dim, dim // heads, dim, 1))


def _parts(qkv: Tensor, heads: int) -> List[_View]:
    """Queries, keys and values as [B, H, N, d]."""
    batch, tokens, width = qkv.shape
    dim = width // 3
    sizes, strides = (batch, heads, tokens, dim // heads), (tokens * width, dim // heads, width, 1)
    return [_View(qkv.data_ptr() + part * dim * _BYTES, sizes, strides) for part in range(3)]


def _multiply(a: _View, b: _View, y: _View, bias: Optional[Tensor] = None, scale: float = 1.0) -> None:
    """y becomes scale times a times b, plus bias [columns of y]."""
    kernel = _product(*a[1:], *b[1:], *y[1:], bias is not None, scale)
    kernel(a.address, b.address, *([] if bias is None else [bias.data_ptr()]), y.address)


def _apply(x: _View, weight: _View, y: _View, bias: Optional[Tensor] = None) -> None:
    """As ``_multiply``. Where x has many rows, the weight is first laid out as the product reads it fastest."""
    if x.sizes[0] < _MANY:
        _multiply(x, weight, y, bias)
        return
    layout, product, size = _laid_out(*x[1:], *weight[1:], *y[1:], bias is not None)
    packed = _empty([size])
    layout(weight.address, packed.data_ptr())
    product(x.address, packed.data_ptr(), *([] if bias is None else [bias.data_ptr()]), y.address)


# Kernels, by their sizes ----------------------------------------------------------------------------------------------

class _Kernel:
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
def _gelu(size: int) -> Tuple[_Kernel, _Kernel]:
    x, none = _shape((size,)), ctypes.c_float(0)
    forward = _description('eltwise_forward', _TRAINING, _GELU_ERF, x, x, none, none)
    backward = _description('eltwise_backward', _GELU_ERF, x, x, x, none, none, forward)
    return _Kernel(forward, (_SRC, x), (_DST, x)), _Kernel(backward, (_SRC, x), (_DIFF_DST, x), (_DIFF_SRC, x))


@_per_thread
def _softmax(rows: int, columns: int) -> Tuple[_Kernel, _Kernel]:
    x = _shape((rows, columns))
    forward = _description('softmax_forward', _TRAINING, _SOFTMAX, x, x, 1)
    backward = _description('softmax_backward', _SOFTMAX, x, x, x, 1, forward)
    return _Kernel(forward, (_SRC, x), (_DST, x)), _Kernel(backward, (_DST, x), (_DIFF_DST, x), (_DIFF_SRC, x))


@_per_thread
def _layer_norm(rows: int, columns: int, epsilon: float) -> Tuple[_Kernel, _Kernel]:
    x, row, column = _shape((rows, columns)), _shape((rows,)), _shape((columns,))
    small = ctypes.c_float(epsilon)
    forward = _description('layer_normalization_forward', _TRAINING, x, x, row, small, _SCALE_AND_SHIFT)
    backward = _description('layer_normalization_backward', _BACKWARD, x, x, x, row, small, _SCALE_AND_SHIFT, forward)
    return (_Kernel(forward, (_SRC, x), (_SCALE, column), (_SHIFT, column), (_DST, x), (_MEAN, row), (_VARIANCE, row)),
            _Kernel(backward, (_SRC, x), (_MEAN, row), (_VARIANCE, row), (_SCALE, column), (_SHIFT, column),
                    (_DIFF_DST, x), (_DIFF_SRC, x), (_DIFF_SCALE, column), (_DIFF_SHIFT, column)))


@_per_thread
def _product(a: Sizes, a_strides: Sizes, b: Sizes, b_strides: Sizes, y: Sizes, y_strides: Sizes, biased: bool,
             scale: float) -> _Kernel:
    one, other, result, bias = _shape(a, a_strides), _shape(b, b_strides), _shape(y, y_strides), _bias(y, biased)
    attributes = None
    if scale != 1.0:
        attributes, after = _made('primitive_attr_create'), _made('post_ops_create')
        _check('post_ops_append_eltwise', _library().dnnl_post_ops_append_eltwise(
            after, _LINEAR, ctypes.c_float(scale), ctypes.c_float(0)))
        _check('primitive_attr_set_post_ops', _library().dnnl_primitive_attr_set_post_ops(attributes, after))
    more = [(_BIAS, bias)] if biased else []
    return _Kernel(_description('matmul', one, other, bias, result, attributes=attributes),
                   (_SRC, one), (_WEIGHTS, other), *more, (_DST, result))


@_per_thread
def _laid_out(a: Sizes, a_strides: Sizes, b: Sizes, b_strides: Sizes, y: Sizes, y_strides: Sizes,
              biased: bool) -> Tuple[_Kernel, _Kernel, int]:
    """What lays b out, what multiplies a by it, and how many values it then has."""
    one, other, result, bias = _shape(a, a_strides), _shape(b, b_strides), _shape(y, y_strides), _bias(y, biased)
    any_layout = _made('memory_desc_create_with_tag', len(b), (ctypes.c_int64 * _AXES)(*b), _FLOAT32, _ANY)
    product = _description('matmul', one, any_layout, bias, result)
    ask, size = _library().dnnl_primitive_desc_query_md, _library().dnnl_memory_desc_get_size
    ask.restype, size.restype = ctypes.c_void_p, ctypes.c_size_t
    packed = ctypes.c_void_p(ask(product, _WEIGHTS_LAYOUT, 0))
    layout = _made('reorder_primitive_desc_create', other, _engine(), packed, _engine(), None)
    more = [(_BIAS, bias)] if biased else []
    return (_Kernel(layout, (_SRC, other), (_DST, packed)),
            _Kernel(product, (_SRC, one), (_WEIGHTS, packed), *more, (_DST, result)), size(packed) // _BYTES)


def _bias(y: Sizes, biased: bool) -> Optional[ctypes.c_void_p]:
    return _shape((*(1 for _ in y[:-1]), y[-1])) if biased else None


@_per_thread
def _binary(algorithm: int, one: Sizes, other: Sizes) -> _Kernel:
    """``other`` is stretched along its axes of size 1."""
    x, y = _shape(one), _shape(other)
    return _Kernel(_description('binary', algorithm, x, y, x), (_SRC, x), (_SRC1, y), (_DST, x))


# The C interface ------------------------------------------------------------------------------------------------------

def _run(kernel: _Kernel, inputs: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> Tuple[Tensor, ...]:
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


def _dense(sizes: Sizes) -> Sizes:
    """The strides of a dense tensor."""
    return tuple(math.prod(sizes[axis + 1:]) for axis in range(len(sizes)))


@functools.lru_cache(maxsize=None)
def _ones(size: int) -> Tensor:
    return paddle.ones([size], 'float32')


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
                 longs(*strides or _dense(sizes)))


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
