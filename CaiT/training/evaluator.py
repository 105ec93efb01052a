# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction. Every image counts once, whatever the batch size and the number of processes."""
from __future__ import annotations

import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.data.datasets import UNREADABLE
from CaiT.errors import NonFiniteError
from CaiT.training import distributed
from CaiT.training.average_precision import mean_average_precision
from CaiT.training.collector import MultiLabelCollector
from CaiT.training.logger import RunLogger
from CaiT.training.pending import numbers


class EvalResult(NamedTuple):
    """Mean cross entropy, top-1 and top-5 accuracy in [0, 1], and the number of images."""
    loss: float
    top1: float
    top5: float
    images: int

    @property
    def criterion(self) -> float:
        """What epochs are compared by: the higher the better."""
        return self.top1

    def record(self, prefix: str) -> Dict[str, float]:
        """The values for log.jsonl."""
        return {f'{prefix}_loss': self.loss, f'{prefix}_top1': self.top1, f'{prefix}_top5': self.top5}


class MultiLabelResult(NamedTuple):
    """Mean binary cross entropy over images and classes, mean average precision over the classes that have images, and
    the number of images."""
    loss: float
    mean_ap: float
    images: int

    @property
    def criterion(self) -> float:
        return self.mean_ap

    def record(self, prefix: str) -> Dict[str, float]:
        return {f'{prefix}_loss': self.loss, f'{prefix}_map': self.mean_ap}


def criterion_name(multi_label: bool) -> str:
    """The name of ``criterion`` in log lines."""
    return 'mAP' if multi_label else 'Acc@1'


def topk_correct(logits: paddle.Tensor, targets: paddle.Tensor, k: int) -> paddle.Tensor:
    """Number of rows of ``logits`` [B, K] whose class id in ``targets`` [B] is among the ``k`` largest; a tensor []."""
    _, top_ids = paddle.topk(logits, min(k, logits.shape[1]))
    return (top_ids == targets.unsqueeze(1)).sum()


class _SingleLabel:
    """Losses and hits of images with one class each."""

    def sums(self, logits: paddle.Tensor, targets: paddle.Tensor) -> Tuple[paddle.Tensor, ...]:
        return (F.cross_entropy(logits, targets, reduction='sum'), topk_correct(logits, targets, 1),
                topk_correct(logits, targets, 5))

    def text(self, means: Sequence[float], name: str) -> str:
        loss, top1, top5 = means
        return f'{name}Loss: {loss:.4f}, {name}Acc@1: {top1:.4f}, {name}Acc@5: {top5:.4f}'

    def result(self, means: Sequence[float], images: int) -> Tuple[EvalResult, str]:
        return EvalResult(*means, images), ''


class _MultiLabel:
    """Losses of images with any number of classes each; keeps their logits, of which mAP needs all."""

    def __init__(self) -> None:
        self.collector = MultiLabelCollector()

    def sums(self, logits: paddle.Tensor, targets: paddle.Tensor) -> Tuple[paddle.Tensor, ...]:
        self.collector(logits, targets)
        return (F.binary_cross_entropy_with_logits(logits, targets, reduction='sum') / logits.shape[1],)

    def text(self, means: Sequence[float], name: str) -> str:
        return f'{name}Loss: {means[0]:.4f}'

    def result(self, means: Sequence[float], images: int) -> Tuple[MultiLabelResult, str]:
        mean_ap = mean_average_precision(*self.collector.gather(images))
        return MultiLabelResult(means[0], mean_ap, images), f'mAP: {mean_ap:.4f}'


@paddle.no_grad()
def evaluate(model: nn.Layer, loader: Iterable[Any], logger: RunLogger, report_freq: int, title: str = 'Val',
             collect: Optional[Callable[[paddle.Tensor, paddle.Tensor], None]] = None,
             multi_label: bool = False) -> Union[EvalResult, MultiLabelResult]:
    """Evaluate ``model`` on batches (images [B, 3, S, S], class ids [B]); the model is left in eval mode.

    With ``multi_label`` the second are float32 [B, K] of 0 and 1. ``collect`` is called with each batch's logits [B, K]
    and its targets.
    """
    model.eval()
    start_time = time.monotonic()
    steps, kind = len(loader), _MultiLabel() if multi_label else _SingleLabel()
    common_steps = distributed.all_reduce_min(steps)
    sums = [0.0] * (2 if multi_label else 4)  # of what ``kind`` sums up, and of images
    unseen = []  # the same per batch, on the device: it works on while nobody looks
    for step, (images, targets) in enumerate(logger.progress(loader, steps, title)):
        logits = model(images).astype('float32')
        unseen.append((*kind.sums(logits, targets), len(targets)))
        if collect:
            collect(logits, targets)
        if step % report_freq == 0 and step < common_steps:  # a step that all processes have: the sums are of all
            *of_all, count = distributed.all_reduce_sum(_add(sums, unseen))
            logger.info(f'{title} Step[{step:04d}/{steps:04d}], {kind.text([one / count for one in of_all], "Avg ")}')
    *of_all, count = distributed.all_reduce_sum(_add(sums, unseen))
    means = [one / count for one in of_all]
    result, more = kind.result(means, int(count))
    name = 'Validation ' if title == 'Val' else f'{title} '
    more = f', {name}{more}' if more else ''
    logger.info(f'{kind.text(means, name)}{more}, time: {time.monotonic() - start_time:.2f}')
    return result


def _add(sums: List[float], unseen: List[Tuple[Any, ...]]) -> List[float]:
    """Add what is ``unseen`` to the ``sums``, in place, and forget it."""
    for index, column in enumerate(zip(*unseen)):
        for value in numbers(column):
            sums[index] += value
    unseen.clear()
    return sums


@paddle.no_grad()
def predict(model: nn.Layer, loader: Iterable[Any], topk: int = 5,
            multi_label: bool = False) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """For each image, in order, its ``topk`` class ids and their probabilities, most probable first: softmax, or with
    ``multi_label`` sigmoid, of every class for itself and of all classes. NaN for an image with the label UNREADABLE.
    """
    model.eval()
    for batch in loader:
        images = batch[0] if isinstance(batch, (list, tuple)) else batch
        logits = model(images).astype('float32')
        probabilities = F.sigmoid(logits) if multi_label else F.softmax(logits)
        classes = logits.shape[1]
        values, ids = paddle.topk(probabilities, classes if multi_label else min(topk, classes))
        if not np.isfinite(values.numpy()).all():
            raise NonFiniteError('predictions are not finite: the logits of these weights overflow or are NaN')
        values = values.numpy()
        if images is not batch:
            values[batch[1].numpy() == UNREADABLE] = np.nan
        yield from zip(ids.numpy(), values)


def gather_predictions(predictions: Iterable[Tuple[np.ndarray, np.ndarray]],
                       num_images: int) -> List[Tuple[np.ndarray, np.ndarray]]:
    """Those of all processes, in the order of the images; ``predictions`` are of this process's share of them."""
    rows = [np.concatenate([ids, values]).astype(np.float64) for ids, values in predictions]  # exact for both
    gathered = distributed.gather_rows(rows, num_images)
    topk = gathered.shape[1] // 2
    return [(row[:topk].astype(np.int64), row[topk:].astype(np.float32)) for row in gathered]
