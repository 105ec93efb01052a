# SPDX-License-Identifier: Apache-2.0
"""Who wrote a checkpoint, told by its names, and how their names become the public ones (timm's).

One row per source; a new source is a new row. A square matrix looks the same in both layouts, so the file's format, and
where that says nothing the row, says which it is.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Tuple

from CaiT.errors import InputError, shown

PADDLE, TORCH = '[in, out]', '[out, in]'  # how a Linear's weight is laid out


@dataclass(frozen=True)
class CheckpointSource:
    """``mark``: how a name ends that every file of this source has; what stands before it is a prefix of all names.
    ``also``: another such name, where ``mark`` alone does not tell. ``layout``: of a Linear's weight in formats that do
    not say it; None: PyTorch's. ``renames``: patterns and replacements, applied one after the other. ``joined``: words
    of the three Linears that are one qkv here, in its order. ``unused``: arrays that no classifier has.
    ``no_attention_bias``: CaiT's attention has no biases there, which is the same as zeros."""
    name: str
    mark: str
    also: str = ''
    layout: Optional[str] = None
    renames: Tuple[Tuple[str, str], ...] = ()
    joined: Tuple[str, ...] = ()
    unused: str = ''
    no_attention_bias: bool = False


_TIMM = r'patch_embed\.proj\.\w+$'
SOURCES = (
    # mindcv 0.3.0 (models/cait.py, vit.py)
    CheckpointSource('MindCV', r'norm\.gamma$', layout=TORCH, renames=(
        (r'(norm\d?)\.gamma$', r'\1.weight'),
        (r'(norm\d?)\.beta$', r'\1.bias'),
    ), no_attention_bias=True),
    # Hugging Face transformers (modeling_vit.py, modeling_deit.py)
    CheckpointSource('Hugging Face transformers', r'embeddings\.position_embeddings$', layout=TORCH, renames=(
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
    ), joined=('query', 'key', 'value'), unused=r'^pooler\.'),
    # PASSL (architectures/*Wrapper.py, heads/*_head.py)
    CheckpointSource('PASSL', _TIMM, r'(^|\.)head\.fc_cls\.', renames=((r'^head\.fc_cls\.', 'head.'),)),
    # PaddleViT's CaiT and the 2022 original of this project; then PaddleViT's ViT and DeiT
    CheckpointSource('PaddleViT', r'patch_embed(ding)?\.patch_embed(ding)?\.\w+$', layout=PADDLE, renames=(
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
    # facebookresearch/dino and /mae: ViTs with the parts that pre-training alone needs
    CheckpointSource('DINO', _TIMM, r'(^|\.)head\.last_layer\.', unused=r'^head\.(mlp|last_layer)\.'),
    CheckpointSource('MAE', _TIMM, r'(^|\.)decoder_pos_embed$', unused=r'^(mask_token$|decoder_)'),
    # timm, facebookresearch and this project write the same names; so does PaddleClas. Only the framework differs.
    CheckpointSource('timm', _TIMM),
)

# What training in parallel or compiling puts before every name.
WRAPPERS = ('module.', '_orig_mod.')
# Names of our models; beside a prefix, these alone are taken without it (a head that stands outside the backbone).
PUBLIC = re.compile(r'(cls_token|dist_token|pos_embed)$|(patch_embed|blocks|blocks_token_only|norm|head|head_dist)\.')

# Names of other files that are given as weights of ours, and what those are. The first that matches is told.
OTHERS = (
    (r'(_moment[12]_0|_pow_acc_0|_velocity_0)$|^(LR_Scheduler|master_weights)$',
     'the state of an optimizer (.pdopt), the weights are in the .pdparams beside it'),
    (r'^param_groups$', 'the state of an optimizer'),
    (r'^(last_epoch|last_lr)$', 'the state of a learning-rate schedule'),
    (r'\.relative_position_(bias_table|index)$', 'a Swin Transformer or a BEiT'),
    (r'(^|\.)layer1\.0\.conv1\.', 'a ResNet'),
    (r'(^|\.)visual\.', 'a CLIP model'),
    (r'(^|\.)(conv_proj|encoder\.pos_embedding)', "torchvision's ViT"),
    (r'(^|\.)stages\.0\.', 'a ConvNeXt or another convolutional network'),
    (r'(^|\.)embeddings\.word_embeddings\.', 'a language model'),
    (r'(^|\.)ls1\.gamma$', 'a DINOv2 model or a timm ViT with LayerScale'),
    (r'(^|\.)gamma_1$', 'a DeiT III or another ViT with LayerScale'),
    (r'(^|\.)fc_norm\.', 'a ViT that averages its patch tokens (MAE fine-tuned, BEiT)'),
    (r'(^|\.)pre_logits\.', "a ViT with a representation layer before its head (timm's in21k files of 2021)"),
    (r'(^|\.)[qk]_norm\.', 'a ViT that normalizes queries and keys'),
)


def unwrap(name: str) -> str:
    """``name`` without the prefixes of wrappers around the model."""
    while name.startswith(WRAPPERS):
        name = name[len(next(prefix for prefix in WRAPPERS if name.startswith(prefix))):]
    return name


def find_models(names: Iterable[str]) -> Dict[str, CheckpointSource]:
    """The models among ``names`` (unwrapped): {prefix of their names: source}, empty where there is none."""
    names, found = list(names), {}
    for source in SOURCES:
        if source.also and not any(re.search(source.also, name) for name in names):
            continue
        mark = re.compile(rf'((?:.*\.)?){source.mark}')
        for match in filter(None, map(mark.match, names)):
            found.setdefault(match.group(1), source)
    return found


def probably(names: Iterable[str]) -> str:
    """What a file with these names is, where that can be told: '; it is probably …', else ''."""
    names = list(names)
    return next((f'; it is probably {what}' for pattern, what in OTHERS
                 if any(re.search(pattern, name) for name in names)), '')


def not_ours(names: List[str]) -> InputError:
    """The error for names of no source."""
    listed = ', '.join(shown(name) for name in names[:3])
    known = dict.fromkeys(source.name for source in SOURCES)
    return InputError(f'its names ({listed}, …) match no known checkpoint source: {", ".join(known)}{probably(names)}')


def public_name(source: CheckpointSource, name: str) -> str:
    """``name`` as timm writes it."""
    for pattern, replacement in source.renames:
        name = re.sub(pattern, replacement, name)
    return name
