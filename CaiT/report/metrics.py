# SPDX-License-Identifier: Apache-2.0
"""The numbers of an evaluation, from arrays: N images, K classes, k predictions per image, best first.

Definitions are scikit-learn's where it has them (tests compare); undefined values are NaN, not 0.
"""
from __future__ import annotations

import math
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

REJECT_THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


class PerClass(NamedTuple):
    """Arrays [K]. ``confused_with``: the wrong class that was predicted most often for this one (-1: none)."""
    count: np.ndarray           # images whose label this is
    predicted: np.ndarray       # images for which it was predicted
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    top5: np.ndarray            # fraction of its images with it among the first five; NaN with fewer than five
    confused_with: np.ndarray
    confused_count: np.ndarray


class Pair(NamedTuple):
    """``count`` images of class ``label`` were taken for ``predicted``."""
    label: int
    predicted: int
    count: int


class Bin(NamedTuple):
    """Images with a top-1 probability in (low, high]: how many, how probable on average, how often right."""
    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


class Reject(NamedTuple):
    """With predictions below ``threshold`` rejected: fraction answered, accuracy of the answers."""
    threshold: float
    answered: float
    accuracy: float


def hits(labels: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """bool [N]: whether the label [N] is among the first ``k`` predictions [N, >= k]."""
    return (ids[:, :k] == labels[:, None]).any(axis=1)


def per_class(labels: np.ndarray, ids: np.ndarray, num_classes: int) -> PerClass:
    """What each class got, from labels [N] and predictions [N, k]."""
    best = ids[:, 0]
    count = np.bincount(labels, minlength=num_classes)
    predicted = np.bincount(best, minlength=num_classes)
    right = np.bincount(labels[labels == best], minlength=num_classes)
    top5 = np.full(num_classes, np.nan)
    if ids.shape[1] >= min(5, num_classes):
        top5 = ratio(np.bincount(labels[hits(labels, ids, 5)], minlength=num_classes), count)
    confused_with, confused_count = np.full(num_classes, -1), np.zeros(num_classes, np.int64)
    for pair in reversed(most_confused(labels, best, num_classes)):
        confused_with[pair.label], confused_count[pair.label] = pair.predicted, pair.count
    return PerClass(count, predicted, ratio(right, predicted), ratio(right, count),
                    ratio(2 * right, count + predicted), top5, confused_with, confused_count)


def macro(values: np.ndarray, classes: np.ndarray) -> float:
    """Mean over the chosen classes, an undefined value counting 0: scikit-learn's ``average='macro'``."""
    return float(np.nan_to_num(values[classes]).mean())


def most_confused(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> List[Pair]:
    """Every (label, wrong prediction), most frequent first, then by class id."""
    wrong = labels != predicted
    codes, counts = np.unique(labels[wrong].astype(np.int64) * num_classes + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind='stable')
    return [Pair(int(codes[i]) // num_classes, int(codes[i]) % num_classes, int(counts[i])) for i in order]


def confusion(labels: np.ndarray, predicted: np.ndarray, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
    """Images [rows, columns + 1] by label (the classes ``rows``) and prediction (``columns``, last: all others)."""
    row_of, column_of = ({class_id: index for index, class_id in enumerate(classes)} for classes in (rows, columns))
    matrix = np.zeros((len(rows), len(columns) + 1), np.int64)
    for label, guess in zip(labels.tolist(), predicted.tolist()):
        if label in row_of:
            matrix[row_of[label], column_of.get(guess, len(columns))] += 1
    return matrix


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Tuple[float, List[Bin]]:
    """(expected calibration error, its bins) over equally wide bins (Guo et al. 2017, arXiv 1706.04599).

    ECE = sum over bins of (images in bin / N) * |accuracy - mean confidence|.
    """
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found, error = [], 0.0
    for i in range(bins):
        inside = index == i
        count = int(inside.sum())
        mean, accuracy = (float(confidence[inside].mean()), float(correct[inside].mean())) if count else (math.nan,) * 2
        found.append(Bin(float(edges[i]), float(edges[i + 1]), count, mean, accuracy))
        error += count / len(confidence) * abs(accuracy - mean) if count else 0.0
    return error, found


def reject(confidence: np.ndarray, correct: np.ndarray, threshold: float) -> Reject:
    """Accuracy of the predictions with a probability of at least ``threshold``; NaN when there is none."""
    answered = confidence >= threshold
    return Reject(float(threshold), float(answered.mean()),
                  float(correct[answered].mean()) if answered.any() else math.nan)


def wilson(right: int, count: int, z: float = 1.959964) -> Tuple[float, float]:
    """95 % interval of a fraction ``right`` / ``count`` (Wilson's score interval)."""
    p = right / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return middle - half if right else 0.0, middle + half if right < count else 1.0  # not -1e-17


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p value of McNemar's test: ``lost`` images became wrong, ``gained`` became right.

    The probability, were either direction equally likely, of a split at least as uneven.
    """
    total, small = lost + gained, min(lost, gained)
    logs = [math.lgamma(total + 1) - math.lgamma(i + 1) - math.lgamma(total - i + 1) - total * math.log(2)
            for i in range(small + 1)]
    return min(1.0, 2 * sum(math.exp(value) for value in logs))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
