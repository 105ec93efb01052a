# SPDX-License-Identifier: Apache-2.0
"""Small models with randomized weights, on images of 32 pixels; which engines are installed."""
from __future__ import annotations

import importlib.util

import pytest

from CaiT import runtime

runtime.prepare()

import paddle  # noqa: E402

from CaiT.data.transforms import DataConfig  # noqa: E402
from tests.models.small import randomized, small_model  # noqa: E402

LIBRARIES = {'paddle': ('paddle',), 'onnxruntime': ('onnx', 'onnxruntime'), 'openvino': ('onnx', 'openvino')}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def small(family: str, image_size: int = 32, **more: int) -> 'paddle.nn.Layer':
    """A model of three blocks and ten classes; family 'distilled' has two heads."""
    name = {'distilled': 'deit_tiny_distilled_patch16_224', 'vit': 'vit_tiny_patch16_224',
            'cait': 'cait_xxs24_224'}[family]
    shape = dict(image_size=image_size, num_classes=10, patch_size=8, embed_dim=48, num_heads=4)
    return small_model(name, randomized, **{**shape, **more})


def small_data(image_size: int = 32) -> DataConfig:
    return DataConfig(image_size, 1.0, 'bicubic', MEAN, STD)


def is_installed(backend: str) -> bool:
    """Whether an engine's libraries, for export and inference, are there."""
    return all(map(importlib.util.find_spec, LIBRARIES[backend]))


def need(backend: str) -> None:
    """Skip a test of an engine that is not installed; those of the others run."""
    if not is_installed(backend):
        pytest.skip(f'{backend} is not installed')
