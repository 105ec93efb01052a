# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction. Every image counts once, whatever the batch size and the number of processes."""
from __future__ import annotations

import time
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.errors import NonFiniteError
from CaiT.training import distributed
from CaiT.training.logger import RunLogger
from CaiT.training.pending import number


class EvalResult(NamedTuple):
    """Mean cross entropy, top-1 and top-5 accuracy in [0, 1], and the number of images."""
    loss: float
    top1: float
    top5: float
    images: int


def topk_correct(logits: paddle.Tensor, targets: paddle.Tensor, k: int) -> paddle.Tensor:
    """Number of rows of ``logits`` [B, K] whose class id in ``targets`` [B] is among the ``k`` largest; a tensor []."""
    _, top_ids = paddle.topk(logits, min(k, logits.shape[1]))
    return (top_ids == targets.unsqueeze(1)).sum()


@paddle.no_grad()
def evaluate(model: nn.Layer, loader: Iterable[Any], logger: RunLogger, report_freq: int, title: str = 'Val',
             collect: Optional[Callable[[paddle.Tensor, paddle.Tensor], None]] = None) -> EvalResult:
    """Evaluate ``model`` on batches (images [B, 3, S, S], class ids [B]); the model is left in eval mode.

    ``collect`` is called with each batch's logits [B, K] and class ids [B].
    """
    model.eval()
    start_time = time.monotonic()
    steps = len(loader)
    common_steps = distributed.all_reduce_min(steps)
    sums = [0.0] * 4  # of the losses, of images right in top-1 and top-5, of images
    unseen = []  # the same per batch, on the device: it works on while nobody looks
    for step, (images, targets) in enumerate(logger.progress(loader, steps, title)):
        logits = model(images).astype('float32')
        unseen.append((F.cross_entropy(logits, targets, reduction='sum'), topk_correct(logits, targets, 1),
                       topk_correct(logits, targets, 5), len(targets)))
        if collect:
            collect(logits, targets)
        if step % report_freq == 0 and step < common_steps:  # a step that all processes have: the sums are of all
            loss, top1, top5, count = distributed.all_reduce_sum(_add(sums, unseen))
            logger.info(f'{title} Step[{step:04d}/{steps:04d}], Avg Loss: {loss / count:.4f}, '
                        f'Avg Acc@1: {top1 / count:.4f}, Avg Acc@5: {top5 / count:.4f}')
    loss, top1, top5, count = distributed.all_reduce_sum(_add(sums, unseen))
    result = EvalResult(loss / count, top1 / count, top5 / count, int(count))
    name = 'Validation' if title == 'Val' else title
    logger.info(f'{name} Loss: {result.loss:.4f}, {name} Acc@1: {result.top1:.4f}, {name} Acc@5: {result.top5:.4f}, '
                f'time: {time.monotonic() - start_time:.2f}')
    return result


def _add(sums: List[float], unseen: List[Tuple[Any, ...]]) -> List[float]:
    """Add what is ``unseen`` to the ``sums``, in place, and forget it."""
    for values in unseen:
        for index, value in enumerate(values):
            sums[index] += number(value)
    unseen.clear()
    return sums


@paddle.no_grad()
def predict(model: nn.Layer, loader: Iterable[Any], topk: int = 5) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """For each image, in order, its ``topk`` class ids and their probabilities, most probable first."""
    model.eval()
    for batch in loader:
        images = batch[0] if isinstance(batch, (list, tuple)) else batch
        probabilities = F.softmax(model(images).astype('float32'))
        values, ids = paddle.topk(probabilities, min(topk, probabilities.shape[1]))
        if not np.isfinite(values.numpy()).all():
            raise NonFiniteError('predictions are not finite: the logits of these weights overflow or are NaN')
        yield from zip(ids.numpy(), values.numpy())


def gather_predictions(predictions: Iterable[Tuple[np.ndarray, np.ndarray]],
                       num_images: int) -> List[Tuple[np.ndarray, np.ndarray]]:
    """Those of all processes, in the order of the images; ``predictions`` are of this process's share of them."""
    rows = [np.concatenate([ids, values]).astype(np.float64) for ids, values in predictions]  # exact for both
    gathered = distributed.gather_rows(rows, num_images)
    topk = gathered.shape[1] // 2
    return [(row[:topk].astype(np.int64), row[topk:].astype(np.float32)) for row in gathered]
