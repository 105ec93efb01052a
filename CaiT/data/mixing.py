# SPDX-License-Identifier: Apache-2.0
"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) on a batch, with the corresponding soft targets.

Parameters mean what they mean in timm: image i is mixed with image B-1-i.
"""
from __future__ import annotations

import math
from typing import Tuple

import numpy as np

from CaiT import checks
from CaiT.errors import InputError

MODES = checks.MIX_MODES


class Mixing:
    """(images [B, C, H, W] float32, labels int [B], generator) -> (images, targets float32 [B, num_classes]).

    ``mixup_alpha`` and ``cutmix_alpha`` are the parameters of the Beta distributions, 0 disables one; when both are
    enabled, CutMix is chosen with probability ``switch_prob``. ``prob`` is the probability of mixing. With ``mode``
    'batch' one coefficient lam (and box) is sampled per batch, with 'pair' one per pair (i, B-1-i), with 'elem' one per
    image. The targets include ``label_smoothing``. ``batch_size`` is only checked: pairs need an even one.
    """

    def __init__(self, mixup_alpha: float, cutmix_alpha: float, num_classes: int, batch_size: int, prob: float = 1.0,
                 switch_prob: float = 0.5, mode: str = 'batch', label_smoothing: float = 0.1) -> None:
        checks.check_mixing(dict(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, prob=prob, switch_prob=switch_prob,
                                 mode=mode, label_smoothing=label_smoothing), lambda name: f'mixing {name}')
        if mode == 'pair' and batch_size % 2:
            raise InputError(f"mixing mode 'pair': found a batch of {batch_size}, expected an even number")
        if not (mixup_alpha or cutmix_alpha):
            raise InputError('mixing: found mixup_alpha 0 and cutmix_alpha 0, expected at least one above 0')
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.prob, self.switch_prob, self.mode = prob, switch_prob, mode

    def __call__(self, images: np.ndarray, labels: np.ndarray,
                 rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
        batch_size, size = len(images), images.shape[2:]
        result = images.copy()
        lam = np.ones((batch_size, 1), np.float32)  # weight of the image itself; 1 - lam is its partner's
        if self.mode == 'batch':
            box, lam[:] = self._sample(size, rng)
            self._mix(result, images[::-1], float(lam[0, 0]), box)
        elif self.mode == 'elem':
            for i in range(batch_size):
                box, lam[i] = self._sample(size, rng)
                self._mix(result[i], images[batch_size - 1 - i], float(lam[i, 0]), box)
        else:
            for i in range(batch_size // 2):
                j = batch_size - 1 - i
                box, lam[[i, j]] = self._sample(size, rng)
                self._mix(result[i], images[j], float(lam[i, 0]), box)
                self._mix(result[j], images[i], float(lam[i, 0]), box)
        targets = smooth_one_hot(labels, self.num_classes, self.label_smoothing)
        return result, targets * lam + targets[::-1] * (1 - lam)

    def _sample(self, size: Tuple[int, int], rng: np.random.Generator) -> Tuple[Tuple[slice, ...], float]:
        """(box, lam): the box is () for mixup; lam is 1 when there is no mixing."""
        if rng.random() >= self.prob:
            return (), 1.0
        use_cutmix = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or rng.random() < self.switch_prob)
        alpha = self.cutmix_alpha if use_cutmix else self.mixup_alpha
        lam = float(rng.beta(alpha, alpha))
        return random_box(size, lam, rng) if use_cutmix else ((), lam)

    @staticmethod
    def _mix(result: np.ndarray, partner: np.ndarray, lam: float, box: Tuple[slice, ...]) -> None:
        """Blend with ``partner``, or paste its box, in place; the last two axes of both are height and width."""
        if box:
            result[(..., *box)] = partner[(..., *box)]
        elif lam < 1:
            result *= np.float32(lam)
            result += partner * np.float32(1 - lam)


def random_box(size: Tuple[int, int], lam: float, rng: np.random.Generator) -> Tuple[Tuple[slice, slice], float]:
    """CutMix's box: 1 - ``lam`` of the area about a random center, clipped at the border; and its lam."""
    height, width = size
    ratio = math.sqrt(1 - lam)
    h, w = int(height * ratio), int(width * ratio)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(y - h // 2, 0), min(y + (h + 1) // 2, height)
    left, right = max(x - w // 2, 0), min(x + (w + 1) // 2, width)
    return (slice(top, bottom), slice(left, right)), 1 - (bottom - top) * (right - left) / (height * width)


def smooth_one_hot(labels: np.ndarray, num_classes: int, smoothing: float) -> np.ndarray:
    """float32 [B, num_classes]: smoothing / num_classes everywhere, plus 1 - smoothing at the label."""
    targets = np.full((len(labels), num_classes), smoothing / num_classes, np.float32)
    targets[np.arange(len(labels)), labels] += np.float32(1 - smoothing)
    return targets
