# SPDX-License-Identifier: Apache-2.0
"""The settings of a config by their full names."""
from __future__ import annotations

from typing import Any, Iterator, Mapping, Tuple


def leaves(node: Mapping[str, Any], prefix: str = '') -> Iterator[Tuple[str, Any]]:
    """('TRAIN.EPOCHS', 300) and so on."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value
