# SPDX-License-Identifier: Apache-2.0
"""Losses, counts and gradient norms that were computed on the device and not yet looked at.

Looking at a number makes this process wait until the device has computed it. On a GPU that leaves the device idle
between steps, so a run looks at its numbers when it writes a log line or a checkpoint. On a CPU there is nothing to
wait for: each number is looked at before the next step.
"""
from __future__ import annotations

import math
from typing import Any, List, Tuple

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
        for step, lr, loss, correct, images in batches:
            loss = number(loss)
            if not math.isfinite(loss):
                bad.append((step, lr, f'loss is {loss}'))
                break
            state.loss_sum += loss * images
            state.correct += number(correct)
            state.images += images
        for step, lr, norm in norms:
            state.grad_norm = number(norm)
            if not math.isfinite(state.grad_norm):
                bad.append((step, lr, f'gradient norm is {state.grad_norm}'))
                break
        if bad:
            step, lr, found = min(bad)
            raise NonFiniteError(f'{found} at epoch {state.epoch}, step {step}, LR {lr:g}')


def number(value: Any) -> Any:
    """A number, or that of a tensor []."""
    return value.item() if hasattr(value, 'item') else value
