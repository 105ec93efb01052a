# SPDX-License-Identifier: Apache-2.0
"""Paddle's ``.pdparams``: a pickle of arrays. ``paddle.load`` runs whatever code the file asks for; this does not."""
from __future__ import annotations

from typing import Any

from CaiT.safe_pickle import Unpickler


def read_pdparams(path: str) -> Any:
    """What a ``.pdparams`` file holds: nested dicts of arrays and whatever stands beside them."""
    with open(path, 'rb') as file:
        return Unpickler(file).load()
