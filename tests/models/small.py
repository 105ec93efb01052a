# SPDX-License-Identifier: Apache-2.0
"""The small models of all tests: registered ones at a size that builds in milliseconds."""
from __future__ import annotations

from typing import Any, Callable, Tuple

import numpy as np
import paddle
from paddle import nn

from CaiT import create_model, get_variant
from CaiT.tools import goldens

DEPTH, CLASSES, SIDE = 3, 5, 4  # blocks, classes, patches per side


def small_model(name: str, fill: Callable[[nn.Layer], Any] = goldens.fill, **overrides: Any) -> nn.Layer:
    """The model ``name`` in evaluation mode: its own heads and patch, few blocks, few channels, no stochastic depth.

    ``fill`` sets the weights: those of the goldens' rule, or ``randomized``. ``overrides`` are create_model's.
    """
    arch = get_variant(name).arch
    shape = dict(image_size=SIDE * arch['patch_size'], embed_dim=8 * arch['num_heads'], depth=DEPTH,
                 num_classes=CLASSES, drop_path_rate=0.0)
    model = create_model(name, **{**shape, **overrides})
    fill(model)
    model.eval()
    return model


def randomized(model: nn.Layer, seed: int = 0) -> nn.Layer:
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


def images(model: nn.Layer, count: int = 2) -> paddle.Tensor:
    side = SIDE * model.patch_embed.proj.weight.shape[-1]
    return paddle.to_tensor(goldens.noise((count, 3, side, side), 0))


def gradients(model: nn.Layer, x: paddle.Tensor) -> Tuple[list, dict]:
    """(logits of each head, {name: gradient or None}) of one backward pass of the sum of squared logits."""
    model.clear_gradients()
    logits = model(x)
    logits = list(logits) if isinstance(logits, tuple) else [logits]
    sum(one.square().sum() for one in logits).backward()
    return ([one.numpy() for one in logits],
            {name: None if p.grad is None else p.grad.numpy() for name, p in model.named_parameters()})
