# SPDX-License-Identifier: Apache-2.0
"""Files of one number per class: class weights, thresholds."""
from __future__ import annotations

import math

import numpy as np

from CaiT.data.text import quoted, read_lines
from CaiT.errors import InputError, shown
from CaiT.files import PathLike


def read_class_numbers(path: PathLike, key: str, num_classes: int, maximum: float = math.inf) -> np.ndarray:
    """float64 [num_classes] of a text with one number per line, class 0 first; ``key`` is the setting that names it.

    InputError for another number of lines and for what is no number from 0 to ``maximum``.
    """
    numbers = []
    limit = 'a finite number of at least 0' if maximum == math.inf else f'a number from 0 to {maximum:g}'
    for line, text in read_lines(path):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (0 <= number <= maximum and math.isfinite(number)):
            raise InputError(f'{key}: {quoted(path)}, line {line}: found {shown(text)!r}, expected {limit}')
        numbers.append(number)
    if len(numbers) != num_classes:
        raise InputError(f'{key}: {quoted(path)}: found {len(numbers)} numbers, expected {num_classes}, one per line '
                         'for each class of the head')
    return np.array(numbers)


def read_thresholds(path: PathLike, num_classes: int) -> np.ndarray:
    """float64 [num_classes] of DATA.THRESHOLDS: the probability from which a class is predicted, 0.5 without a file."""
    return read_class_numbers(path, 'DATA.THRESHOLDS', num_classes, 1.0) if path else np.full(num_classes, 0.5)
