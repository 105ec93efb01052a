# SPDX-License-Identifier: Apache-2.0
"""Losses on logits [B, K]; targets are class ids [B] (int64) or distributions over classes [B, K] (float)."""
from __future__ import annotations

from typing import Any, Callable, Optional

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


class TrainingLoss:
    """(logits, targets, the teacher's logits or None) -> the loss that is minimised.

    With a teacher: (1 - ``alpha``) * loss on the labels + ``alpha`` * the teacher's term (DeiT, section 4).
    'hard': cross entropy with the teacher's decision. 'soft': ``tau``^2 * KL(teacher || student) of both softmaxes at
    temperature ``tau``, mean over pictures, as in the paper; DeiT's public code divides by the number of classes too,
    which leaves next to nothing of it.
    A distilled DeiT gives two heads' logits: the second learns from the teacher alone, the first from the labels;
    without a teacher both learn the labels. CaiT's published weights
    are distilled but have one head, and no public code trains them: here, by this project's reading, both terms go to
    that head.
    """

    def __init__(self, labels: Loss, kind: str = 'none', alpha: float = 0.5, tau: float = 3.0) -> None:
        self.labels, self.kind, self.alpha, self.tau = labels, kind, alpha, tau

    def __call__(self, logits: Any, targets: paddle.Tensor, told: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        if told is None:
            heads = logits if isinstance(logits, tuple) else (logits,)
            return sum(self.labels(one, targets) for one in heads) / len(heads)
        first, last = logits if isinstance(logits, tuple) else (logits, logits)
        return (1 - self.alpha) * self.labels(first, targets) + self.alpha * self.teachers(last, told)

    def teachers(self, logits: paddle.Tensor, told: paddle.Tensor) -> paddle.Tensor:
        """The teacher's term."""
        logits, told = logits.astype('float32'), told.astype('float32')
        if self.kind == 'hard':
            return F.cross_entropy(logits, told.argmax(-1))
        theirs, ours = F.log_softmax(told / self.tau), F.log_softmax(logits / self.tau)
        return (theirs.exp() * (theirs - ours)).sum(-1).mean() * self.tau ** 2


def build_loss(name: str, smoothing: float, kind: str = 'none', alpha: float = 0.5, tau: float = 3.0) -> TrainingLoss:
    """'CE' or 'BCE' with label smoothing (which soft targets, as mixup makes them, carry inside already), and a
    teacher's term of ``kind``."""
    return TrainingLoss({'CE': cross_entropy, 'BCE': binary_cross_entropy}[name](smoothing), kind, alpha, tau)


def correct(logits: Any, targets: paddle.Tensor) -> int:
    """Pictures whose largest logit (of the mean over heads) is at their class, or at their largest share of one."""
    logits = sum(logits) if isinstance(logits, tuple) else logits
    wanted = targets if targets.ndim == 1 else targets.argmax(-1)
    return int((logits.argmax(-1) == wanted).sum().item())
