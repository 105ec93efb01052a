# SPDX-License-Identifier: Apache-2.0
"""ViT (Dosovitskiy et al., 2020, arXiv 2010.11929) and DeiT (Touvron et al., 2020, arXiv 2012.12877).

One network: the class token passes all blocks together with the patches. Distilled DeiT adds a distillation token with
a head of its own. Shapes: B images, N tokens (prefix + patches), C channels, H heads, d = C / H.
"""
from __future__ import annotations

from typing import Any, Dict, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.models.layers import (
    Backbone,
    DropPath,
    Intermediates,
    LayerNorm,
    Mlp,
    PatchEmbed,
    check_shape,
    linear,
    merge_heads,
    split_qkv,
    token,
)
from CaiT.models.registry import HALF, IMAGENET, TIMM, Alias, Variant, preprocessing


class Attention(nn.Layer):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, attn_drop_rate: float, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = linear(dim, 3 * dim, qkv_bias)
        self.proj = linear(dim, dim)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj_drop = nn.Dropout(drop_rate)

    def attend(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens [B, N, C] to attn [B, H, N, N] and values [B, H, N, d]."""
        q, k, v = split_qkv(self.qkv(x), self.num_heads)  # [B, H, N, d] each
        attn = paddle.matmul(q * self.scale, k, transpose_y=True)  # [B, H, N, N]
        return F.softmax(attn), v

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        attn, v = self.attend(x)
        x = merge_heads(paddle.matmul(self.attn_drop(attn), v))  # [B, N, C]
        return self.proj_drop(self.proj(x))


class Block(nn.Layer):
    """Attention and MLP, each normalized before and added to its input."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, drop_rate: float,
                 attn_drop_rate: float, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, attn_drop_rate, drop_rate)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(Backbone):
    """The network. ``drop_path_rate`` is reached in the last block by a linear ramp from 0 in the first.

    Raises InputError for a shape that cannot be built.
    """
    family = 'vit'

    def __init__(self, image_size: int = 224, num_classes: int = 1000, patch_size: int = 16, in_channels: int = 3,
                 embed_dim: int = 192, depth: int = 12, num_heads: int = 3, mlp_ratio: float = 4.0,
                 qkv_bias: bool = True, drop_rate: float = 0.0, attn_drop_rate: float = 0.0,
                 drop_path_rate: float = 0.0) -> None:
        sizes = dict(image_size=image_size, num_classes=num_classes, patch_size=patch_size, in_channels=in_channels,
                     embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
        check_shape(type(self).__name__, sizes, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate,
                    drop_path_rate=drop_path_rate)
        super().__init__(num_classes, embed_dim)
        self.patch_embed = PatchEmbed(image_size, patch_size, in_channels, embed_dim)
        for name in self.prefix:
            setattr(self, name, token(self, 1, 1, embed_dim))
        self.pos_embed = token(self, 1, len(self.prefix) + self.patch_embed.num_patches, embed_dim)
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.LayerList([
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias, drop_rate, attn_drop_rate,
                  drop_path_rate * index / max(depth - 1, 1)) for index in range(depth)])
        self.norm = LayerNorm(embed_dim)

    @property
    def prefix(self) -> Tuple[str, ...]:
        """The tokens before the patches, in order; each has a classifier, in the same order."""
        return tuple(name for name in self.tokens if name != 'pos_embed')

    def embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images to tokens [B, prefix + patches, C] before the first block."""
        patches = self.patch_embed(x)
        prefix = [getattr(self, name).expand([patches.shape[0], -1, -1]) for name in self.prefix]
        return self.pos_drop(self.add_positions(paddle.concat([*prefix, patches], axis=1)))

    def encode(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images to tokens [B, prefix + patches, C] after the last block."""
        x = self.embed(x)
        for block in self.blocks:
            x = self.run_block(block, x)
        return x

    def forward(self, x: paddle.Tensor) -> Any:
        """Images [B, in, S, S] to logits [B, classes]. Only the heads' inputs are normalized."""
        return self.forward_head(self.norm(self.encode(x)[:, :len(self.prefix)]))

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.norm(self.encode(x))

    def forward_head(self, x: paddle.Tensor, pre_logits: bool = False) -> Any:
        return x[:, 0] if pre_logits else self.head(x[:, 0])

    def forward_intermediates(self, x: paddle.Tensor, attention: bool = False) -> Intermediates:
        """Tokens after each block; with ``attention`` also each block's attn [B, H, N, N]."""
        features, attn = [], []
        x = self.embed(x)
        for block in self.blocks:
            if attention:
                attn.append(block.attn.attend(block.norm1(x))[0])
            x = block(x)
            features.append(x)
        return Intermediates(features, attn, self.norm(x))

    def to_network(self) -> Dict[str, Any]:
        return dict(family='vit', patch_size=self.patch_embed.proj.weight.shape[-1],
                    num_heads=self.blocks[0].attn.num_heads, prefix=self.prefix)


