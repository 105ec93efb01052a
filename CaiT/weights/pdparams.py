# SPDX-License-Identifier: Apache-2.0
"""Paddle's ``.pdparams``: a pickle, read by the restricted unpickler of CaiT/safe_pickle.py.

``paddle.load`` unpickles without restrictions and would run code that a file contains.
"""
from __future__ import annotations

from typing import Any, Dict

import numpy as np

from CaiT import safe_pickle
from CaiT.errors import InputError


def read_pdparams(path: str) -> Dict[str, np.ndarray]:
    """The arrays of a ``.pdparams`` file by name. bfloat16, which Paddle stores as uint16, becomes float32."""
    with open(path, 'rb') as file:
        content = flatten(safe_pickle.load(file))
    # paddle.save's mapping to internal parameter names, not a weight
    content.pop('StructuredToParameterName@@', None)
    arrays = {}
    for name, value in content.items():
        if isinstance(value, tuple) and len(value) == 2:
            value = value[1]
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise InputError(f'{name!r} holds a {type(value).__name__}, expected an array of numbers')
        arrays[name] = bfloat16(value) if value.dtype == np.uint16 else value
    return arrays


def flatten(content: Any) -> Dict[str, Any]:
    """The dict of weights: ``content`` itself, or the one nested under 'model' or 'state_dict' by a training script."""
    while isinstance(content, dict):
        inner = [content[key] for key in ('state_dict', 'model') if isinstance(content.get(key), dict)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f'holds a {type(content).__name__}, expected a dict of names and arrays')
    return dict(content)


def bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16, given as its bits in uint16, to float32; exact, since bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
