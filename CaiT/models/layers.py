# SPDX-License-Identifier: Apache-2.0
"""Layers that CaiT, DeiT and ViT share, and the interface of a model.

Shapes: B images, N tokens, C channels, H heads, d = C / H channels per head, P pixels per side of a patch.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from CaiT import checks
from CaiT.errors import InputError


class Intermediates(NamedTuple):
    """What ``forward_intermediates`` returns.

    ``features``: [B, N, C] after each block, not normalized. ``attention``: one attn [B, H, queries, N] for each block
    that was asked for it, empty otherwise. ``tokens``: the normalized tokens [B, N, C] that ``forward_features``
    returns.
    """
    features: List[paddle.Tensor]
    attention: List[paddle.Tensor]
    tokens: paddle.Tensor


def truncated_normal() -> nn.initializer.Initializer:
    """Normal of std 0.02, cut at the values ±2, as facebookresearch/deit and timm initialize."""
    return nn.initializer.TruncatedNormal(mean=0.0, std=0.02, a=-2.0, b=2.0)


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A Linear with truncated-normal weight [in, out] and zero bias."""
    weight = paddle.ParamAttr(initializer=truncated_normal())
    zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
    return nn.Linear(in_features, out_features, weight_attr=weight, bias_attr=zero if bias else False)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the channels, with timm's epsilon for the three families.

    Weight and bias are applied outside of Paddle's operation: its CPU kernel (3.3.1) leaves the weight out of the
    gradient of x when the weight's own gradient is not wanted, as with a frozen weight or ``paddle.grad(y, x)``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, epsilon=1e-6)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.layer_norm(x, x.shape[-1:], epsilon=1e-6) * self.weight + self.bias


def token(layer: nn.Layer, *shape: int) -> paddle.Tensor:
    """A learned parameter of ``layer`` (class token, position embedding), truncated normal."""
    return layer.create_parameter(list(shape), default_initializer=truncated_normal())


def check_shape(family: str, sizes: Mapping[str, Any], **probs: float) -> None:
    """Raise InputError, naming the arguments, for a combination that cannot be built. ``sizes`` are those of
    ``checks.check_transformer``."""
    image_size = sizes['image_size']
    if isinstance(image_size, (tuple, list)):
        raise InputError(f'{family}: image_size: found {image_size!r}, expected one number of pixels (square images)')
    checks.check_transformer(sizes, lambda key: f'{family}: {key}')
    if sizes['embed_dim'] % sizes['num_heads']:
        raise InputError(f'{family}: embed_dim {sizes["embed_dim"]} is not divisible by num_heads '
                         f'{sizes["num_heads"]}')
    if image_size % sizes['patch_size']:
        raise InputError(f'{family}: image_size {image_size} is not divisible by patch_size {sizes["patch_size"]}')
    for name, prob in probs.items():
        if not 0 <= prob < 1:
            raise InputError(f'{family}: {name} {prob} is outside 0 <= {name} < 1')


class DropPath(nn.Layer):
    """Stochastic depth: drops the residual branch of an image with ``drop_prob``, scales the others by 1 / (1 - p)."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def keep_mask(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, 1, ...] of bools, one for each image of x [B, ...]: whether its branch is kept."""
        return paddle.rand([x.shape[0]] + [1] * (x.ndim - 1)) >= self.drop_prob

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not (self.training and self.drop_prob):
            return x
        return x * (self.keep_mask(x).astype(x.dtype) / (1.0 - self.drop_prob))

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob}'


class PatchEmbed(nn.Layer):
    """Images [B, in, S, S] to patch tokens [B, (S/P)^2, C] by a convolution whose stride is its kernel."""

    def __init__(self, image_size: int, patch_size: int, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.num_patches = (image_size // patch_size) ** 2
        bound = 1 / math.sqrt(in_channels * patch_size ** 2)  # the convolution's default in timm
        self.proj = nn.Conv2D(in_channels, embed_dim, patch_size, stride=patch_size,
                              weight_attr=paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound)),
                              bias_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)))

    def check_size(self, x: paddle.Tensor) -> None:
        """InputError for images of another size: the convolution would cut them or give other patches."""
        height, width = x.shape[2:]
        if (height, width) != (self.image_size, self.image_size):
            raise InputError(f'images: found {width}x{height} pixels, expected {self.image_size}x{self.image_size}')

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        self.check_size(x)
        x = self.proj(x)  # [B, C, S/P, S/P]
        return x.flatten(2).transpose([0, 2, 1])  # [B, (S/P)^2, C]


