# SPDX-License-Identifier: Apache-2.0
"""The columns that every table of predictions has: those of -pred, of -eval's report and of infer."""
from __future__ import annotations

from typing import Any, Callable, List, Mapping, Sequence, Tuple

from CaiT.checks import MAX_CLASSES
from CaiT.errors import shown

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


def parse_row(row: Mapping[str, Any]) -> Tuple[List[int], List[float]]:
    """(class ids, probabilities), best first, of a line of either layout."""
    if not isinstance(row['path'], str):
        raise ValueError('a path that is no text')
    if row.get('top5_class_ids'):
        ids = [class_id_of(i) for i in row['top5_class_ids'].split()]
        probs = [prob_of(p) for p in row['top5_probs'].split()]
        if not 0 < len(ids) == len(probs):
            raise ValueError(f'{len(ids)} classes with {len(probs)} probabilities')
        return ids, probs
    ids, probs, rank = [class_id_of(row['class_id'])], [prob_of(row['prob'])], 2
    while row.get(f'class_id_{rank}') not in (None, ''):
        ids.append(class_id_of(row[f'class_id_{rank}']))
        probs.append(prob_of(row[f'prob_{rank}']))
        rank += 1
    return ids, probs


def prob_of(value: Any) -> float:
    """A probability; ValueError for what is none, as a logit. Those of float16 may be a little above 1."""
    if not -1e-3 <= float(value) <= 1 + 1e-3:  # nor is NaN
        raise ValueError(f'probability {shown(str(value))}, expected 0 to 1')
    return float(value)


def class_id_of(value: Any) -> int:
    """A class id; ValueError for one that no model has: tables of all classes are made."""
    if abs(int(value)) >= MAX_CLASSES:
        raise ValueError(f'class id {shown(str(value))}')
    return int(value)
