# SPDX-License-Identifier: Apache-2.0
"""Losses, counts and gradient norms that were computed on the device and not yet looked at.

Looking at a number makes this process wait until the device has computed it, which leaves a GPU idle between steps. A
run therefore looks at its numbers, all at once, when it writes a log line or a checkpoint: a number that is not finite
is found then, and before anything is saved.
"""
from __future__ import annotations

import math
from typing import Any, List, Sequence, Tuple

import paddle

from CaiT.errors import NonFiniteError
from CaiT.training.train_state import TrainState


class Pending:
    def __init__(self) -> None:
        self._batches: List[Tuple[int, float, Any, Any, int]] = []
        self._norms: List[Tuple[int, float, Any]] = []

    def add_batch(self, state: TrainState, loss: Any, correct: Any, images: int) -> None:
        """The loss and the number of correct images, numbers or tensors [], of the micro-batch at ``state.step``."""
        self._batches.append((state.step, state.lr, loss, correct, images))

    def add_norm(self, state: TrainState, norm: Any) -> None:
        """The gradient norm of the update before ``state.step``."""
        self._norms.append((state.step, state.lr, norm))

    def look(self, state: TrainState) -> None:
        """Add all to the sums of ``state``. NonFiniteError, with the first step at which a number is not finite."""
        batches, norms = self._batches, self._norms
        self._batches, self._norms = [], []
        bad = []
        losses, counts = (numbers([batch[column] for batch in batches]) for column in (2, 3))
        for (step, lr, _, _, images), loss, correct in zip(batches, losses, counts):
            if not math.isfinite(loss):
                bad.append((step, lr, f'loss is {loss}'))
                break
            state.loss_sum += loss * images
            state.correct += correct
            state.images += images
        for (step, lr, _), norm in zip(norms, numbers([norm for _, _, norm in norms])):
            state.grad_norm = norm
            if not math.isfinite(norm):
                bad.append((step, lr, f'gradient norm is {norm}'))
                break
        if bad:
            step, lr, found = min(bad)
            raise NonFiniteError(f'{found} at epoch {state.epoch}, step {step}, LR {lr:g}')


def numbers(values: Sequence[Any]) -> List[Any]:
    """Numbers, or those of tensors [] of one dtype, which are read from the device at once."""
    if not values or not isinstance(values[0], paddle.Tensor):
        return list(values)
    return paddle.stack(list(values)).numpy().tolist()
