# SPDX-License-Identifier: Apache-2.0
"""Registered models at a size that builds in milliseconds: their own heads and patch, few blocks, few channels."""
from __future__ import annotations

from typing import Any, Tuple

import paddle
from paddle import nn

from CaiT import create_model, get_variant
from CaiT.tools import goldens

DEPTH, CLASSES, SIDE = 3, 5, 4  # blocks, classes, patches per side


def small(name: str, **overrides: Any) -> nn.Layer:
    """The model ``name`` with the rule's weights, in evaluation mode, without stochastic depth."""
    arch = get_variant(name).arch
    shape = dict(image_size=SIDE * arch['patch_size'], embed_dim=8 * arch['num_heads'], depth=DEPTH,
                 num_classes=CLASSES, drop_path_rate=0.0)
    model = create_model(name, **{**shape, **overrides})
    goldens.fill(model)
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