class Mlp(nn.Layer):
    """Linear, exact (erf) GELU, Linear; dropout after GELU and after the second Linear."""

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.drop(self.act(self.fc1(x)))  # [B, N, hidden]
        return self.drop(self.fc2(x))  # [B, N, C]


class Backbone(nn.Layer):
    """The interface of a model, whatever its family.

    A family names its classifiers (``classifiers``), its lists of blocks in the order an image passes them
    (``stacks``) and its learned tokens (``tokens``); ``norm`` is its last LayerNorm.
    """
    family = ''
    classifiers = ('head',)
    stacks = ('blocks',)
    tokens = ('cls_token', 'pos_embed')

    def __init__(self, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = self.num_features = embed_dim
        self.default_cfg: Dict[str, Any] = {}  # filled by create_model
        self.load_report: Optional[Any] = None  # set by create_model when it loads weights
        self.grad_checkpointing = False
        self.reset_classifier(num_classes)

    def forward(self, x: paddle.Tensor) -> Any:
        """Images [B, in, S, S] to logits [B, classes]."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images to normalized tokens [B, N, C], class token first."""
        raise NotImplementedError

    def forward_head(self, x: paddle.Tensor, pre_logits: bool = False) -> Any:
        """Normalized tokens [B, N, C] to logits, or to the head's input [B, C] when ``pre_logits``."""
        raise NotImplementedError

    def to_network(self) -> Optional[Dict[str, Any]]:
        """What export needs to rewrite this model's graph: ``family`` ('cait' or 'vit': whose graph it is),
        ``patch_size``, ``num_heads`` and ``prefix``, the names of the tokens before the patches. None: export this
        model as its plain Paddle graph."""
        return None

    def get_classifier(self) -> nn.Layer:
        """The head that reads the class token."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """New, freshly initialized head(s) for ``num_classes`` classes; 0 leaves the features as they are."""
        checks.check_transformer(dict(embed_dim=self.embed_dim, num_classes=num_classes))
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
        """How many depths layer-wise lr decay distinguishes: embedding, each block, head."""
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

    def add_positions(self, x: paddle.Tensor) -> paddle.Tensor:
        """Tokens [B, N, C] plus their learned positions [1, N, C]."""
        return x + self.pos_embed

    def run_block(self, block: nn.Layer, *inputs: paddle.Tensor) -> paddle.Tensor:
        """``block(*inputs)``, with gradient checkpointing when it is switched on."""
        if self.grad_checkpointing and self.training:
            from paddle.distributed.fleet.utils import recompute  # slow to import, rarely needed
            return recompute(block, *inputs)
        return block(*inputs)


def split_heads(x: paddle.Tensor, num_heads: int) -> paddle.Tensor:
    """[B, N, C] to [B, H, N, d]."""
    _, tokens, dim = x.shape
    return x.reshape([-1, tokens, num_heads, dim // num_heads]).transpose([0, 2, 1, 3])


def merge_heads(x: paddle.Tensor) -> paddle.Tensor:
    """[B, H, N, d] to [B, N, C]."""
    _, heads, tokens, each = x.shape
    return x.transpose([0, 2, 1, 3]).reshape([-1, tokens, heads * each])


def split_qkv(qkv: paddle.Tensor, num_heads: int) -> Tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Queries, keys and values [B, H, N, d] from [B, N, 3 * C], where they lie side by side."""
    _, tokens, width = qkv.shape
    qkv = qkv.reshape([-1, tokens, 3, num_heads, width // 3 // num_heads])
    q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)
    return q, k, v
