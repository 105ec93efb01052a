# SPDX-License-Identifier: Apache-2.0
"""Losses on logits [B, K]; targets are class ids [B] (int64) or distributions over classes [B, K] (float)."""
from __future__ import annotations

from typing import Any, Callable

import paddle
import paddle.nn.functional as F

Loss = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]


def distribution(targets: paddle.Tensor, classes: int, smoothing: float) -> paddle.Tensor:
    """Class ids to smoothed one-hot rows [B, K]; rows that are distributions already pass unchanged."""
    if targets.ndim == 2:
        return targets
    return F.one_hot(targets, classes) * (1 - smoothing) + smoothing / classes


def cross_entropy(smoothing: float = 0.0) -> Loss:
    """Mean over pictures of -sum(target * log softmax(logits)); ``smoothing`` is spread over all classes."""
    def loss(logits: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
        logits = logits.astype('float32')
        if targets.ndim == 1 and not smoothing:
            return F.cross_entropy(logits, targets)
        target = distribution(targets, logits.shape[1], smoothing)
        return -(target * F.log_softmax(logits)).sum(-1).mean()
    return loss


def binary_cross_entropy(smoothing: float = 0.0) -> Loss:
    """Mean over pictures and classes of the sigmoid cross entropy (each class a yes/no question, as in DeiT III)."""
    def loss(logits: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
        target = distribution(targets, logits.shape[1], smoothing)
        return F.binary_cross_entropy_with_logits(logits.astype('float32'), target)
    return loss


def build_loss(name: str, smoothing: float) -> Loss:
    """'CE' or 'BCE' with label smoothing (which soft targets, as mixup makes them, carry inside already).

    A model with two heads (distilled DeiT) gives both logits in training; without a teacher both learn the labels.
    """
    loss = {'CE': cross_entropy, 'BCE': binary_cross_entropy}[name](smoothing)
    return lambda logits, targets: (sum(loss(one, targets) for one in logits) / len(logits)
                                    if isinstance(logits, tuple) else loss(logits, targets))


def correct(logits: Any, targets: paddle.Tensor) -> int:
    """Pictures whose largest logit (of the mean over heads) is at their class, or at their largest share of one."""
    logits = sum(logits) if isinstance(logits, tuple) else logits
    wanted = targets if targets.ndim == 1 else targets.argmax(-1)
    return int((logits.argmax(-1) == wanted).sum().item())
