# SPDX-License-Identifier: Apache-2.0
"""CaiT: Going deeper with Image Transformers (Touvron et al., 2021, arXiv 2103.17239).

Two stages: ``blocks`` attend among patch tokens only, with talking heads; then the class token joins and
``blocks_token_only`` let it, alone, read the patches. LayerScale (``gamma_1``, ``gamma_2``) multiplies every branch.
Shapes: B pictures, N patches, C channels, H heads, d = C / H.
"""
from __future__ import annotations

from typing import Optional, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.models import ops
from CaiT.models.layers import (
    Backbone,
    DropPath,
    HeadMix,
    Intermediates,
    LayerNorm,
    Mlp,
    PatchEmbed,
    Residual,
    SelfAttention,
    check_shape,
    linear,
    token,
    untouched,
)
from CaiT.models.registry import IMAGENET, Variant, data_config


class TalkingHeadAttention(SelfAttention):
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

    def mixers(self) -> Tuple[HeadMix, HeadMix]:
        return self.proj_l, self.proj_w


class ClassAttention(nn.Layer):
    """The class token, first of the tokens, asks; all tokens answer."""

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

    def _heads(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, M, C] to [B, H, M, d]."""
        return x.reshape([-1, x.shape[1], self.num_heads, x.shape[2] // self.num_heads]).transpose([0, 2, 1, 3])

    def attend(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens [B, 1 + N, C] to the class token's attention [B, H, 1, 1 + N] and the values [B, H, 1 + N, d]."""
        q = self._heads(self.q(x[:, :1]) * self.scale)
        scores = paddle.matmul(q, self._heads(self.k(x)), transpose_y=True)
        return F.softmax(scores), self._heads(self.v(x))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if untouched(self.q, self.k, self.v, self.attn_drop) and self.k.bias is not None:
            return self.proj_drop(self.proj(self._read(x)))
        attention, v = self.attend(x)
        y = paddle.matmul(self.attn_drop(attention), v)  # [B, H, 1, d]
        y = y.transpose([0, 2, 1, 3]).reshape([-1, 1, x.shape[2]])
        return self.proj_drop(self.proj(y))

    def _read(self, x: paddle.Tensor) -> paddle.Tensor:
        """What the class token reads [B, 1, C], without making keys and values of all tokens: its query goes through
        the keys' weight instead, and what it has read of the tokens through the values'."""
        batch, _, dim = x.shape
        heads, each = self.num_heads, dim // self.num_heads
        q = (self.q(x[:, 0]) * self.scale).reshape([batch, heads, each]).transpose([1, 0, 2])  # [H, B, d]
        to_keys, to_values = (layer.weight.reshape([dim, heads, each]).transpose([1, 0, 2])  # [H, C, d]
                              for layer in (self.k, self.v))
        constant = paddle.matmul(q, self.k.bias.reshape([heads, each, 1]))  # [H, B, 1]; softmax does not see it
        asked = paddle.matmul(q, to_keys, transpose_y=True).transpose([1, 0, 2])  # [B, H, C]
        scores = paddle.matmul(asked, x, transpose_y=True) + constant.transpose([1, 0, 2])  # [B, H, 1 + N]
        read = paddle.matmul(F.softmax(scores), x).transpose([1, 0, 2])  # [H, B, C]
        y = paddle.matmul(read, to_values).transpose([1, 0, 2]).reshape([batch, 1, dim])
        return y + self.v.bias


class Block(Residual):
    """Attention and MLP, each normalised before, scaled by LayerScale and added to what came in."""

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
        return self.add_mlp(self.add_attention(x, self.gamma_1), self.gamma_2)


class ClassBlock(Block):
    """A block in which only the class token changes; the patches are read."""

    def forward(self, cls: paddle.Tensor, patches: paddle.Tensor) -> paddle.Tensor:
        tokens = paddle.concat([cls, patches], axis=1)  # [B, 1 + N, C]
        cls = self._add(cls, self.attn(self.norm1(tokens)), self.gamma_1, self.drop_path.draw(cls))
        return self.add_mlp(cls, self.gamma_2)


class CaiT(Backbone):
    """The network. Arguments are those of the variants below; ``drop_path_rate`` is the same in every block of the
    first stage and 0 in the class-attention stage, as published. Raises InputError for a shape that cannot be built.
    """
    family = 'cait'
    stacks = ('blocks', 'blocks_token_only')

    def __init__(self, image_size: int = 224, num_classes: int = 1000, patch_size: int = 16, in_channels: int = 3,
                 embed_dim: int = 192, depth: int = 24, depth_token_only: int = 2, num_heads: int = 4,
                 mlp_ratio: float = 4.0, qkv_bias: bool = True, init_values: float = 1e-5, drop_rate: float = 0.0,
                 attn_drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> None:
        check_shape('CaiT', image_size, patch_size, embed_dim, num_heads, drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
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

    def _embed(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Pictures to the class token [B, 1, C] and the patch tokens [B, N, C] before the first block."""
        patches = self.pos_drop(ops.add_to_each(self.patch_embed(x), self.pos_embed))
        # With the batch's own size from the start: a class token of batch 1 is a constant that exporters fold wrongly.
        return self.cls_token.expand([patches.shape[0], -1, -1]), patches

    def _encode(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Pictures to the class token [B, 1, C] and the patch tokens [B, N, C] after the last block."""
        cls, patches = self._embed(x)
        for block in self.blocks:
            patches = self._run(block, patches)
        for block in self.blocks_token_only:
            cls = self._run(block, cls, patches)
        return cls, patches

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Pictures [B, in, S, S] to logits [B, classes]. Only the class token, which the head reads, is normalised."""
        return self.forward_head(self.norm(self._encode(x)[0]))

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.norm(paddle.concat(self._encode(x), axis=1))

    def forward_head(self, x: paddle.Tensor, pre_logits: bool = False) -> paddle.Tensor:
        return x[:, 0] if pre_logits else self.head(x[:, 0])

    def forward_intermediates(self, x: paddle.Tensor, attention: bool = False) -> Intermediates:
        """Patch tokens after each block, then the class token after each class-attention block; on request the
        class-attention maps [B, H, 1, 1 + N], column 0 being the class token itself."""
        features, maps = [], []
        cls, patches = self._embed(x)
        for block in self.blocks:
            patches = block(patches)
            features.append(patches)
        for block in self.blocks_token_only:
            if attention:
                maps.append(block.attn.attend(block.norm1(paddle.concat([cls, patches], axis=1)))[0])
            cls = block(cls, patches)
            features.append(cls)
        return Intermediates(features, maps, self.norm(paddle.concat([cls, patches], axis=1)))


def _row(dim: int, depth: int, init: float, drop_path: float, size: int, top1: Optional[float] = None,
         top5: Optional[float] = None, source: str = 'facebookresearch/deit') -> Variant:
    arch = dict(embed_dim=dim, depth=depth, num_heads=dim // 48, init_values=init, drop_path_rate=drop_path)
    return Variant(CaiT, arch, data_config(size, 1.0, IMAGENET), dict(top1=top1, top5=top5, source=source))


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
