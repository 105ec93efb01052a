# SPDX-License-Identifier: Apache-2.0
"""Paddle's ``.pdparams``: a pickle of arrays. ``paddle.load`` runs whatever code the file asks for; this does not."""
from __future__ import annotations

import os
from typing import Any, Dict

from CaiT import safe_pickle


def read_pdparams(path: str) -> Any:
    """What a ``.pdparams`` file holds: nested dicts of arrays and whatever stands beside them."""
    with open(path, 'rb') as file:
        return safe_pickle.load(file)


def read_trailer(path: str, name: str) -> Dict[str, str]:
    """{name: text} that this project writes behind the pickle, {} where there is none."""
    with open(path, 'rb') as file:
        file.seek(-min(1000, file.seek(0, os.SEEK_END)), os.SEEK_END)
        _, mark, text = file.read().rpartition(f'\n{name} '.encode())
    return {name: text.decode('utf-8', 'replace')} if mark else {}
