# SPDX-License-Identifier: Apache-2.0
"""What a decision rests on: attention of the class token, rollout, gradient-weighted relevance.

Shapes: B images, H heads, T tokens (prefix + N patches; the prefix is the class token, in distilled DeiT also the
distillation token), N = side * side patches in rows.

- ``attention``: softmax rows of the class token. CaiT: its class-attention blocks, in which the class token alone reads
  the patches; DeiT and ViT: the last block.
- ``rollout`` (Abnar and Zuidema 2020, arXiv 2005.00928), DeiT and ViT: heads averaged, A' = (A + I) / 2, multiplied
  over the blocks.
- ``relevance`` (Chefer, Gur and Wolf 2021, arXiv 2103.15679): R = I, then in every block R = R + E_h[(dy_c/dA * A)+] R,
  where y_c is the logit of class c and A the matrix that multiplies the values (in CaiT's first stage after the heads
  are mixed).
"""
from __future__ import annotations

import contextlib
from typing import Any, Iterator, List, Optional, Sequence

import numpy as np
import paddle
from paddle import nn

from CaiT.accelerate import restore
from CaiT.errors import InputError
from CaiT.report.attention_maps import Explanation


def attending_layers(model: nn.Layer) -> List[nn.Layer]:
    """The attention layers, in the order an image passes them."""
    return [block.attn for stack in model.stacks for block in getattr(model, stack)]


@contextlib.contextmanager
def captured(model: nn.Layer) -> Iterator[List[paddle.Tensor]]:
    """A list that a forward pass fills with what each ``attn_drop`` receives, [B, H, queries, T]."""
    found: List[paddle.Tensor] = []

    def keep(layer: nn.Layer, inputs: Any, output: paddle.Tensor) -> paddle.Tensor:
        found.append(inputs[0])
        return output
    handles = [layer.attn_drop.register_forward_post_hook(keep) for layer in attending_layers(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def plain_layers(model: nn.Layer) -> Iterator[None]:
    """The model with its plain layers: ``paddle.grad`` does not go through accelerated ones."""
    classes = [(layer, layer.__class__) for layer in model.sublayers(include_self=True)]
    restore(model)
    try:
        yield
    finally:
        for layer, kind in classes:
            if layer.__class__ is not kind:
                layer.__class__ = kind


def explain(model: nn.Layer, images: np.ndarray, class_ids: Optional[Sequence[int]] = None,
            multi_label: bool = False) -> Explanation:
    """All maps of normalized images [B, 3, S, S], by one forward and one backward pass.

    ``class_ids`` [B]: the classes to explain, by default the most probable ones. ``multi_label``: of a model for images
    of several classes, whose probabilities are sigmoids. The model is left in eval mode; its parameters' gradients are
    not touched.
    """
    model.eval()
    with plain_layers(model), captured(model) as matrices, paddle.enable_grad():
        # The parameters may be frozen; the images then carry the graph.
        logits = model(paddle.to_tensor(np.asarray(images, np.float32), stop_gradient=False)).astype('float32')
    if len(matrices) != len(attending_layers(model)):
        raise RuntimeError(f'found {len(matrices)} attention matrices, expected one of each of the '
                           f'{len(attending_layers(model))} layers: a layer does not call its attn_drop')
    if not np.isfinite(logits.numpy()).all():
        raise InputError('attention: the logits of the model are not finite, expected weights with which they do not '
                         'overflow')
    chosen = logits.argmax(1).numpy() if class_ids is None else np.asarray(class_ids, np.int64)
    one_hot = np.zeros(logits.shape, np.float32)
    one_hot[np.arange(len(chosen)), chosen] = 1
    gradients = paddle.grad((logits * paddle.to_tensor(one_hot)).sum(), matrices)
    arrays, slopes = ([one.astype('float32').numpy() for one in group] for group in (matrices, gradients))
    cait = model.family == 'cait'
    prefix = len(model.classifiers)
    last = arrays[-len(model.blocks_token_only):] if cait else arrays[-1:]
    attention = np.stack([one[:, :, 0] for one in last], axis=1)
    weighted = [np.maximum(a * g, 0).mean(1) for a, g in zip(arrays, slopes)]  # [B, queries, T]
    relevance = _cait_relevance(weighted, len(model.blocks)) if cait else _relevance(weighted, prefix)
    probs = (nn.functional.sigmoid if multi_label else nn.functional.softmax)(logits).numpy()
    return Explanation(probs, chosen, attention, None if cait else rollout(arrays), relevance, prefix)


def rollout(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Attention [B, H, T, T] of each block to the class token's row [B, T] of the rollout; the row sums to 1."""
    row = np.zeros((len(matrices[0]), 1, matrices[0].shape[-1]), np.float32)
    row[:, 0, 0] = 1
    for matrix in reversed(matrices):  # one row from the left: no product of whole matrices
        mean = matrix.mean(1)
        row = 0.5 * (row @ mean + row)
    return row[:, 0]


def _relevance(weighted: Sequence[np.ndarray], prefix: int) -> np.ndarray:
    """Rows of the tokens that the classifiers read, averaged as their logits are, [B, T]."""
    row = np.zeros((len(weighted[0]), 1, weighted[0].shape[-1]), np.float32)
    row[:, 0, :prefix] = 1 / prefix
    for matrix in reversed(weighted):
        row = row + row @ matrix
    return row[:, 0]


def _cait_relevance(weighted: Sequence[np.ndarray], depth: int) -> np.ndarray:
    """As ``_relevance``; the class token [B, 1, 1 + N] joins after ``depth`` blocks among the N patches."""
    row = np.zeros((len(weighted[0]), 1, weighted[-1].shape[-1]), np.float32)
    row[:, 0, 0] = 1
    for matrix in reversed(weighted[depth:]):  # only the class token changes: only its own column passes on
        row = row + row[:, :, :1] @ matrix
    patches = row[:, :, 1:]
    for matrix in reversed(weighted[:depth]):
        patches = patches + patches @ matrix
    return np.concatenate([row[:, 0, :1], patches[:, 0]], axis=1)
