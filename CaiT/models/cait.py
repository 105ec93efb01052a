# SPDX-License-Identifier: Apache-2.0
"""CaiT: Going deeper with Image Transformers (Touvron et al., 2021, arXiv 2103.17239).

Two stages: in ``blocks`` the patch tokens attend to each other, with talking heads; then the class token joins, and in
``blocks_token_only`` it alone is updated, by class attention over all tokens. LayerScale (``gamma_1``, ``gamma_2``)
multiplies every residual branch.
Shapes: B images, N patches, C channels, H heads, d = C / H.
"""
from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

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
    split_heads,
    split_qkv,
    token,
)
from CaiT.models.registry import IMAGENET, TIMM, Variant, preprocessing


class HeadMix(nn.Layer):
    """Talking heads: a Linear over the heads of an attention tensor [B, H, N, M].

    Written as one small product on the contiguous [B, H, N * M]. The published code moves the heads to the last axis,
    applies a Linear and moves them back: the same numbers, several times slower.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.weight = token(self, num_heads, num_heads)  # [in, out], as a Linear's
        self.bias = self.create_parameter([num_heads], is_bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        _, heads, rows, columns = x.shape
        x = paddle.matmul(self.weight, x.reshape([-1, heads, rows * columns]), transpose_x=True)
        return (x + self.bias.unsqueeze(-1)).reshape([-1, heads, rows, columns])


class TalkingHeadAttention(nn.Layer):
    """Self-attention whose heads are mixed before and after the softmax (Shazeer et al., 2020)."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, attn_drop_rate: float, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = linear(dim, 3 * dim, qkv_bias)
        self.proj_l = HeadMix(num_heads)
        self.proj_w = HeadMix(num_heads)
        self.proj = linear(dim, dim)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj_drop = nn.Dropout(drop_rate)

    def attend(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens [B, N, C] to attn [B, H, N, N] and values [B, H, N, d]."""
        q, k, v = split_qkv(self.qkv(x), self.num_heads)  # [B, H, N, d] each
        attn = paddle.matmul(q * self.scale, k, transpose_y=True)  # [B, H, N, N]
        return self.proj_w(F.softmax(self.proj_l(attn))), v

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        attn, v = self.attend(x)
        x = merge_heads(paddle.matmul(self.attn_drop(attn), v))  # [B, N, C]
        return self.proj_drop(self.proj(x))


class ClassAttention(nn.Layer):
    """The class token, first of the tokens, is the only query; all tokens are keys and values."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, attn_drop_rate: float, drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q = linear(dim, dim, qkv_bias)
        self.k = linear(dim, dim, qkv_bias)
        self.v = linear(dim, dim, qkv_bias)
        self.proj = linear(dim, dim)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj_drop = nn.Dropout(drop_rate)

    def attend(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens [B, 1 + N, C] to the class token's attn [B, H, 1, 1 + N] and the values [B, H, 1 + N, d]."""
        q = split_heads(self.q(x[:, :1]), self.num_heads)  # [B, H, 1, d]
        k = split_heads(self.k(x), self.num_heads)  # [B, H, 1 + N, d]
        v = split_heads(self.v(x), self.num_heads)
        attn = paddle.matmul(q * self.scale, k, transpose_y=True)  # [B, H, 1, 1 + N]
        return F.softmax(attn), v

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        attn, v = self.attend(x)
        x = merge_heads(paddle.matmul(self.attn_drop(attn), v))  # [B, 1, C]
        return self.proj_drop(self.proj(x))


class Block(nn.Layer):
    """Attention and MLP, each normalized before, scaled by LayerScale and added to its input."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, init_values: float,
                 drop_rate: float, attn_drop_rate: float, drop_path_rate: float, attention: type) -> None:
        super().__init__()
        small = nn.initializer.Constant(init_values)
        self.gamma_1 = self.create_parameter([dim], default_initializer=small)
        self.gamma_2 = self.create_parameter([dim], default_initializer=small)
        self.norm1 = LayerNorm(dim)
        self.attn = attention(dim, num_heads, qkv_bias, attn_drop_rate, drop_rate)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))


class ClassBlock(Block):
    """A block that updates the class token alone."""

    def forward(self, cls: paddle.Tensor, patches: paddle.Tensor) -> paddle.Tensor:
        x = paddle.concat([cls, patches], axis=1)  # [B, 1 + N, C]
        cls = cls + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        return cls + self.drop_path(self.gamma_2 * self.mlp(self.norm2(cls)))


class CaiT(Backbone):
    """The network. Raises InputError for a shape that cannot be built.

    patch_size: side of a patch in pixels
    in_channels: channels of the images
    embed_dim: channels of a token
    depth: blocks of the first stage (CaiT), all blocks (ViT, DeiT)
    depth_token_only: blocks of CaiT's class-attention stage
    num_heads: attention heads
    mlp_ratio: hidden channels of an MLP as a multiple of embed_dim
    qkv_bias: whether the projections to query, key and value have a bias
    init_values: first value of CaiT's LayerScale
    drop_rate: drop prob of tokens, attention outputs and MLPs
    attn_drop_rate: drop prob of attention weights
    drop_path_rate: stochastic depth: in every block of CaiT's first stage, as published; of ViT and DeiT in the last
        block, rising linearly from 0
    """
    family = 'cait'
    stacks = ('blocks', 'blocks_token_only')

    def __init__(self, image_size: int = 224, num_classes: int = 1000, patch_size: int = 16, in_channels: int = 3,
                 embed_dim: int = 192, depth: int = 24, depth_token_only: int = 2, num_heads: int = 4,
                 mlp_ratio: float = 4.0, qkv_bias: bool = True, init_values: float = 1e-5, drop_rate: float = 0.0,
                 attn_drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> None:
        sizes = dict(image_size=image_size, num_classes=num_classes, patch_size=patch_size, in_channels=in_channels,
                     embed_dim=embed_dim, depth=depth, depth_token_only=depth_token_only, num_heads=num_heads,
                     mlp_ratio=mlp_ratio)
        check_shape('CaiT', sizes, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        super().__init__(num_classes, embed_dim)
        shape = (embed_dim, num_heads, mlp_ratio, qkv_bias, init_values)
        self.patch_embed = PatchEmbed(image_size, patch_size, in_channels, embed_dim)
        self.cls_token = token(self, 1, 1, embed_dim)
        self.pos_embed = token(self, 1, self.patch_embed.num_patches, embed_dim)  # patches only
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.LayerList([
            Block(*shape, drop_rate, attn_drop_rate, drop_path_rate, TalkingHeadAttention) for _ in range(depth)])
        self.blocks_token_only = nn.LayerList([
            ClassBlock(*shape, 0.0, 0.0, 0.0, ClassAttention) for _ in range(depth_token_only)])
        self.norm = LayerNorm(embed_dim)

    def embed(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Images to the class token [B, 1, C] and the patch tokens [B, N, C] before the first block."""
        patches = self.pos_drop(self.add_positions(self.patch_embed(x)))
        # With the batch's own size from the start: a class token of batch 1 is a constant that exporters fold wrongly.
        return self.cls_token.expand([patches.shape[0], -1, -1]), patches

    def encode(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Images to the class token [B, 1, C] and the patch tokens [B, N, C] after the last block."""
        cls, patches = self.embed(x)
        for block in self.blocks:
            patches = self.run_block(block, patches)
        for block in self.blocks_token_only:
            cls = self.run_block(block, cls, patches)
        return cls, patches

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images [B, in, S, S] to logits [B, classes]. Only the class token, the head's input, is normalized."""
        cls, _ = self.encode(x)
        return self.forward_head(self.norm(cls))

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.norm(paddle.concat(self.encode(x), axis=1))

    def forward_head(self, x: paddle.Tensor, pre_logits: bool = False) -> paddle.Tensor:
        return x[:, 0] if pre_logits else self.head(x[:, 0])

    def forward_intermediates(self, x: paddle.Tensor, attention: bool = False) -> Intermediates:
        """Patch tokens after each block, then the class token after each class-attention block; with ``attention``
        also the class token's attn [B, H, 1, 1 + N], whose column 0 is the class token itself."""
        features, attn = [], []
        cls, patches = self.embed(x)
        for block in self.blocks:
            patches = block(patches)
            features.append(patches)
        for block in self.blocks_token_only:
            if attention:
                attn.append(block.attn.attend(block.norm1(paddle.concat([cls, patches], axis=1)))[0])
            cls = block(cls, patches)
            features.append(cls)
        return Intermediates(features, attn, self.norm(paddle.concat([cls, patches], axis=1)))

    def to_network(self) -> Dict[str, Any]:
        return dict(family='cait', patch_size=self.patch_embed.proj.weight.shape[-1],
                    num_heads=self.blocks[0].attn.num_heads, prefix=('cls_token',))


def _row(dim: int, depth: int, init_values: float, drop_path_rate: float, size: int, top1: Optional[float] = None,
         top5: Optional[float] = None, source: str = TIMM) -> Variant:
    arch = dict(embed_dim=dim, depth=depth, num_heads=dim // 48, init_values=init_values,
                drop_path_rate=drop_path_rate)
    published = dict(top1=top1, top5=top5, source=source, distilled=source == TIMM)
    return Variant(CaiT, arch, preprocessing(size, 1.0, IMAGENET), published)


# Accuracies are those that timm measured with facebookresearch/deit's distilled weights, or MindCV's, undistilled.
# LayerScale's first value follows the public code; the paper's text gives 1e-6 for all models of 36 blocks.
# Stochastic depth follows the paper's table of hyper-parameters.
VARIANTS = {
    #                      dim depth  init  drop  size  top-1  top-5
    'cait_xxs24_224': _row(192, 24, 1e-5, 0.05, 224, 78.40, 94.33),
    'cait_xxs24_384': _row(192, 24, 1e-5, 0.05, 384, 80.95, 95.64),
    'cait_xxs36_224': _row(192, 36, 1e-5, 0.1, 224, 79.75, 94.87),
    'cait_xxs36_384': _row(192, 36, 1e-5, 0.1, 384, 82.20, 96.15),
    'cait_xs24_224': _row(288, 24, 1e-5, 0.05, 224, 81.29, 95.60, 'MindCV'),
    'cait_xs24_384': _row(288, 24, 1e-5, 0.05, 384, 84.06, 96.89),
    'cait_s24_224': _row(384, 24, 1e-5, 0.1, 224, 83.48, 96.59),
    'cait_s24_384': _row(384, 24, 1e-5, 0.1, 384, 85.05, 97.35),
    'cait_s36_224': _row(384, 36, 1e-6, 0.2, 224, 82.11, 95.84, 'MindCV'),
    'cait_s36_384': _row(384, 36, 1e-6, 0.2, 384, 85.46, 97.48),
    'cait_m36_224': _row(768, 36, 1e-6, 0.3, 224),
    'cait_m36_384': _row(768, 36, 1e-6, 0.3, 384, 86.06, 97.73),
    'cait_m48_448': _row(768, 48, 1e-6, 0.4, 448, 86.48, 97.75),
}

# MindCV's names, and those of facebookresearch/deit, whose functions without a size are of the large images.
ALIASES = {
    **{f'cait_{size}': f'cait_{size}_224' for size in ('xxs24', 'xxs36', 'xs24', 's24', 's36', 'm36')},
    **{f'cait_{size.upper()}': f'cait_{size}_384' for size in ('xxs24', 'xxs36', 'xs24', 's24', 's36', 'm36')},
    'cait_m48': 'cait_m48_448',
    'cait_M48': 'cait_m48_448',
}
