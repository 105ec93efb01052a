# SPDX-License-Identifier: Apache-2.0
"""Losses on logits [B, K]; targets are class ids [B] (int64), distributions over classes or, with BCE, 0 and 1 for each
class [B, K] (float)."""
from __future__ import annotations

from typing import Any, Callable, Optional

import numpy as np
import paddle
import paddle.nn.functional as F

Loss = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]


def target_distribution(targets: paddle.Tensor, num_classes: int, smoothing: float) -> paddle.Tensor:
    """Class ids [B] to smoothed one-hot rows [B, K]; distributions [B, K] are returned as they are."""
    if targets.ndim == 2:
        return targets
    return F.one_hot(targets, num_classes) * (1 - smoothing) + smoothing / num_classes


def cross_entropy(smoothing: float = 0.0, class_weights: Optional[np.ndarray] = None) -> Loss:
    """Mean over images of -sum(weight * target * log softmax(logits)); ``smoothing`` is spread over all classes.

    ``class_weights`` [K], default 1. The mean is over images, not over their weights: a part of a batch, on another
    device or in another micro-batch, is then a part of its loss.
    """
    weights = None if class_weights is None else paddle.to_tensor(class_weights, 'float32')

    def loss(logits: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
        logits = logits.astype('float32')
        if targets.ndim == 1 and not smoothing and weights is None:
            return F.cross_entropy(logits, targets)
        target = target_distribution(targets, logits.shape[1], smoothing)
        if weights is not None:
            target = target * weights
        return -(target * F.log_softmax(logits)).sum(-1).mean()
    return loss


def binary_cross_entropy(smoothing: float = 0.0, class_weights: Optional[np.ndarray] = None) -> Loss:
    """Mean over images and classes of the sigmoid cross entropy, one binary target per class, as in DeiT III.

    ``class_weights`` [K] multiply the part of a class's targets (1), not that of the images without it (0).
    """
    weights = None if class_weights is None else paddle.to_tensor(class_weights, 'float32')

    def loss(logits: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
        target = target_distribution(targets, logits.shape[1], smoothing)
        return F.binary_cross_entropy_with_logits(logits.astype('float32'), target, pos_weight=weights)
    return loss


class TrainingLoss:
    """(logits, targets, teacher_logits or None) -> scalar loss.

    With a teacher: (1 - ``alpha``) * label loss + ``alpha`` * distillation loss (DeiT, section 4).
    'hard': cross entropy with the teacher's argmax. 'soft': ``tau``^2 * KL(teacher || student) of both softmaxes at
    temperature ``tau``, mean over images, as in the paper; DeiT's public code also divides by the number of classes,
    which makes the term negligible.
    ``logits`` of a distilled DeiT are a pair, one per head: the head of the distillation token gets the distillation
    loss, the head of the class token the label loss; without a teacher both get the label loss. CaiT has one head and
    no public code for its distilled training: both terms apply to that head, which is this project's interpretation.
    """

    def __init__(self, label_loss: Loss, kind: str = 'none', alpha: float = 0.5, tau: float = 3.0) -> None:
        self.label_loss, self.kind, self.alpha, self.tau = label_loss, kind, alpha, tau

    def __call__(self, logits: Any, targets: paddle.Tensor,
                 teacher_logits: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        if teacher_logits is None:
            heads = logits if isinstance(logits, tuple) else (logits,)
            return sum(self.label_loss(head, targets) for head in heads) / len(heads)
        cls_logits, dist_logits = logits if isinstance(logits, tuple) else (logits, logits)
        return ((1 - self.alpha) * self.label_loss(cls_logits, targets)
                + self.alpha * self.distillation_loss(dist_logits, teacher_logits))

    def distillation_loss(self, logits: paddle.Tensor, teacher_logits: paddle.Tensor) -> paddle.Tensor:
        logits, teacher_logits = logits.astype('float32'), teacher_logits.astype('float32')
        if self.kind == 'hard':
            return F.cross_entropy(logits, teacher_logits.argmax(-1))
        teacher, student = F.log_softmax(teacher_logits / self.tau), F.log_softmax(logits / self.tau)
        return (teacher.exp() * (teacher - student)).sum(-1).mean() * self.tau ** 2


def build_loss(name: str, smoothing: float, kind: str = 'none', alpha: float = 0.5, tau: float = 3.0,
               class_weights: Optional[np.ndarray] = None) -> TrainingLoss:
    """'CE' or 'BCE' with label smoothing, and a distillation loss of ``kind`` ('none', 'hard', 'soft').

    Smoothing applies to class ids only; soft targets, as mixup makes them, contain it already. ``class_weights`` [K]
    weight the targets, not the distillation loss.
    """
    label_loss = {'CE': cross_entropy, 'BCE': binary_cross_entropy}[name](smoothing, class_weights)
    return TrainingLoss(label_loss, kind, alpha, tau)


def num_correct(logits: Any, targets: paddle.Tensor, multi_label: bool = False) -> paddle.Tensor:
    """Number of images, a tensor [], whose argmax (of the sum over heads) is their class id, or the argmax of their
    distribution; with ``multi_label``, one of their classes."""
    logits = sum(logits) if isinstance(logits, tuple) else logits
    best = logits.astype('float32').argmax(-1)
    if multi_label:
        return targets.take_along_axis(best.unsqueeze(1), 1).sum()
    class_ids = targets if targets.ndim == 1 else targets.argmax(-1)
    return (best == class_ids).sum()
