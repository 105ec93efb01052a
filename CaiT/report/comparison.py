# SPDX-License-Identifier: Apache-2.0
"""Two sets of predictions for the same images, compared by decision: McNemar's test, the images that changed."""
from __future__ import annotations

from typing import Any, Dict, List, NamedTuple

import numpy as np

from CaiT.report import metrics
from CaiT.report.predictions import Predictions, align


class Change(NamedTuple):
    """An image whose predicted class differs: its place in the first and in the second predictions."""
    index: int
    other: int
    kind: str  # lost: right before, gained: right now, other: wrong both times


class Comparison(NamedTuple):
    """``second`` is the earlier report. Counts are of images that both have."""
    images: int
    both_right: int
    both_wrong: int
    lost: int              # right before, wrong now
    gained: int            # wrong before, right now
    changed: List[Change]
    p_value: float
    top1: float
    top1_before: float
    prob_difference: float  # largest, of the top-1 probability where the class is the same; NaN if nowhere

    def as_dict(self) -> Dict[str, Any]:
        values = self._asdict()
        values['changed'] = len(self.changed)
        return values


def compare(first: Predictions, second: Predictions) -> Comparison:
    """What ``first`` decides differently from ``second``; InputError when they have no image in common."""
    left, right = align(first, second)
    now, before = first.correct[left], second.correct[right]
    same = first.ids[left, 0] == second.ids[right, 0]
    kinds = np.where(before & ~now, 'lost', np.where(now & ~before, 'gained', 'other'))
    changed = [Change(int(left[i]), int(right[i]), str(kinds[i])) for i in np.flatnonzero(~same)]
    lost, gained = int((before & ~now).sum()), int((now & ~before).sum())
    apart = np.abs(first.probs[left, 0] - second.probs[right, 0])[same]
    return Comparison(len(left), int((now & before).sum()), int((~now & ~before).sum()), lost, gained, changed,
                      metrics.mcnemar(lost, gained), float(now.mean()), float(before.mean()),
                      float(apart.max()) if len(apart) else float('nan'))


def verdict(comparison: Comparison) -> str:
    """McNemar's test in a sentence."""
    if not comparison.lost + comparison.gained:
        return "Every image has the same outcome (McNemar's test: p = 1)."
    says = ('the difference in accuracy is larger than chance explains (p < 0.05)' if comparison.p_value < 0.05
            else 'the difference in accuracy may be chance (p >= 0.05)')
    return (f"McNemar's test (exact, two-sided) on {comparison.lost} lost and {comparison.gained} gained images: "
            f'p = {comparison.p_value:.3g}; {says}.')
