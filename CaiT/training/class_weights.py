# SPDX-License-Identifier: Apache-2.0
"""Weights of the classes in the loss, against class imbalance."""
from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
from yacs.config import CfgNode

from CaiT.data.class_numbers import read_class_numbers
from CaiT.errors import InputError

KEY = 'TRAIN.CLASS_WEIGHTS'


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """float64 [num_classes]: number of labels / (classes that occur * labels of the class), scikit-learn's 'balanced'.

    The mean over the labels is 1. A class that does not occur gets 1.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0
    return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 1.0)


def class_weights(config: CfgNode, labels: np.ndarray) -> Tuple[Optional[np.ndarray], str]:
    """The weights [num_classes] that TRAIN.CLASS_WEIGHTS asks for, and a line for the log; (None, '') for none.

    ``labels``: the class ids of the training set. InputError for a file that does not fit the head.
    """
    setting, num_classes = config.TRAIN.CLASS_WEIGHTS, config.MODEL.NUM_CLASSES
    if not setting:
        return None, ''
    if setting == 'balanced':
        weights = balanced_weights(labels, num_classes)
    else:
        weights = read_class_numbers(setting, KEY, num_classes)
    mean = weights[labels].mean()
    if not mean > 0:
        raise InputError(f'{KEY}: {setting}: found weight 0 for every class of the training set, expected one above 0')
    line = (f'class weights ({setting}): {weights.min():.4g} (class {weights.argmin()}) to {weights.max():.4g} '
            f'(class {weights.argmax()}), mean over the training set {mean:.4g}')
    if config.DATA.SHUFFLE == 'balanced':
        line += (f'\nwarning: {KEY} beside DATA.SHUFFLE balanced: rare classes count twice, by their weight and by '
                 'their number of images')
    return weights, line
