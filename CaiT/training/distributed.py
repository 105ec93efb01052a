# SPDX-License-Identifier: Apache-2.0
"""One process or many: Paddle's engine behind five functions. A single process never touches it."""
from __future__ import annotations

import contextlib
import os
from typing import ContextManager, List, Sequence

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


def accumulating(net: nn.Layer, more: bool) -> ContextManager:
    """While ``more`` micro-batches of an update follow, gradients stay local; the last one averages the sum."""
    return net.no_sync() if more and world() > 1 else contextlib.nullcontext()


def total(values: Sequence[float]) -> List[float]:
    """Sums over all processes, in float64: pass sums and counts, never means."""
    if world() == 1:
        return [float(value) for value in values]
    tensor = paddle.to_tensor(list(values), dtype='float64')
    paddle.distributed.all_reduce(tensor)
    return tensor.numpy().tolist()
