# SPDX-License-Identifier: Apache-2.0
"""The columns that every table of predictions has: those of -pred, of -eval's report and of infer."""
from __future__ import annotations

from typing import Any, Callable, List, Sequence, Tuple

BEST = ['path', 'class_id', 'class_name', 'prob']
TOP5 = ['top5_class_ids', 'top5_probs']
PRESENT = 'class_ids'  # of images with any number of classes: those that are predicted


def best_values(path: str, best: Sequence[Tuple[int, float]], name_of: Callable[[int], str]) -> List[Any]:
    """The values of BEST for (class id, probability) pairs, most probable first."""
    class_id, probability = best[0]
    return [path, int(class_id), name_of(int(class_id)), digits(probability)]


def top5_values(best: Sequence[Tuple[int, float]]) -> List[str]:
    """The values of TOP5: ids and probabilities separated by blanks, fewer where the model has fewer classes."""
    return [' '.join(str(int(class_id)) for class_id, _ in best[:5]), ' '.join(digits(p) for _, p in best[:5])]


def present_ids(ranked: Sequence[Tuple[int, float]], thresholds: Sequence[float]) -> str:
    """The value of PRESENT: ids, separated by blanks, of the classes that reach their threshold, as they are ranked."""
    return ' '.join(str(int(class_id)) for class_id, p in ranked if p >= thresholds[int(class_id)])


def digits(probability: float) -> str:
    """Enough digits to read the same number again."""
    return repr(float(probability))
