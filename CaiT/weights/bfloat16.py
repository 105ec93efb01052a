# SPDX-License-Identifier: Apache-2.0
"""bfloat16, which NumPy does not have: kept as its bits, read as float32."""
from __future__ import annotations

from typing import Tuple

import numpy as np


class Bfloat16:
    """An array of bfloat16 numbers, given as uint16."""
    dtype = 'bfloat16'

    def __init__(self, bits: np.ndarray) -> None:
        self.bits = bits

    @property
    def shape(self) -> Tuple[int, ...]:
        return self.bits.shape

    def array(self) -> np.ndarray:
        """The numbers as float32: exact, they share their upper half."""
        return (self.bits.astype(np.uint32) << 16).view(np.float32)
