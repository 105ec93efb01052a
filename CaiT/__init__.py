# SPDX-License-Identifier: Apache-2.0
"""CaiT, DeiT and ViT for PaddlePaddle.

``from CaiT import create_model, list_models, get_config, build_model, load_weights``. Names are imported when
they are first used, so that inference on an engine other than Paddle never imports Paddle.
"""
from __future__ import annotations

import importlib
from typing import Any

__version__ = '0.2.0'

_MODULES = {
    'create_model': 'CaiT.models.registry',
    'list_models': 'CaiT.models.registry',
    'get_variant': 'CaiT.models.registry',
    'get_config': 'CaiT.config',
    'build_model': 'CaiT.config',
    'load_weights': 'CaiT.weights.translate',
    'DataConfig': 'CaiT.data.transforms',
    'InputError': 'CaiT.errors',
    'NonFiniteError': 'CaiT.errors',
    'WorkerError': 'CaiT.errors',
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_MODULES[name]), name)
