# SPDX-License-Identifier: Apache-2.0
"""One process or many: Paddle's engine behind a few functions. A single process never touches it."""
from __future__ import annotations

import contextlib
import os
import time
from typing import ContextManager, Iterator, List, Sequence

import paddle
from paddle import nn


def start() -> None:
    """Join the job that ``paddle.distributed.launch`` started (NCCL on GPUs, gloo on CPUs), if it did."""
    if world() > 1:
        paddle.distributed.init_parallel_env()


def world() -> int:
    """Processes of this job."""
    return int(os.environ.get('PADDLE_TRAINERS_NUM', '1'))


def rank() -> int:
    """This process's number, 0 .. world - 1."""
    return int(os.environ.get('PADDLE_TRAINER_ID', '0')) if world() > 1 else 0


def wrap(model: nn.Layer) -> nn.Layer:
    """The model whose backward pass averages gradients over all processes."""
    return paddle.DataParallel(model) if world() > 1 else model


def local(net: nn.Layer, yes: bool) -> ContextManager:
    """While ``yes``, a backward pass adds to this process's gradients and does not average them over all."""
    return net.no_sync() if yes and world() > 1 else contextlib.nullcontext()


def average_gradients(parameters: Sequence[paddle.Tensor]) -> None:
    """Average the gradients over all processes: what ``wrap`` does during a backward pass that is not ``local``.

    For recomputation, whose inner backward passes Paddle's DataParallel refuses.
    """
    if world() > 1:
        from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients
        fused_allreduce_gradients(list(parameters), None)


def total(values: Sequence[float]) -> List[float]:
    """Sums over all processes, in float64: pass sums and counts, never means."""
    if world() == 1:
        return [float(value) for value in values]
    tensor = paddle.to_tensor(list(values), dtype='float64')
    paddle.distributed.all_reduce(tensor)
    return tensor.numpy().tolist()


@contextlib.contextmanager
def failing_first() -> Iterator[None]:
    """Let the launcher see who failed: an error in the block reaches the screen whichever process it happens in.

    When a process ends, its connections close, gloo aborts the others in the same moment, and the launcher shows the
    log of the first failed process, not of the one with the error. So a child keeps the connections open for the
    seconds in which the launcher notices and ends the job.
    """
    try:
        yield
    except Exception:
        if world() > 1 and os.fork() == 0:
            time.sleep(10)
            os._exit(0)
        raise