class DeiT(ViT):
    """ViT's network as DeiT trains it."""
    family = 'deit'


class DistilledDeiT(DeiT):
    """DeiT with a distillation token: ``head_dist`` reads it and is trained on the teacher's labels.

    In training the model returns both heads' logits, (class, distillation); otherwise their average.
    """
    classifiers = ('head', 'head_dist')
    tokens = ('cls_token', 'dist_token', 'pos_embed')

    def forward_head(self, x: paddle.Tensor, pre_logits: bool = False) -> Any:
        if pre_logits:
            return (x[:, 0] + x[:, 1]) / 2
        logits, distilled = self.head(x[:, 0]), self.head_dist(x[:, 1])
        return (logits, distilled) if self.training else (logits + distilled) / 2

    def to_network(self) -> Dict[str, Any]:
        return super().to_network()  # both heads are known there, averaged


_SIZES = {'tiny': (192, 12, 3), 'small': (384, 12, 6), 'base': (768, 12, 12), 'large': (1024, 24, 16)}
_AUGREG = f'{TIMM}, in21k'  # source of published accuracies: pretrained on ImageNet-21K


def _row(model: type, size: str, patch: int, image_size: int, top1: float, top5: float,
         statistics: Dict[str, tuple] = IMAGENET, source: str = TIMM) -> Variant:
    dim, depth, heads = _SIZES[size]
    arch = dict(patch_size=patch, embed_dim=dim, depth=depth, num_heads=heads, drop_path_rate=0.1)
    crop = 0.9 if image_size == 224 else 1.0
    return Variant(model, arch, preprocessing(image_size, crop, statistics),
                   dict(top1=top1, top5=top5, source=source, distilled=model is DistilledDeiT))


# Accuracies: timm's, of facebookresearch/deit's weights and of its own augreg weights (vit_….augreg_in21k_ft_in1k).
VARIANTS = {
    'deit_tiny_patch16_224': _row(DeiT, 'tiny', 16, 224, 72.19, 91.10),
    'deit_small_patch16_224': _row(DeiT, 'small', 16, 224, 79.86, 95.06),
    'deit_base_patch16_224': _row(DeiT, 'base', 16, 224, 81.98, 95.74),
    'deit_tiny_distilled_patch16_224': _row(DistilledDeiT, 'tiny', 16, 224, 74.54, 91.90),
    'deit_small_distilled_patch16_224': _row(DistilledDeiT, 'small', 16, 224, 81.20, 95.38),
    'deit_base_distilled_patch16_224': _row(DistilledDeiT, 'base', 16, 224, 83.38, 96.49),
    'deit_base_patch16_384': _row(DeiT, 'base', 16, 384, 83.11, 96.38),
    'deit_base_distilled_patch16_384': _row(DistilledDeiT, 'base', 16, 384, 85.44, 97.33),
    'vit_tiny_patch16_224': _row(ViT, 'tiny', 16, 224, 75.45, 92.86, HALF, _AUGREG),
    'vit_small_patch16_224': _row(ViT, 'small', 16, 224, 81.40, 96.15, HALF, _AUGREG),
    'vit_base_patch16_224': _row(ViT, 'base', 16, 224, 84.53, 97.30, HALF, _AUGREG),
    'vit_base_patch32_224': _row(ViT, 'base', 32, 224, 80.73, 95.57, HALF, _AUGREG),
    'vit_large_patch16_224': _row(ViT, 'large', 16, 224, 85.86, 97.82, HALF, _AUGREG),
    'vit_large_patch32_224': _row(ViT, 'large', 32, 224, 73.71, 90.92, HALF, 'MindCV'),
    'vit_base_patch16_384': _row(ViT, 'base', 16, 384, 86.01, 98.00, HALF, _AUGREG),
    'vit_base_patch32_384': _row(ViT, 'base', 32, 384, 83.36, 96.83, HALF, _AUGREG),
    'vit_large_patch16_384': _row(ViT, 'large', 16, 384, 87.10, 98.30, HALF, _AUGREG),
}

# MindCV's names. Its ViTs are trained and evaluated with ImageNet's statistics, timm's of the same shape with 0.5.
_MINDCV = dict(crop_pct=0.875, **IMAGENET)
ALIASES = {
    'deit_tiny': 'deit_tiny_patch16_224',
    'deit_small': 'deit_small_patch16_224',
    'deit_base': 'deit_base_patch16_224',
    **{f'vit_{size[0]}_{patch}{end}': Alias(f'vit_{size}_patch{patch}_224', _MINDCV)
       for size in ('base', 'large') for patch in (16, 32) for end in ('', '_224')},
}
