# SPDX-License-Identifier: Apache-2.0
"""Small models with randomized weights."""
from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from CaiT import runtime

runtime.prepare()

import paddle  # noqa: E402

from CaiT.data.transforms import DataConfig  # noqa: E402
from CaiT.models.registry import create_model  # noqa: E402

LIBRARIES = {'paddle': ('paddle',), 'onnxruntime': ('onnx', 'onnxruntime'), 'openvino': ('onnx', 'openvino')}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def randomized(model: 'paddle.nn.Layer', seed: int = 0) -> 'paddle.nn.Layer':
    """Every parameter random: norms about 1, LayerScale about 0.3, biases not zero, so that no fold is an identity."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for name, parameter in model.named_parameters():
        noise = rng.standard_normal(parameter.shape).astype(np.float32)
        if 'gamma_' in name:
            value = 0.3 + 0.1 * noise
        elif parameter.ndim == 1 and name.endswith('weight'):
            value = 1 + 0.2 * noise
        elif parameter.ndim == 1:
            value = 0.1 * noise
        elif name.endswith(('cls_token', 'dist_token', 'pos_embed')):
            value = 0.3 * noise
        else:
            fan_in = parameter.shape[0] if parameter.ndim == 2 else int(np.prod(parameter.shape[1:]))
            value = noise / np.sqrt(fan_in)
        parameter.set_value(value.astype(np.float32))
    model.eval()
    return model


def small(family: str, image_size: int = 32, **more: int) -> 'paddle.nn.Layer':
    """A model of three blocks and ten classes; class 'distilled' has two heads."""
    shape = dict(image_size=image_size, num_classes=10, patch_size=8, embed_dim=48, depth=3, num_heads=4)
    name = {'distilled': 'deit_tiny_distilled_patch16_224', 'vit': 'vit_tiny_patch16_224',
            'cait': 'cait_xxs24_224'}[family]
    return randomized(create_model(name, **{**shape, **more}))


def small_data(image_size: int = 32) -> DataConfig:
    return DataConfig(image_size, 1.0, 'bicubic', MEAN, STD)


def is_installed(backend: str) -> bool:
    """Whether an engine's libraries, for export and inference, are there."""
    return all(map(importlib.util.find_spec, LIBRARIES[backend]))


def need(backend: str) -> None:
    """Skip a test of an engine that is not installed; those of the others run."""
    if not is_installed(backend):
        pytest.skip(f'{backend} is not installed')
