# SPDX-License-Identifier: Apache-2.0
"""oneDNN's C interface, in the library that Paddle's wheel brings (https://uxlfoundation.github.io/oneDNN).

Objects that it makes are owned by a ``Handles``, which destroys them. Numbers are those of the header files of oneDNN
3, whose binary interface is stable within the major version.
"""
from __future__ import annotations

import ctypes
import functools
import os
from typing import Any, Callable, List, Sequence, Tuple

import paddle

TESTED = ('3.6',)  # versions whose kernels were compared with Paddle's by this project's tests
CPU, IN_ORDER, FORMAT_ANY, MAX_AXES = 1, 1, 1, 12
BFLOAT16, FLOAT32 = 2, 3  # data types
BYTES = {BFLOAT16: 2, FLOAT32: 4}
PRIMITIVE_CACHE = 512  # entries
_WEIGHTS_MD = 131  # dnnl_query_weights_md

Sizes = Tuple[int, ...]


class Argument(ctypes.Structure):
    """dnnl_exec_arg_t: which argument of a primitive, and its memory."""
    _fields_ = [('name', ctypes.c_int), ('memory', ctypes.c_void_p)]


class _Version(ctypes.Structure):
    _fields_ = [('major', ctypes.c_int), ('minor', ctypes.c_int), ('patch', ctypes.c_int)]


@functools.lru_cache(maxsize=None)
def library(keep_gil: bool = False) -> ctypes.CDLL:
    """The loaded library; OSError where Paddle's wheel has none. ``keep_gil``: calls too short to release Python's
    lock for."""
    path = os.path.join(os.path.dirname(paddle.__file__), 'libs', 'libdnnl.so.3')
    return (ctypes.PyDLL if keep_gil else ctypes.CDLL)(path)


def version() -> str:
    """'3.6.2'; empty where Paddle's wheel has no such library."""
    try:
        function = library().dnnl_version
    except (OSError, AttributeError):
        return ''
    function.restype = ctypes.POINTER(_Version)
    found = function().contents
    return f'{found.major}.{found.minor}.{found.patch}'


_ISA = {'avx512_bf16': 0xe7, 'amx_bf16': 0xfef}  # dnnl_cpu_isa_t: a set of instructions each


def can_use(instructions: str) -> bool:
    """Whether oneDNN itself finds these instructions and is allowed them (ONEDNN_MAX_CPU_ISA)."""
    return library().dnnl_get_effective_cpu_isa() & _ISA[instructions] == _ISA[instructions]


def check(function: str, status: int) -> None:
    if status:
        raise RuntimeError(f'oneDNN: dnnl_{function} returned status {status}')


class Handles:
    """Makes oneDNN's objects and destroys them, at the end of a ``with`` block or by ``destroy``."""

    def __init__(self) -> None:
        self._owned: List[Tuple[Callable[..., int], ctypes.c_void_p]] = []

    def make(self, kind: str, function: str, *arguments: Any) -> ctypes.c_void_p:
        """The object that ``dnnl_<function>`` makes, one of those that ``dnnl_<kind>_destroy`` destroys."""
        handle = ctypes.c_void_p()
        check(function, getattr(library(), f'dnnl_{function}')(ctypes.byref(handle), *arguments))
        self._owned.append((getattr(library(), f'dnnl_{kind}_destroy'), handle))
        return handle

    def destroy(self) -> None:
        while self._owned:
            function, handle = self._owned.pop()
            function(handle)

    def __enter__(self) -> Handles:
        return self

    def __exit__(self, *_: Any) -> None:
        self.destroy()

    def memory_desc(self, sizes: Sizes, strides: Sizes = (), dtype: int = FLOAT32) -> ctypes.c_void_p:
        """A memory descriptor; dense unless strides (in values) are given."""
        longs = ctypes.c_int64 * MAX_AXES
        return self.make('memory_desc', 'memory_desc_create_with_strides', len(sizes), longs(*sizes), dtype,
                         longs(*strides or dense_strides(sizes)))

    def any_layout_desc(self, sizes: Sizes, dtype: int) -> ctypes.c_void_p:
        """A memory descriptor whose layout the primitive chooses."""
        longs = ctypes.c_int64 * MAX_AXES
        return self.make('memory_desc', 'memory_desc_create_with_tag', len(sizes), longs(*sizes), dtype, FORMAT_ANY)

    def primitive_desc(self, kind: str, *arguments: Any, attributes: Any = None) -> ctypes.c_void_p:
        return self.make('primitive_desc', f'{kind}_primitive_desc_create', engine(), *arguments, attributes)


def chosen_layout(primitive_desc: ctypes.c_void_p) -> Tuple[ctypes.c_void_p, int]:
    """The weights' memory descriptor that a primitive has chosen (owned by it), and its size in bytes."""
    query, size = library().dnnl_primitive_desc_query_md, library().dnnl_memory_desc_get_size
    query.restype, size.restype = ctypes.c_void_p, ctypes.c_size_t
    layout = ctypes.c_void_p(query(primitive_desc, _WEIGHTS_MD, 0))
    return layout, size(layout)


@functools.lru_cache(maxsize=None)
def engine() -> ctypes.c_void_p:
    """The CPU engine, one for the process. Also limits oneDNN's own cache of primitives, whose 1,024 entries would keep
    the memory of destroyed ones."""
    check('set_primitive_cache_capacity', library().dnnl_set_primitive_cache_capacity(PRIMITIVE_CACHE))
    handle = ctypes.c_void_p()
    check('engine_create', library().dnnl_engine_create(ctypes.byref(handle), CPU, ctypes.c_size_t(0)))
    return handle


def dense_strides(sizes: Sequence[int]) -> Sizes:
    """The strides, in values, of a dense tensor."""
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
