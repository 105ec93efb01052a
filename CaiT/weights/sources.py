# SPDX-License-Identifier: Apache-2.0
"""The projects whose checkpoints can be loaded: recognized by parameter names, which are mapped to timm's.

One row per project; a new project is a new row. The layout of a square matrix cannot be inferred from its shape, so
the row states it.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable, Optional, Tuple

from CaiT.errors import InputError
from CaiT.weights.readers import PADDLE, TORCH


@dataclass(frozen=True)
class CheckpointSource:
    """``pattern``: matches a name that only this project uses. ``layout``: of a Linear's weight; None: that of the file
    format. ``renames``: patterns and replacements, applied in order. ``joined``: names of the three Linears that are
    joined to qkv, in its order. ``no_attention_bias``: CaiT's attention has no biases; they are set to zero."""
    name: str
    pattern: str
    layout: Optional[str]
    renames: Tuple[Tuple[str, str], ...] = ()
    joined: Tuple[str, ...] = ()
    no_attention_bias: bool = False


SOURCES = (
    # mindcv 0.3.0 (models/cait.py, vit.py)
    CheckpointSource('MindCV', r'^norm\.gamma$', TORCH, (
        (r'(norm\d?)\.gamma$', r'\1.weight'),
        (r'(norm\d?)\.beta$', r'\1.bias'),
    ), no_attention_bias=True),
    # Hugging Face transformers (modeling_vit.py, modeling_deit.py)
    CheckpointSource('Hugging Face transformers', r'(^|\.)embeddings\.position_embeddings$', TORCH, (
        (r'^(vit|deit)\.', ''),
        (r'^embeddings\.cls_token$', 'cls_token'),
        (r'^embeddings\.distillation_token$', 'dist_token'),
        (r'^embeddings\.position_embeddings$', 'pos_embed'),
        (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
        (r'^encoder\.layer\.', 'blocks.'),
        (r'\.layernorm_before\.', '.norm1.'),
        (r'\.layernorm_after\.', '.norm2.'),
        (r'\.attention\.attention\.(query|key|value)\.', '.attn.qkv.'),
        (r'\.attention\.output\.dense\.', '.attn.proj.'),
        (r'\.intermediate\.dense\.', '.mlp.fc1.'),
        (r'\.output\.dense\.', '.mlp.fc2.'),
        (r'^layernorm\.', 'norm.'),
        (r'^(cls_)?classifier\.', 'head.'),
        (r'^distillation_classifier\.', 'head_dist.'),
    ), joined=('query', 'key', 'value')),
    # PASSL (architectures/*Wrapper.py, heads/*_head.py)
    CheckpointSource('PASSL', r'^backbone\.', PADDLE, (
        (r'^backbone\.', ''),
        (r'^head\.fc_cls\.', 'head.'),
    )),
    # PaddleViT's CaiT and the 2022 version of this project; then PaddleViT's ViT and DeiT
    CheckpointSource('PaddleViT', r'^patch_embed(ding)?\.patch_embed(ding)?\.', PADDLE, (
        (r'^patch_embed(ding)?\.patch_embed(ding)?\.', 'patch_embed.proj.'),
        (r'^patch_embedding\.cls_token$', 'cls_token'),
        (r'^(patch_embedding\.)?position_embeddings?$', 'pos_embed'),
        (r'^encoder\.layers\.', 'blocks.'),
        (r'\.attn_norm\.', '.norm1.'),
        (r'\.mlp_norm\.', '.norm2.'),
        (r'\.attn\.out\.', '.attn.proj.'),
        (r'^encoder\.encoder_norm\.', 'norm.'),
        (r'^classifier\.', 'head.'),
        (r'^classifier_dist\.', 'head_dist.'),
    )),
    # timm, facebookresearch, PaddleClas and this project use the same names; the framework determines the layout.
    CheckpointSource('timm', r'^patch_embed\.proj\.', None),
)

# Prefixes that DataParallel and torch.compile add to every name.
WRAPPERS = ('module.', '_orig_mod.')


def unwrap(name: str) -> str:
    """``name`` without the prefixes of WRAPPERS."""
    while name.startswith(WRAPPERS):
        name = name[len(next(prefix for prefix in WRAPPERS if name.startswith(prefix))):]
    return name


def recognize(names: Iterable[str]) -> CheckpointSource:
    """The source whose pattern matches one of ``names``; InputError when there is none."""
    names = list(names)
    for source in SOURCES:
        if any(re.search(source.pattern, name) for name in names):
            return source
    raise InputError(f'its names ({", ".join(names[:3])}, …) match no known checkpoint source: '
                     + ', '.join(source.name for source in SOURCES))


def public_name(source: CheckpointSource, name: str) -> str:
    """The public (timm's) name of ``name``."""
    for pattern, replacement in source.renames:
        name = re.sub(pattern, replacement, name)
    return name
