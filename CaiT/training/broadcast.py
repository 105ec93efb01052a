# SPDX-License-Identifier: Apache-2.0
"""What one process reads, given to all: a checkpoint is read from the disk once and not once per process."""
from __future__ import annotations

import pickle
from typing import Any, Callable, List, Optional, Sequence

import numpy as np
import paddle

from CaiT.errors import InputError
from CaiT.training import distributed

PIECE = 64 << 20  # bytes sent at once: what is needed beside the arrays themselves


def from_first(make: Callable[[], Any]) -> Any:
    """What ``make()`` returns in the first process, in all of them; its InputError is raised in all.

    The value is of dicts, lists, text, numbers and arrays. Arrays are sent as they lie in memory, in pieces. A
    collective call.
    """
    if distributed.world_size() == 1:
        return make()
    message, buffers = b'', []
    if distributed.rank() == 0:
        try:
            value, error = make(), None
        except InputError as failure:
            value, error = None, str(failure)
        message = pickle.dumps((value, error), protocol=5, buffer_callback=buffers.append)
    mine = [np.frombuffer(part, np.uint8) for part in (message, *(buffer.raw() for buffer in buffers))]
    sizes = _sizes([len(part) for part in mine])
    received = [_send(mine[i] if distributed.rank() == 0 else None, size) for i, size in enumerate(sizes)]
    if distributed.rank():
        value, error = pickle.loads(received[0].tobytes(), buffers=received[1:])
    if error is not None:
        raise InputError(error)
    return value


def _sizes(mine: Sequence[int]) -> List[int]:
    """The numbers of the first process; the others do not know how many they are."""
    count = int(distributed.all_reduce_sum([len(mine) if distributed.rank() == 0 else 0])[0])
    return [int(size) for size in distributed.all_reduce_sum(
        mine if distributed.rank() == 0 else [0] * count)]


def _send(part: Optional[np.ndarray], size: int) -> np.ndarray:
    """uint8 [size] of the first process, in each."""
    is_first = distributed.rank() == 0
    whole = part if is_first else np.empty(size, np.uint8)
    for start in range(0, size, PIECE):
        end = min(start + PIECE, size)
        piece = paddle.to_tensor(whole[start:end] if is_first else np.zeros(end - start, np.uint8))
        paddle.distributed.broadcast(piece, src=0)
        if not is_first:
            whole[start:end] = piece.numpy()
    return whole
