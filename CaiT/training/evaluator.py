# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction. Every image counts once, whatever the batch size and the number of processes."""
from __future__ import annotations

import time
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.training import distributed
from CaiT.training.logger import RunLogger


class EvalResult(NamedTuple):
    """Mean cross entropy, top-1 and top-5 accuracy in [0, 1], and the number of images."""
    loss: float
    top1: float
    top5: float
    images: int


def count_topk_correct(logits: paddle.Tensor, targets: paddle.Tensor, k: int) -> int:
    """Number of rows of ``logits`` [B, K] whose class id in ``targets`` [B] is among the ``k`` largest."""
    _, top_ids = paddle.topk(logits, min(k, logits.shape[1]))
    return int((top_ids == targets.unsqueeze(1)).sum().item())


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
    loss = top1 = top5 = count = 0.0
    for step, (images, targets) in enumerate(logger.progress(loader, steps, title)):
        logits = model(images).astype('float32')
        loss += F.cross_entropy(logits, targets, reduction='sum').item()
        top1 += count_topk_correct(logits, targets, 1)
        top5 += count_topk_correct(logits, targets, 5)
        count += len(targets)
        if collect:
            collect(logits, targets)
        if step % report_freq == 0 and step < common_steps:  # a step that all processes have: the sums are of all
            sums = distributed.all_reduce_sum([loss, top1, top5, count])
            logger.info(f'{title} Step[{step:04d}/{steps:04d}], Avg Loss: {sums[0] / sums[3]:.4f}, '
                        f'Avg Acc@1: {sums[1] / sums[3]:.4f}, Avg Acc@5: {sums[2] / sums[3]:.4f}')
    loss, top1, top5, count = distributed.all_reduce_sum([loss, top1, top5, count])
    result = EvalResult(loss / count, top1 / count, top5 / count, int(count))
    name = 'Validation' if title == 'Val' else title
    logger.info(f'{name} Loss: {result.loss:.4f}, {name} Acc@1: {result.top1:.4f}, {name} Acc@5: {result.top5:.4f}, '
                f'time: {time.monotonic() - start_time:.2f}')
    return result


@paddle.no_grad()
def predict(model: nn.Layer, loader: Iterable[Any], topk: int = 5) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """For each image, in order, its ``topk`` class ids and their probabilities, most probable first."""
    model.eval()
    for batch in loader:
        images = batch[0] if isinstance(batch, (list, tuple)) else batch
        probabilities = F.softmax(model(images).astype('float32'))
        values, ids = paddle.topk(probabilities, min(topk, probabilities.shape[1]))
        yield from zip(ids.numpy(), values.numpy())


def gather_predictions(predictions: Iterable[Tuple[np.ndarray, np.ndarray]],
                       num_images: int) -> List[Tuple[np.ndarray, np.ndarray]]:
    """Those of all processes, in the order of the images; ``predictions`` are of this process's share of them."""
    rows = [np.concatenate([ids, values]).astype(np.float64) for ids, values in predictions]  # exact for both
    gathered = distributed.gather_rows(rows, num_images)
    topk = gathered.shape[1] // 2
    return [(row[:topk].astype(np.int64), row[topk:].astype(np.float32)) for row in gathered]
