# SPDX-License-Identifier: Apache-2.0
"""What explains a decision, whatever computed it, and its maps; shapes as in attention.py. Does not need Paddle."""
from __future__ import annotations

import math
from typing import Dict, NamedTuple, Optional

import numpy as np

LAST, ROLLOUT, WEIGHTED = 'attention, last block', 'rollout', 'gradient-weighted'  # names of maps


class Explanation(NamedTuple):
    """Arrays of B images. Rows are over all T tokens, the prefix first: they sum to 1 in attention and rollout."""
    probs: np.ndarray              # [B, K]
    class_ids: np.ndarray          # [B], the classes of ``relevance``
    attention: np.ndarray          # [B, blocks, H, T]
    rollout: Optional[np.ndarray]  # [B, T], None for CaiT
    relevance: Optional[np.ndarray]  # [B, T], not normalized; None for an exported model, which has no gradients
    prefix: int                    # tokens before the patches


def times_even(rows: np.ndarray, prefix: int, over_patches: bool = False) -> np.ndarray:
    """Rows [..., T] to maps [..., side, side] in multiples of an even distribution.

    1 is what each token would get were all T alike; with ``over_patches`` (relevance, which has no fixed sum) what each
    patch would get of the patches' sum.
    """
    patches = np.asarray(rows, np.float64)[..., prefix:]
    side = math.isqrt(patches.shape[-1])
    if over_patches:
        total = patches.sum(-1, keepdims=True)
        values = np.divide(patches * patches.shape[-1], total, out=np.zeros_like(patches), where=total > 0)
    else:
        values = patches * rows.shape[-1]
    return values.reshape(*values.shape[:-1], side, side)


def patch_maps(explanation: Explanation, index: int) -> Dict[str, np.ndarray]:
    """{name: map [side, side]} of image ``index``, one map per method: attention of the last block with its heads
    averaged, rollout and gradient-weighted relevance where there are."""
    prefix = explanation.prefix
    maps = {LAST: times_even(explanation.attention[index, -1].mean(0), prefix)}
    if explanation.rollout is not None:
        maps[ROLLOUT] = times_even(explanation.rollout[index], prefix)
    if explanation.relevance is not None:
        maps[WEIGHTED] = times_even(explanation.relevance[index], prefix, True)
    return maps
