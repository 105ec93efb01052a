# SPDX-License-Identifier: Apache-2.0
"""Random erasing (Zhong et al. 2017) of a normalized image."""
from __future__ import annotations

import math

import numpy as np

from CaiT import checks

MIN_AREA, MAX_AREA = 0.02, 1 / 3  # fraction of the image: timm's and DeiT's values
MIN_ASPECT = 0.3  # height / width from 0.3 to 1 / 0.3


class RandomErasing:
    """Fill a random box with probability ``prob``: 'pixel' by noise, 'rand' by a random color, 'const' by the mean.

    Works in place on normalized float32 [C, H, W]: the noise is N(0, 1), the mean 0.
    """

    def __init__(self, prob: float, mode: str = 'pixel') -> None:
        checks.one_of('random erasing mode', mode, checks.ERASE_MODES)
        self.prob, self.mode = prob, mode

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.prob == 0 or rng.random() >= self.prob:
            return image
        channels, height, width = image.shape
        low = math.log(MIN_ASPECT)
        for _ in range(10):
            area = height * width * (MIN_AREA + rng.random() * (MAX_AREA - MIN_AREA))
            aspect = math.exp(low - 2 * low * rng.random())
            h, w = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
            if h < height and w < width:
                top, left = int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1))
                shape = {'pixel': (channels, h, w), 'rand': (channels, 1, 1), 'const': None}[self.mode]
                fill = 0.0 if shape is None else rng.standard_normal(shape, dtype=np.float32)
                image[:, top:top + h, left:left + w] = fill
                break
        return image
