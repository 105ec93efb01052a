# SPDX-License-Identifier: Apache-2.0
"""Accelerated subclasses of the models' layers.

Each computes the numbers of its parent, and falls back to ``super().forward`` whenever its conditions do not hold: a
tensor that is not eligible, a hook, a replaced sublayer, dropout.
"""
from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.accelerate import functions, mixed_precision
from CaiT.accelerate.onednn import FLOAT32
from CaiT.models import cait, layers, vit


class FastLinear(nn.Linear):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if x.shape[-1] != self.weight.shape[0] or not functions.is_eligible(x, self.weight, self.bias):
            return super().forward(x)
        return functions.linear(x, self.weight, self.bias)


class FastLayerNorm(layers.LayerNorm):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not functions.is_eligible(x, self.weight, self.bias):
            return super().forward(x)
        return functions.layer_norm(x, self.weight, self.bias, self._epsilon)


class FastGELU(nn.GELU):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self._approximate or not functions.is_eligible(x):
            return super().forward(x)
        return functions.gelu(x)


class FastPatchEmbed(layers.PatchEmbed):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        self.check_size(x)
        weight, bias = self.proj.weight, self.proj.bias
        if not x.stop_gradient or not is_plain(self.proj) or not functions.is_eligible(weight, bias) \
                or not functions.is_eligible(x) or x.shape[1] != weight.shape[1]:
            return super().forward(x)
        return functions.patches(x, weight, bias)


