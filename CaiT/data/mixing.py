# SPDX-License-Identifier: Apache-2.0
"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) on a batch, with the soft targets that belong to it.

The meaning of every parameter is timm's: image i is mixed with image B-1-i.
"""
from __future__ import annotations

import math
from typing import Tuple

import numpy as np

from CaiT.errors import InputError

MODES = ('batch', 'pair', 'elem')


class Mixing:
    """(images [B, C, H, W] float32, labels int [B], generator) -> (images, targets float32 [B, num_classes]).

    ``mixup_alpha`` and ``cutmix_alpha`` are the Beta distributions' parameters, 0 switches one off; when both are on,
    CutMix is taken with probability ``switch_prob``. ``prob`` is the probability of mixing at all. ``mode`` says what
    draws its own coefficient and box: the 'batch', each 'pair' (i, B-1-i), each 'elem'ent. ``label_smoothing`` is
    part of the targets. ``batch_size`` is checked here only: pairs need an even one.
    """

    def __init__(self, mixup_alpha: float, cutmix_alpha: float, num_classes: int, batch_size: int, prob: float = 1.0,
                 switch_prob: float = 0.5, mode: str = 'batch', label_smoothing: float = 0.1) -> None:
        if mode not in MODES:
            raise InputError(f'mixing mode: found {mode!r}, expected one of {", ".join(MODES)}')
        if mode == 'pair' and batch_size % 2:
            raise InputError(f"mixing mode 'pair': found a batch of {batch_size}, expected an even number")
        if mixup_alpha < 0 or cutmix_alpha < 0 or not (mixup_alpha or cutmix_alpha):
            raise InputError(f'mixup and cutmix: found alphas {mixup_alpha} and {cutmix_alpha}, '
                             'expected numbers from 0 up, at least one above 0')
        for name, value in (('prob', prob), ('switch_prob', switch_prob), ('label_smoothing', label_smoothing)):
            if not 0 <= value <= 1:
                raise InputError(f'mixing {name}: found {value}, expected a number from 0 to 1')
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.prob, self.switch_prob, self.mode = prob, switch_prob, mode

    def __call__(self, images: np.ndarray, labels: np.ndarray,
                 rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
        count = len(images)
        result = images.copy()
        share = np.ones((count, 1), np.float32)  # of the image itself, the rest is its partner's
        if self.mode == 'batch':
            box, share[:] = self._draw(images.shape[2:], rng)
            self._mix(result, images[::-1], float(share[0, 0]), box)
        elif self.mode == 'elem':
            for i in range(count):
                box, share[i] = self._draw(images.shape[2:], rng)
                self._mix(result[i], images[count - 1 - i], float(share[i, 0]), box)
        else:
            for i in range(count // 2):
                j = count - 1 - i
                box, share[[i, j]] = self._draw(images.shape[2:], rng)
                self._mix(result[i], images[j], float(share[i, 0]), box)
                self._mix(result[j], images[i], float(share[i, 0]), box)
        own = smooth_one_hot(labels, self.num_classes, self.label_smoothing)
        return result, own * share + own[::-1] * (1 - share)

    def _draw(self, size: Tuple[int, int], rng: np.random.Generator) -> Tuple[Tuple[slice, ...], float]:
        """(box to cut, or () for mixup; share of the image itself, 1 for no mixing)."""
        if rng.random() >= self.prob:
            return (), 1.0
        cut = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or rng.random() < self.switch_prob)
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        share = float(rng.beta(alpha, alpha))
        return cut_box(size, share, rng) if cut else ((), share)

    @staticmethod
    def _mix(result: np.ndarray, partner: np.ndarray, share: float, box: Tuple[slice, ...]) -> None:
        """Blend, or paste the box, in place; the last two axes of both are height and width."""
        if box:
            result[(..., *box)] = partner[(..., *box)]
        elif share < 1:
            result *= np.float32(share)
            result += partner * np.float32(1 - share)


def cut_box(size: Tuple[int, int], share: float, rng: np.random.Generator) -> Tuple[Tuple[slice, slice], float]:
    """A box of (1 - share) of the area about a random center, cut off at the border, and the share that is left."""
    height, width = size
    side = math.sqrt(1 - share)
    h, w = int(height * side), int(width * side)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(y - h // 2, 0), min(y + (h + 1) // 2, height)
    left, right = max(x - w // 2, 0), min(x + (w + 1) // 2, width)
    return (slice(top, bottom), slice(left, right)), 1 - (bottom - top) * (right - left) / (height * width)


def smooth_one_hot(labels: np.ndarray, num_classes: int, smoothing: float) -> np.ndarray:
    """float32 [B, num_classes]: smoothing / num_classes everywhere, and 1 - smoothing more at the label."""
    targets = np.full((len(labels), num_classes), smoothing / num_classes, np.float32)
    targets[np.arange(len(labels)), labels] += np.float32(1 - smoothing)
    return targets
