# SPDX-License-Identifier: Apache-2.0
"""A GPU with half precision, simulated on a CPU, so that the code that only a GPU reaches runs in tests and in
gpu_check.

Within ``simulated_gpu()`` Paddle says that its device is 'gpu:0' and computes on the CPU. Paddle's own autocast,
decorate and optimizers run; what a CPU lacks is done here:

- products (``F.linear``, the patch convolution, ``paddle.matmul``) round their inputs and results to half within
  autocast, as Paddle's white list has it; outside of it, half weights and float32 images fail, as on a GPU;
- the optimizers' kernels update the float32 master weight and round it into the half weight.

Half weights and their gradients are half. Between products numbers are float32, where O2 has half: the rounding of
softmax, GELU and sums is not simulated, nor is anything about speed, memory, CUDA's kernels and NCCL.
"""
from __future__ import annotations

import contextlib
import importlib
from types import SimpleNamespace
from typing import Any, Callable, Iterator, Tuple
from unittest import mock

import paddle
import paddle.nn.functional as F
from paddle import _C_ops
from paddle.base import core
from paddle.base.framework import _dygraph_tracer

from CaiT import runtime

# Position of the master weight and of the flag that says it is there, among the arguments of an optimizer's kernel.
MASTERS = {'adamw_': (8, 18), 'momentum_': (4, 9), 'lamb_': (7, 14)}


@contextlib.contextmanager
def simulated_gpu(capability: Tuple[int, int] = (8, 0)) -> Iterator[None]:
    """Paddle's global state within the block is that of a process on a GPU of this compute capability."""
    patches = [(paddle, 'get_device', lambda: 'gpu:0'),
               (paddle, 'set_device', lambda device: None),
               (paddle, 'is_compiled_with_cuda', lambda: True),
               (core, 'get_cuda_device_count', lambda: 0),  # generators to seed
               (paddle.device.cuda, 'device_count', lambda: 1),
               (paddle.device.cuda, 'get_device_name', lambda *_: 'simulated GPU'),
               (paddle.device.cuda, 'get_device_capability', lambda *_: capability),
               (paddle.device.cuda, 'max_memory_allocated', lambda *_: 0),
               (paddle.version, 'cuda', lambda: '12.6'),
               (importlib.import_module('paddle.amp.auto_cast'), '_dygraph_tracer', _Tracer),
               (F, 'linear', _in_half(F.linear)),
               (F.conv, '_conv_nd', _in_half(F.conv._conv_nd)),
               (paddle, 'matmul', _in_half(paddle.matmul))]
    patches += [(_C_ops, name, _with_masters(getattr(_C_ops, name), *places)) for name, places in MASTERS.items()]
    flags = paddle.get_flags(list(runtime.CPU_FLAGS))
    with contextlib.ExitStack() as stack:
        stack.callback(paddle.set_flags, flags)
        stack.enter_context(mock.patch.object(runtime, '_report', runtime._report))
        for owner, name, value in patches:
            stack.enter_context(mock.patch.object(owner, name, value, create=True))
        yield


class _Tracer:
    """Paddle's tracer, whose place is a GPU."""

    def __init__(self) -> None:
        object.__setattr__(self, '_tracer', _dygraph_tracer())

    def __getattr__(self, name: str) -> Any:
        if name == '_expected_place':
            return SimpleNamespace(is_gpu_place=lambda: True, is_xpu_place=lambda: False, is_custom_place=lambda: False)
        return getattr(self._tracer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._tracer, name, value)


def _in_half(operation: Callable[..., Any]) -> Callable[..., Any]:
    def product(*args: Any, **options: Any) -> Any:
        tracer = _dygraph_tracer()
        if tracer._amp_level == core.AmpLevel.O0 or not paddle.in_dynamic_mode():
            return operation(*args, **options)
        dtype = tracer._amp_dtype

        def rounded(value: Any) -> Any:
            is_real = isinstance(value, paddle.Tensor) and paddle.is_floating_point(value)
            return value.astype(dtype).astype('float32') if is_real else value
        result = operation(*map(rounded, args), **{name: rounded(value) for name, value in options.items()})
        return rounded(result)
    return product


def _with_masters(kernel: Callable[..., Any], place: int, flag: int) -> Callable[..., Any]:
    def update(*args: Any) -> Any:
        if args[place] is None:
            return kernel(*args)
        parameter, gradient, master = args[0], args[1], args[place]
        assert master.dtype == paddle.float32 and all(
            one is None or one.dtype == paddle.float32 for one in args[3:7] if isinstance(one, paddle.Tensor))
        plain = list(args)
        plain[0], plain[1], plain[place], plain[flag] = master, gradient.astype('float32'), None, False
        result = kernel(*plain)
        parameter.set_value(master.astype(parameter.dtype))
        return result
    return update
