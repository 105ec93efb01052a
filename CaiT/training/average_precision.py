# SPDX-License-Identifier: Apache-2.0
"""Average precision and thresholds of images with several classes, from labels bool [N, K] and scores [N, K]."""
from __future__ import annotations

from typing import Tuple

import numpy as np


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """float64 [K]: sum over n of (recall_n - recall_(n - 1)) * precision_n, n being each different score from the
    highest down: scikit-learn's ``average_precision_score``. NaN for a class without images."""
    return np.array([_of_class(labels[:, k], scores[:, k]) for k in range(labels.shape[1])])


def mean_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """The mean over the classes that have images; NaN without any."""
    values = average_precision(labels, scores)
    defined = ~np.isnan(values)
    return float(values[defined].mean()) if defined.any() else float('nan')


def best_thresholds(labels: np.ndarray, probs: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """([K] thresholds, [K] F1 at them) with the highest F1 per class, of equal ones the highest; predicted is what is
    at least the threshold, which lies between two probabilities. A class without images: 0.5 and NaN."""
    thresholds, best = np.full(labels.shape[1], 0.5), np.full(labels.shape[1], np.nan)
    for k in range(labels.shape[1]):
        if not labels[:, k].any():
            continue
        right, predicted, values = _counts(labels[:, k], probs[:, k])
        f1 = 2 * right / (predicted + labels[:, k].sum())
        place = int(f1.argmax())
        lower = values[place + 1] if place + 1 < len(values) else 0.0
        thresholds[k], best[k] = (values[place] + lower) / 2, f1[place]
    return thresholds, best


def _of_class(labels: np.ndarray, scores: np.ndarray) -> float:
    if not labels.any():
        return float('nan')
    right, predicted, _ = _counts(labels, scores)
    recall = right / labels.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * right / predicted))


def _counts(labels: np.ndarray, scores: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each different score from the highest down: images of the class with at least that score, images with at
    least that score, the score."""
    order = np.argsort(-scores, kind='stable')
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # of equal scores
    return np.cumsum(labels[order])[last], last + 1, ranked[last]