class FastClassAttention(cait.ClassAttention):
    """Without keys and values of all tokens: the query is multiplied by the keys' weight instead, and what attn has
    summed of the tokens by the values' weight."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not is_plain(self.q, self.k, self.v, self.attn_drop) or not functions.is_eligible(x) \
                or self.q.bias is None:
            return super().forward(x)
        batch, _, dim = x.shape
        heads, each = self.num_heads, dim // self.num_heads
        q = (self.q(x[:, 0]) * self.scale).reshape([batch, heads, each]).transpose([1, 0, 2])  # [H, B, d]
        k_weight, v_weight = (layer.weight.reshape([dim, heads, each]).transpose([1, 0, 2])  # [H, C, d]
                              for layer in (self.k, self.v))
        constant = paddle.matmul(q, self.k.bias.reshape([heads, each, 1]))  # [H, B, 1]; softmax does not see it
        query = paddle.matmul(q, k_weight, transpose_y=True).transpose([1, 0, 2])  # [B, H, C]
        scores = paddle.matmul(query, x, transpose_y=True) + constant.transpose([1, 0, 2])  # [B, H, 1 + N]
        summed = paddle.matmul(F.softmax(scores), x).transpose([1, 0, 2])  # [H, B, C]
        y = paddle.matmul(summed, v_weight).transpose([1, 0, 2]).reshape([batch, 1, dim])
        return self.proj_drop(self.proj(y + self.v.bias))


class FastCaiTBlock(cait.Block):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not is_eligible_block(self, x, self.gamma_1, self.gamma_2):
            return super().forward(x)
        x = add_attention(self, x, self.gamma_1)
        return add_mlp(self, x, self.gamma_2)


class FastViTBlock(vit.Block):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not is_eligible_block(self, x):
            return super().forward(x)
        x = add_attention(self, x)
        return add_mlp(self, x)


class FastClassBlock(cait.ClassBlock):
    def forward(self, cls: paddle.Tensor, patches: paddle.Tensor) -> paddle.Tensor:
        x = paddle.concat([cls, patches], axis=1)
        cls = cls + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        if is_eligible_mlp(self, cls, self.gamma_2):
            return add_mlp(self, cls, self.gamma_2, in_float32=True)
        return cls + self.drop_path(self.gamma_2 * self.mlp(self.norm2(cls)))


class _FastPositions(layers.Backbone):
    def add_positions(self, x: paddle.Tensor) -> paddle.Tensor:
        if not functions.is_eligible(x, self.pos_embed):
            return layers.Backbone.add_positions(self, x)  # paddle.jit resolves super() by the instance: endless here
        return functions.add_to_each(x, self.pos_embed)


class FastCaiT(_FastPositions, cait.CaiT):
    pass


class FastViT(_FastPositions, vit.ViT):
    pass


class FastDeiT(_FastPositions, vit.DeiT):
    pass


class FastDistilledDeiT(_FastPositions, vit.DistilledDeiT):
    pass


FAST: Dict[type, type] = {
    nn.Linear: FastLinear, layers.LayerNorm: FastLayerNorm, nn.GELU: FastGELU, layers.PatchEmbed: FastPatchEmbed,
    cait.ClassAttention: FastClassAttention, cait.Block: FastCaiTBlock, cait.ClassBlock: FastClassBlock,
    vit.Block: FastViTBlock, cait.CaiT: FastCaiT, vit.ViT: FastViT, vit.DeiT: FastDeiT,
    vit.DistilledDeiT: FastDistilledDeiT}
BLOCKS = (FastCaiTBlock, FastClassBlock, FastViTBlock)
PLAIN = {*FAST, *FAST.values(), nn.Conv2D, layers.Mlp, cait.HeadMix, cait.TalkingHeadAttention, vit.Attention}


def is_plain(*among: nn.Layer) -> bool:
    """Whether these layers and their sublayers compute what their classes say: of the exact classes known here, with no
    hook, no replaced ``forward`` and no dropout at work."""
    return not any(has_hooks(layer) or 'forward' in vars(layer) or
                   (layer.p and layer.training if type(layer) is nn.Dropout else type(layer) not in PLAIN)
                   for one in among for layer in one.sublayers(include_self=True))


def has_hooks(layer: nn.Layer) -> bool:
    return bool(layer._forward_pre_hooks or layer._forward_post_hooks)


def weights_and_biases(*among: nn.Layer) -> List[Optional[paddle.Tensor]]:
    return [parameter for layer in among for parameter in (layer.weight, layer.bias)]


def is_eligible_block(block: nn.Layer, x: paddle.Tensor, *gammas: paddle.Tensor) -> bool:
    """Whether both branches of a block on x [B, N, C] can run as one operation each."""
    attn = block.attn
    if not is_eligible_mlp(block, x, *gammas) or type(attn) not in (cait.TalkingHeadAttention, vit.Attention) \
            or not is_plain(block.norm1, attn) or not functions.is_supported_attention(x.shape[0], x.shape[1]):
        return False
    return functions.is_eligible(x, *attention_parameters(block))


def is_eligible_mlp(block: nn.Layer, x: paddle.Tensor, *gammas: paddle.Tensor) -> bool:
    """Whether the MLP branch of a block on x [B, N, C] can run as one operation."""
    if not paddle.in_dynamic_mode() or type(block.mlp) is not layers.Mlp or not is_plain(block.norm2, block.mlp) \
            or block.mlp.act._approximate:
        return False
    drop_path = block.drop_path
    if type(drop_path) not in (layers.DropPath, nn.Identity) or has_hooks(drop_path) or 'forward' in vars(drop_path):
        return False
    return functions.is_eligible(x, *gammas, *mlp_parameters(block))


def runs_in_bfloat16(layer: nn.Layer) -> bool:
    """Whether the branches of a block run as one operation each on many tokens, and so in bfloat16 inside
    ``autocast()``."""
    if not isinstance(layer, (FastCaiTBlock, FastViTBlock)) or type(layer.mlp) is not layers.Mlp \
            or type(layer.attn) not in (cait.TalkingHeadAttention, vit.Attention) \
            or not is_plain(layer.norm1, layer.attn, layer.norm2, layer.mlp):
        return False
    parameters = [*attention_parameters(layer), *mlp_parameters(layer)]
    return all(p is not None for p in parameters) and len({p.stop_gradient for p in parameters}) == 1


def attention_parameters(block: nn.Layer) -> List[Optional[paddle.Tensor]]:
    attn = block.attn
    mixing = (attn.proj_l, attn.proj_w) if type(attn) is cait.TalkingHeadAttention else ()
    return weights_and_biases(block.norm1, attn.qkv, attn.proj, *mixing)


def mlp_parameters(block: nn.Layer) -> List[Optional[paddle.Tensor]]:
    return weights_and_biases(block.norm2, block.mlp.fc1, block.mlp.fc2)


def add_attention(block: nn.Layer, x: paddle.Tensor, gamma: Optional[paddle.Tensor] = None) -> paddle.Tensor:
    """x [B, N, C] plus the attention of an eligible block times gamma [C], where stochastic depth keeps it."""
    attn = block.attn
    keep_mask, drop_prob = next_keep_mask(block.drop_path, x)
    selection = functions.selected_images(keep_mask, drop_prob)
    if not functions.is_supported_attention(selection.count(x.shape[0]), x.shape[1]):
        branch = attn(block.norm1(x)) * (keep_mask.astype(x.dtype) / (1.0 - drop_prob))
        return x + (branch if gamma is None else gamma * branch)
    dtype = mixed_precision.dtype_for(selection.count(x.shape[0]) * x.shape[1])
    return functions.attention(x, selection, attention_parameters(block), gamma, attn.num_heads, attn.scale,
                               block.norm1._epsilon, dtype)


def add_mlp(block: nn.Layer, x: paddle.Tensor, gamma: Optional[paddle.Tensor] = None,
            in_float32: bool = False) -> paddle.Tensor:
    """x [B, N, C] plus the MLP of an eligible block times gamma [C], where stochastic depth keeps it."""
    selection = functions.selected_images(*next_keep_mask(block.drop_path, x))
    dtype = FLOAT32 if in_float32 else mixed_precision.dtype_for(selection.count(x.shape[0]) * x.shape[1])
    return functions.mlp(x, selection, mlp_parameters(block), gamma, block.norm2._epsilon, dtype)


def next_keep_mask(drop_path: nn.Layer, x: paddle.Tensor) -> Tuple[Optional[paddle.Tensor], float]:
    """The keep mask of one step, the one that the layer itself would draw, and its drop prob; (None, 0) when nothing is
    dropped."""
    drop_prob = getattr(drop_path, 'drop_prob', 0.0)
    if not (drop_path.training and drop_prob):
        return None, 0.0
    return drop_path.keep_mask(x), drop_prob
