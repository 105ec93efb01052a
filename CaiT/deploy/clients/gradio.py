# SPDX-License-Identifier: Apache-2.0
"""What app.py needs of an export: the graph of ``--attention``, which ``--client gradio`` asks for too."""
from __future__ import annotations

import math
from typing import List, Tuple

import numpy as np
from PIL import Image

from CaiT.data.transforms import ImageLike
from CaiT.deploy.attention import Attention
from CaiT.deploy.clients import Request

HEAT = np.array([[13, 8, 135], [156, 23, 158], [237, 121, 83], [240, 249, 33]], np.float64)  # from none to the most


def write(request: Request) -> List[str]:
    """Nothing more is written."""
    return [f'python app.py --model-dir={request.folder}: a page with classes and attention']


def last_block(attention: Attention, image: ImageLike) -> Tuple[np.ndarray, np.ndarray]:
    """(the crop that the model sees, uint8 [S, S, 3]; the class token's attention to its patches in the last block
    [side, side], the heads' mean)."""
    found = attention(image)
    patches = found['attention'][-1].mean(0)[attention.prefix:]
    side = math.isqrt(len(patches))
    return found['pixels'], patches.reshape(side, side)


def overlay(pixels: np.ndarray, values: np.ndarray) -> Image.Image:
    """The image in gray under colors, from blue for none to yellow for the most attended twentieth of the patches.
    ``pixels`` [S, S, 3], ``values`` [side, side]."""
    size = pixels.shape[1], pixels.shape[0]
    most = np.sort(values, axis=None)[math.ceil(0.95 * values.size) - 1]  # a few patches can outshine all others
    scaled = Image.fromarray((values / max(float(most), 1e-12)).astype(np.float32))
    place = np.sqrt(np.clip(np.asarray(scaled.resize(size, Image.BILINEAR)), 0, 1)) * (len(HEAT) - 1)
    colors = np.stack([np.interp(place, range(len(HEAT)), HEAT[:, channel]) for channel in range(3)], -1)
    gray = pixels @ np.array([0.299, 0.587, 0.114])
    return Image.fromarray(np.rint(0.5 * gray[..., None] + 0.5 * colors).astype(np.uint8))
