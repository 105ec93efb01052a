# SPDX-License-Identifier: Apache-2.0
"""Layers that CaiT, DeiT and ViT share. Shapes: B pictures, N tokens, C channels, H heads, d = C / H."""
from __future__ import annotations

import math
from typing import Any, List, NamedTuple, Optional, Sequence, Set, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT.errors import InputError
from CaiT.models import ops

EPS = 1e-6  # of every LayerNorm in the three families (timm: partial(nn.LayerNorm, eps=1e-6))


class Intermediates(NamedTuple):
    """What ``forward_intermediates`` returns.

    ``features``: [B, N, C] after each block, not normalised. ``attention``: one array per attending block that was
    asked for, softmax weights [B, H, queries, N]; empty unless asked. ``tokens``: the normalised tokens [B, N, C] that
    ``forward_features`` returns.
    """
    features: List[paddle.Tensor]
    attention: List[paddle.Tensor]
    tokens: paddle.Tensor


def truncated_normal() -> nn.initializer.Initializer:
    """Normal of std 0.02, cut at the values ±2, as facebookresearch/deit and timm initialise."""
    return nn.initializer.TruncatedNormal(mean=0.0, std=0.02, a=-2.0, b=2.0)


class Linear(nn.Linear):
    """Paddle's Linear, quicker to train on a CPU."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return ops.linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """Paddle's LayerNorm over the last axis, quicker to train on a CPU."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, EPS)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return ops.layer_norm(x, self.weight, self.bias, EPS)


def linear(inputs: int, outputs: int, bias: bool = True) -> Linear:
    """A Linear with truncated-normal weight [in, out] and zero bias."""
    weight = paddle.ParamAttr(initializer=truncated_normal())
    zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
    return Linear(inputs, outputs, weight_attr=weight, bias_attr=zero if bias else False)


def token(layer: nn.Layer, *shape: int) -> paddle.Tensor:
    """A learned parameter of ``layer`` (class token, position embedding), truncated normal."""
    return layer.create_parameter(list(shape), default_initializer=truncated_normal())


def check_shape(family: str, image_size: int, patch_size: int, embed_dim: int, num_heads: int, **rates: float) -> None:
    """Refuse combinations that cannot be built, by name."""
    if embed_dim % num_heads:
        raise InputError(f'{family}: embed_dim {embed_dim} is not divisible by num_heads {num_heads}')
    if image_size % patch_size:
        raise InputError(f'{family}: image_size {image_size} is not divisible by patch_size {patch_size}')
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise InputError(f'{family}: {name} {rate} is outside 0 <= rate < 1')


class DropPath(nn.Layer):
    """Stochastic depth: the residual branch of a picture is dropped with ``rate`` and scaled by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def draw(self, x: paddle.Tensor) -> Optional[paddle.Tensor]:
        """What decides on each picture of x [B, ...], [B, 1, ...]: below ``rate`` it is dropped. None where nothing
        is."""
        return paddle.rand([x.shape[0]] + [1] * (x.ndim - 1)) if self.training and self.rate else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.drop(x, self.draw(x))

    def drop(self, x: paddle.Tensor, drawn: Optional[paddle.Tensor]) -> paddle.Tensor:
        """x [B, ...], dropped and scaled as was ``drawn``."""
        return x if drawn is None else x * ((drawn >= self.rate).astype(x.dtype) / (1.0 - self.rate))

    def extra_repr(self) -> str:
        return f'rate={self.rate}'


class PatchEmbed(nn.Layer):
    """Pictures [B, in, S, S] to patch tokens [B, (S/P)^2, C] by a convolution whose stride is its kernel."""

    def __init__(self, image_size: int, patch_size: int, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.num_patches = (image_size // patch_size) ** 2
        bound = 1 / math.sqrt(in_channels * patch_size ** 2)  # the convolution's default in timm
        self.proj = nn.Conv2D(in_channels, embed_dim, patch_size, stride=patch_size,
                              weight_attr=paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound)),
                              bias_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if untouched(self.proj):
            return ops.patches(x, self.proj.weight, self.proj.bias)
        return self.proj(x).flatten(2).transpose([0, 2, 1])  # [B, N, C]


class Mlp(nn.Layer):
    """Linear, exact (erf) GELU, Linear; dropout after each Linear."""

    def __init__(self, dim: int, hidden: int, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden)
        self.fc2 = linear(hidden, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.drop(ops.gelu(self.fc1(x)))
        return self.drop(self.fc2(x))


class HeadMix(nn.Layer):
    """Talking heads: a Linear over the heads of an attention tensor [B, H, N, M].

    Written as one small matmul on the contiguous [B, H, N*M] view. The published code moves the heads to the last
    axis, applies a Linear and moves them back: the same numbers, several times slower.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = token(self, heads, heads)  # [in, out], as a Linear's
        self.bias = self.create_parameter([heads], is_bias=True)

    def forward(self, attention: paddle.Tensor) -> paddle.Tensor:
        heads, rows, columns = attention.shape[1:]
        flat = attention.reshape([-1, heads, rows * columns])  # [B, H, N*M]
        mixed = paddle.matmul(self.weight, flat, transpose_x=True) + self.bias.unsqueeze(-1)
        return mixed.reshape([-1, heads, rows, columns])


