# SPDX-License-Identifier: Apache-2.0
"""The predictions that an evaluation makes, kept for its report."""
from __future__ import annotations

from typing import List, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

from CaiT.training import distributed


class Collected(NamedTuple):
    """Of every image of the split, in its order: label, k most probable classes, their probabilities, the label's."""
    labels: np.ndarray       # int64 [N]
    ids: np.ndarray          # int64 [N, k]
    probs: np.ndarray        # float64 [N, k]
    label_probs: np.ndarray  # float64 [N]


class Collector:
    """Call it with the logits [B, K] and class ids [B] of each batch, in the order of ``EvalSampler``."""

    def __init__(self, topk: int = 5) -> None:
        self.topk = topk
        self.rows: List[np.ndarray] = []

    def __call__(self, logits: paddle.Tensor, targets: paddle.Tensor) -> None:
        probs = F.softmax(logits)
        values, ids = paddle.topk(probs, min(self.topk, logits.shape[1]))
        of_label = probs.take_along_axis(targets.reshape([-1, 1]), 1)
        columns = [targets.reshape([-1, 1]), of_label, ids, values]
        self.rows.append(np.concatenate([one.numpy().astype(np.float64) for one in columns], axis=1))

    def gather(self, num_images: int) -> Collected:
        """The rows of all processes; all must call it. ``num_images``: of the whole split."""
        mine = [row for batch in self.rows for row in batch]  # float64 holds class ids and float32 values exactly
        rows = distributed.gather_rows(mine, num_images)
        k = (rows.shape[1] - 2) // 2
        return Collected(rows[:, 0].astype(np.int64), rows[:, 2:2 + k].astype(np.int64), rows[:, 2 + k:], rows[:, 1])


class MultiLabelCollected(NamedTuple):
    """Of every image of the split, in its order: which classes it has, and the logit of each."""
    labels: np.ndarray  # bool [N, K]
    logits: np.ndarray  # float64 [N, K], of float32 values


class MultiLabelCollector:
    """Call it with the logits [B, K] and targets [B, K] of 0 and 1 of each batch, in the order of ``EvalSampler``."""

    def __init__(self) -> None:
        self.logits: List[np.ndarray] = []
        self.labels: List[np.ndarray] = []

    def __call__(self, logits: paddle.Tensor, targets: paddle.Tensor) -> None:
        self.logits.append(logits.numpy())
        self.labels.append(targets.numpy() > 0)

    def gather(self, num_images: int) -> MultiLabelCollected:
        """The rows of all processes; all must call it. ``num_images``: of the whole split."""
        logits, labels = (distributed.gather_rows([row for batch in batches for row in batch], num_images)
                          for batches in (self.logits, self.labels))
        return MultiLabelCollected(labels > 0, logits)
