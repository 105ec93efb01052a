# SPDX-License-Identifier: Apache-2.0
"""Data-parallel training: the few functions of paddle.distributed that training needs. All are no-ops for a single
process, which never initializes paddle.distributed."""
from __future__ import annotations

import contextlib
import os
import time
from typing import ContextManager, Iterator, List, Sequence

import numpy as np
import paddle
from paddle import nn


def init(device: str = 'auto') -> None:
    """Join the job that a launcher started (NCCL on GPUs, gloo on CPUs), if one did. ``device``: the setting DEVICE."""
    if world_size() > 1:
        if device == 'cpu' or not paddle.is_compiled_with_cuda() or not paddle.device.cuda.device_count():
            os.environ.setdefault('PADDLE_DISTRI_BACKEND', 'gloo')  # set by Paddle's launcher, not by mpirun
        paddle.distributed.init_parallel_env()


def world_size() -> int:
    """Number of processes of this job."""
    return int(os.environ.get('PADDLE_TRAINERS_NUM', '1'))


def rank() -> int:
    """Index of this process, 0 .. world_size() - 1."""
    return int(os.environ.get('PADDLE_TRAINER_ID', '0')) if world_size() > 1 else 0


def wrap(model: nn.Layer) -> nn.Layer:
    """``model`` in DataParallel: its backward pass averages gradients over all processes."""
    return paddle.DataParallel(model) if world_size() > 1 else model


def no_sync(net: nn.Layer, enabled: bool = True) -> ContextManager:
    """While ``enabled``, a backward pass accumulates this process's gradients without averaging them over all."""
    return net.no_sync() if enabled and world_size() > 1 else contextlib.nullcontext()


def average_gradients(parameters: Sequence[paddle.Tensor]) -> None:
    """Average the gradients over all processes: what a backward pass outside ``no_sync`` does by itself.

    For recomputation, whose nested backward passes Paddle's DataParallel does not support.
    """
    if world_size() > 1:
        from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients
        fused_allreduce_gradients(list(parameters), None)


def all_reduce_sum(values: Sequence[float]) -> List[float]:
    """Sums over all processes, in float64: pass sums and counts, never means."""
    if world_size() == 1:
        return [float(value) for value in values]
    tensor = paddle.to_tensor(list(values), dtype='float64')
    paddle.distributed.all_reduce(tensor)
    return tensor.numpy().tolist()


def all_reduce_min(value: int) -> int:
    """The smallest value of all processes."""
    if world_size() == 1:
        return value
    tensor = paddle.to_tensor([value], dtype='int64')
    paddle.distributed.all_reduce(tensor, op=paddle.distributed.ReduceOp.MIN)
    return int(tensor.item())


def gather_rows(rows: Sequence[np.ndarray], total: int) -> np.ndarray:
    """[total, k] float64 from the rows of all processes, of which this one has numbers rank, rank + world_size, …

    That is the order of ``EvalSampler``. A process may have none: then it does not know k, but learns it here.
    """
    width = int(all_reduce_sum([len(rows[0]) if rank() == 0 else 0])[0])  # the first process has a row if there is one
    table = np.zeros((total, width))
    if len(rows):
        table[rank()::world_size()] = rows
    tensor = paddle.to_tensor(table)
    if world_size() > 1:
        paddle.distributed.all_reduce(tensor)
    return tensor.numpy()


@contextlib.contextmanager
def delay_abort_on_error() -> Iterator[None]:
    """Let the launcher show the error of the process that raised it first.

    When a process exits, its connections close, gloo aborts the other processes at once, and the launcher shows the
    log of the first process it finds failed, which may be another one. On an exception this forks a child, which keeps
    the connections open for 10 s: long enough for the launcher to notice the failed process and end the job. Not on
    GPUs, where the child would also hold the device and its memory, and where the others wait in NCCL instead.
    """
    try:
        yield
    except Exception:
        if world_size() > 1 and paddle.get_device() == 'cpu' and os.fork() == 0:
            time.sleep(10)
            os._exit(0)
        raise
