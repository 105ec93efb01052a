# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the data tests: synthetic images and the folder of real ones."""
from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def pattern():
    """(width, height) -> [height, width, 3] uint8, with smooth and rough areas and all levels."""
    def make(width: int, height: int) -> np.ndarray:
        y, x = np.mgrid[0:height, 0:width]
        return np.stack([(x * 7 + y * 3) % 256, (x * y) % 256, (x * x // 5 + y * 11) % 256], -1).astype(np.uint8)
    return make


@pytest.fixture
def pixels(pattern):
    """An image with smooth and rough areas, not square, without the darkest and brightest levels."""
    pixels = cv2.GaussianBlur(pattern(61, 47), (0, 0), 1.5)
    return (pixels // 2 + 40).astype(np.uint8)


@pytest.fixture
def rng():
    """A fresh generator with a fixed seed."""
    return np.random.Generator(np.random.PCG64(0))


@pytest.fixture
def real_data() -> Path:
    """The folder of real images (imagenet_ccby, imagenette_lite, cifar10_lite), from CAIT_REAL_DATA."""
    folder = os.environ.get('CAIT_REAL_DATA')
    if not folder:
        pytest.skip('CAIT_REAL_DATA is not set')
    return Path(folder)