class SelfAttention(nn.Layer):
    """What self-attention computes from its layers ``qkv``, ``proj``, ``attn_drop`` and ``proj_drop``, with
    ``num_heads`` heads and scores times ``scale``."""

    def mixers(self) -> Sequence[HeadMix]:
        """None, or two: what mixes the heads before and after the softmax."""
        return ()

    def attend(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Tokens [B, N, C] to attention [B, H, N, N] and values [B, H, N, d]."""
        _, tokens, width = x.shape
        qkv = self.qkv(x).reshape([-1, tokens, 3, self.num_heads, width // self.num_heads])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)  # [B, H, N, d] each
        scores = paddle.matmul(q * self.scale, k, transpose_y=True)
        before, after = self.mixers() or (nn.Identity(), nn.Identity())
        return after(F.softmax(before(scores))), v

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        _, tokens, dim = x.shape
        attention, v = self.attend(x)
        x = paddle.matmul(self.attn_drop(attention), v)  # [B, H, N, d]
        return self.proj_drop(self.proj(x.transpose([0, 2, 1, 3]).reshape([-1, tokens, dim])))


class Residual(nn.Layer):
    """A block with the branches ``norm1``, ``attn`` and ``norm2``, ``mlp``, which are added to what came in, and
    ``drop_path``.

    On a CPU a branch is one operation that computes only the pictures which stochastic depth keeps; its layers are
    called one by one where ``untouched`` says no.
    """

    def add_attention(self, x: paddle.Tensor, gamma: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        """x [B, N, C] plus its attention, times gamma [C]."""
        drawn = self.drop_path.draw(x)
        y = self._attention_in_one(x, gamma, drawn)
        return self._add(x, self.attn(self.norm1(x)), gamma, drawn) if y is None else y

    def add_mlp(self, x: paddle.Tensor, gamma: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        """x [B, N, C] plus its MLP, times gamma [C]."""
        drawn = self.drop_path.draw(x)
        y = self._mlp_in_one(x, gamma, drawn)
        return self._add(x, self.mlp(self.norm2(x)), gamma, drawn) if y is None else y

    @paddle.jit.not_to_static
    def _attention_in_one(self, x: paddle.Tensor, gamma: Optional[paddle.Tensor],
                          drawn: Optional[paddle.Tensor]) -> Optional[paddle.Tensor]:
        attn = self.attn
        if not ops.wanted(x) or not untouched(self.norm1, attn):
            return None
        learned = parameters(self.norm1, attn.qkv, attn.proj, *attn.mixers())
        if not ops.wanted(x, x if gamma is None else gamma, *learned):
            return None
        pictures = ops.kept(drawn, self.drop_path.rate)
        if not ops.attends(pictures.count(x.shape[0]), x.shape[1]):
            return None
        return ops.attention(x, pictures, learned, gamma, attn.num_heads, attn.scale, EPS)

    @paddle.jit.not_to_static
    def _mlp_in_one(self, x: paddle.Tensor, gamma: Optional[paddle.Tensor],
                    drawn: Optional[paddle.Tensor]) -> Optional[paddle.Tensor]:
        if not ops.wanted(x) or not untouched(self.norm2, self.mlp):
            return None
        learned = parameters(self.norm2, self.mlp.fc1, self.mlp.fc2)
        if not ops.wanted(x, x if gamma is None else gamma, *learned):
            return None
        return ops.mlp(x, ops.kept(drawn, self.drop_path.rate), learned, gamma, EPS)

    def _add(self, x: paddle.Tensor, branch: paddle.Tensor, gamma: Optional[paddle.Tensor],
             drawn: Optional[paddle.Tensor]) -> paddle.Tensor:
        """x [B, N, C] plus its branch, times gamma [C], where stochastic depth does not drop it."""
        return x + self.drop_path.drop(branch if gamma is None else branch * gamma, drawn)


def parameters(*layers: nn.Layer) -> List[paddle.Tensor]:
    """Weight and bias of each layer."""
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


def untouched(*layers: nn.Layer) -> bool:
    """Whether these layers, run eagerly, compute what this file says: nobody listens to one, has put another in its
    place or wants dropout."""
    return paddle.in_dynamic_mode() and not any(
        layer._forward_pre_hooks or layer._forward_post_hooks or 'forward' in vars(layer) or
        (layer.p and layer.training if isinstance(layer, nn.Dropout) else type(layer).forward not in OURS)
        for one in layers for layer in one.sublayers(include_self=True))


OURS = {kind.forward for kind in (nn.Conv2D, Linear, LayerNorm, HeadMix, Mlp, SelfAttention)}


class Backbone(nn.Layer):
    """What every family answers besides ``forward_features`` and ``forward_head``.

    A family names its classifiers (``classifiers``), its stacks of blocks in the order a picture passes them
    (``stacks``) and its learned tokens (``tokens``); ``norm`` is its last LayerNorm.
    """
    family = ''
    classifiers = ('head',)
    stacks = ('blocks',)
    tokens = ('cls_token', 'pos_embed')

    def __init__(self, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.grad_checkpointing = False
        self.reset_classifier(num_classes)

    def forward(self, x: paddle.Tensor) -> Any:
        """Pictures [B, in, S, S] to logits [B, classes]."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """Pictures to normalised tokens [B, N, C], class token first."""
        raise NotImplementedError

    def forward_head(self, x: paddle.Tensor, pre_logits: bool = False) -> Any:
        """Normalised tokens [B, N, C] to logits, or to what the head reads when ``pre_logits``: [B, C]."""
        raise NotImplementedError

    def reset_classifier(self, num_classes: int) -> None:
        """New, freshly initialised head(s) for ``num_classes`` classes; 0 leaves the features as they are."""
        self.num_classes = num_classes
        for name in self.classifiers:
            setattr(self, name, linear(self.embed_dim, num_classes) if num_classes else nn.Identity())

    def set_grad_checkpointing(self, enabled: bool = True) -> None:
        """Trade time for memory in training: blocks keep only their input and run again in the backward pass."""
        self.grad_checkpointing = enabled

    def no_weight_decay(self) -> Set[str]:
        """Parameters of two or more axes that must not decay; those of one axis never do."""
        return set(self.tokens)

    @property
    def num_layer_ids(self) -> int:
        """How many depths layer-wise decay tells apart: embedding, each block, head."""
        return 2 + sum(len(getattr(self, stack)) for stack in self.stacks)

    def layer_id(self, name: str) -> int:
        """Depth of the parameter ``name``: 0 for tokens and embedding, 1.. for blocks, the last for norm and head."""
        first, *rest = name.split('.')
        depth = 1
        for stack in self.stacks:
            if first == stack:
                return depth + int(rest[0])
            depth += len(getattr(self, stack))
        return 0 if first in (*self.tokens, 'patch_embed') else depth

    def _run(self, block: nn.Layer, *inputs: paddle.Tensor) -> paddle.Tensor:
        if self.grad_checkpointing and self.training:
            from paddle.distributed.fleet.utils import recompute  # heavy to import, rarely wanted
            return recompute(block, *inputs)
        return block(*inputs)
