# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction. Every picture counts once, whatever the batch size and the number of processes."""
from __future__ import annotations

import time
from typing import Any, Iterable, Iterator, List, NamedTuple, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.training import distributed
from CaiT.training.journal import Journal


class Score(NamedTuple):
    """Mean cross entropy, fractions of pictures with the right class first or among the first five, and how many."""
    loss: float
    top1: float
    top5: float
    pictures: int


def hits(logits: paddle.Tensor, targets: paddle.Tensor, k: int) -> int:
    """Pictures whose class [B] is among the ``k`` (at most all) largest logits [B, K]."""
    _, best = paddle.topk(logits, min(k, logits.shape[1]))
    return int((best == targets.unsqueeze(1)).sum().item())


@paddle.no_grad()
def evaluate(model: nn.Layer, loader: Iterable[Any], journal: Journal, report_freq: int, title: str = 'Val') -> Score:
    """Score ``model`` on batches (pictures [B, 3, S, S], class ids [B]); the model is left in eval mode."""
    model.eval()
    started = time.time()
    steps = len(loader)
    loss = top1 = top5 = count = 0.0
    for step, (pictures, targets) in enumerate(journal.progress(loader, steps, title)):
        logits = model(pictures).astype('float32')
        loss += F.cross_entropy(logits, targets, reduction='sum').item()
        top1 += hits(logits, targets, 1)
        top5 += hits(logits, targets, 5)
        count += len(targets)
        if step % report_freq == 0:
            journal.line(f'{title} Step[{step:04d}/{steps:04d}], Avg Loss: {loss / count:.4f}, '
                         f'Avg Acc@1: {top1 / count:.4f}, Avg Acc@5: {top5 / count:.4f}')
    loss, top1, top5, count = distributed.total([loss, top1, top5, count])
    score = Score(loss / count, top1 / count, top5 / count, int(count))
    name = 'Validation' if title == 'Val' else title
    journal.line(f'{name} Loss: {score.loss:.4f}, {name} Acc@1: {score.top1:.4f}, {name} Acc@5: {score.top5:.4f}, '
                 f'time: {time.time() - started:.2f}')
    return score


@paddle.no_grad()
def predict(model: nn.Layer, loader: Iterable[Any], topk: int = 5) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """For each picture, in order, its ``topk`` class ids and their probabilities, best first."""
    model.eval()
    for batch in loader:
        pictures = batch[0] if isinstance(batch, (list, tuple)) else batch
        probabilities = F.softmax(model(pictures).astype('float32'))
        values, ids = paddle.topk(probabilities, min(topk, probabilities.shape[1]))
        yield from zip(ids.numpy(), values.numpy())


def table(rows: List[Tuple[str, ...]]) -> List[str]:
    """Rows as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
