# SPDX-License-Identifier: Apache-2.0
"""The inference graph of CaiT, ViT and DeiT, defined once for all engines.

``compute`` builds the graph of a ``Network`` from the operations of ``Ops``, which are implemented for Paddle and for
ONNX (engines/paddle_ops.py, onnx_ops.py). A term whose arrays are absent is omitted from the graph: a rewrite in
simplify.py folds an array into its neighbors and removes it.

Shapes: B images, P patches, T prefix tokens (class, distillation), N = T + P tokens, C channels, H heads, d = C / H.
"""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Protocol, Sequence, Tuple

import numpy as np

from CaiT.deploy.network import Array, Network

Tensor = Any  # of the engine


class Ops(Protocol):
    """The operations of an engine's graph builder. Shapes contain at most one -1, for the batch."""

    def array(self, name: str, value: Array) -> Tensor: ...
    def linear(self, x: Tensor, name: str, weight: Array, bias: Optional[Array]) -> Tensor: ...
    def matmul(self, x: Tensor, y: Tensor, transpose_y: bool = False) -> Tensor: ...
    def add(self, x: Tensor, y: Tensor) -> Tensor: ...
    def multiply(self, x: Tensor, y: Tensor) -> Tensor: ...
    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor: ...
    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor: ...
    def split(self, x: Tensor, axis: int, sizes: Sequence[int]) -> List[Tensor]: ...
    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor: ...
    def softmax(self, x: Tensor) -> Tensor: ...
    def gelu(self, x: Tensor) -> Tensor: ...
    def layer_norm(self, x: Tensor, name: str, weight: Optional[Array], bias: Optional[Array]) -> Tensor: ...
    def conv(self, x: Tensor, name: str, weight: Array, bias: Optional[Array]) -> Tensor: ...
    def to_float(self, x: Tensor) -> Tensor: ...
    def expand_batch(self, row: Tensor, like: Tensor) -> Tensor: ...


def compute(net: Network, ops: Ops, x: Tensor) -> Tensor:
    """Images to logits [B, classes]."""
    return Graph(net, ops).logits(x)


class Graph:
    """The layers of ``net`` as methods. With ``keep`` attention is kept: of blocks with all tokens as queries
    [B, H, N, N] in ``matrices``, of each ``few_queries``, and whether it is low rank, in ``few_rows`` (see
    attention_outputs.py)."""

    def __init__(self, net: Network, ops: Ops, keep: bool = False) -> None:
        self.net, self.ops, self.arrays, self.keep = net, ops, net.arrays, keep
        self.matrices: List[Tensor] = []
        self.few_rows: List[Tuple[Tensor, bool]] = []

    def logits(self, x: Tensor) -> Tensor:
        patches = self.embed(x)
        if self.net.family == 'cait':
            tokens = self.class_stage(self.patch_stage(patches))
        else:
            tokens = self.token_stage(patches)
        return self.head(self.norm(tokens, 'norm'))

    # Helpers

    def get(self, name: str) -> Optional[Tensor]:
        return self.ops.array(name, self.arrays[name]) if name in self.arrays else None

    def linear(self, x: Tensor, name: str) -> Tensor:
        return self.ops.linear(x, name, self.arrays[f'{name}.weight'], self.arrays.get(f'{name}.bias'))

    def norm(self, x: Tensor, name: str) -> Tensor:
        return self.ops.layer_norm(x, name, self.arrays.get(f'{name}.weight'), self.arrays.get(f'{name}.bias'))

    def add(self, x: Tensor, name: str) -> Tensor:
        return self.ops.add(x, self.get(name)) if name in self.arrays else x

    def mul(self, x: Tensor, name: str) -> Tensor:
        return self.ops.multiply(x, self.get(name)) if name in self.arrays else x

    def first(self, x: Tensor, count: int, tokens: int) -> Tensor:
        """The first ``count`` of ``tokens`` tokens: [B, tokens, C] to [B, count, C]."""
        return x if count == tokens else self.ops.split(x, 1, [count, tokens - count])[0]

    # Embedding

    def embed(self, x: Tensor) -> Tensor:
        """Images to patches [B, P, C]."""
        if self.net.input == 'uint8':
            x = self.ops.transpose(self.ops.to_float(x), [0, 3, 1, 2])
        name = 'patch_embed.proj'
        x = self.ops.conv(x, name, self.arrays[f'{name}.weight'], self.arrays.get(f'{name}.bias'))
        x = self.ops.reshape(x, [-1, self.net.dim, self.net.patches])
        return self.ops.transpose(x, [0, 2, 1])

    def prefix_tokens(self, like: Tensor) -> List[Tensor]:
        """The class token and, if there is one, the distillation token: [B, 1, C] each."""
        return [self.ops.expand_batch(self.get(name), like) for name in self.net.prefix]

    # Stages

    def patch_stage(self, patches: Tensor) -> Tensor:
        """CaiT's self-attention blocks: patches [B, P, C] to [B, P, C]."""
        x = self.add(patches, 'pos_embed')
        for index in range(self.net.depth('blocks')):
            x = self.block(x, f'blocks.{index}', self.net.patches)
        return x

    def class_stage(self, patches: Tensor) -> Tensor:
        """CaiT's class-attention blocks: patches [B, P, C] to the class token [B, 1, C]."""
        cls, = self.prefix_tokens(patches)
        shared: Dict[str, Tensor] = {}
        for index in range(self.net.depth('blocks_token_only')):
            name = f'blocks_token_only.{index}'
            u = self.tokens_for_class(cls, patches, f'{name}.norm1', shared)
            cls = self.residual(cls, self.few_queries(u, f'{name}.attn', 1, 1 + self.net.patches), f'{name}.gamma_1')
            cls = self.mlp(cls, name)
        return cls

    def tokens_for_class(self, cls: Tensor, patches: Tensor, norm: str, shared: Dict[str, Tensor]) -> Tensor:
        """LayerNorm of class token and patches, [B, 1 + P, C].

        The patches are the same in all blocks: when the norms have no affine parameters, their normalized values are
        computed once and stored in ``shared``."""
        if f'{norm}.weight' in self.arrays or f'{norm}.bias' in self.arrays:
            return self.norm(self.ops.concat([cls, patches], 1), norm)
        if not shared:
            shared['patches'] = self.norm(patches, norm)
        return self.ops.concat([self.norm(cls, norm), shared['patches']], 1)

    def token_stage(self, patches: Tensor) -> Tensor:
        """ViT's and DeiT's blocks: patches [B, P, C] to the prefix tokens [B, T, C]."""
        count = len(self.net.prefix)
        if 'patch_pos_embed' in self.arrays:  # the prefix tokens include their position embeddings
            patches = self.add(patches, 'patch_pos_embed')
            x = self.ops.concat([*self.prefix_tokens(patches), patches], 1)
        else:
            x = self.add(self.ops.concat([*self.prefix_tokens(patches), patches], 1), 'pos_embed')
        tokens, depth = count + self.net.patches, self.net.depth('blocks')
        for index in range(depth - self.net.last_on_prefix):
            x = self.block(x, f'blocks.{index}', tokens)
        if not self.net.last_on_prefix:
            return self.first(x, count, tokens)
        name = f'blocks.{depth - 1}'
        y = self.few_queries(self.norm(x, f'{name}.norm1'), f'{name}.attn', count, tokens)
        return self.mlp(self.ops.add(self.first(x, count, tokens), y), name)

    # Blocks

    def block(self, x: Tensor, name: str, tokens: int) -> Tensor:
        u = self.norm(x, f'{name}.norm1')
        attention = self.attention_leading if self.net.attention == 'leading' else self.attention
        x = self.residual(x, attention(u, f'{name}.attn', tokens), f'{name}.gamma_1')
        return self.mlp(x, name)

    def mlp(self, x: Tensor, name: str) -> Tensor:
        u = self.ops.gelu(self.linear(self.norm(x, f'{name}.norm2'), f'{name}.mlp.fc1'))
        return self.residual(x, self.linear(u, f'{name}.mlp.fc2'), f'{name}.gamma_2')

    def residual(self, x: Tensor, branch: Tensor, gamma: str) -> Tensor:
        return self.ops.add(x, self.mul(branch, gamma))

    def heads(self, x: Tensor, tokens: int) -> Tensor:
        """[B, M, C] to [B, H, M, d]."""
        x = self.ops.reshape(x, [-1, tokens, self.net.num_heads, self.net.dim // self.net.num_heads])
        return self.ops.transpose(x, [0, 2, 1, 3])

    def queries_keys_values(self, u: Tensor, name: str, tokens: int) -> List[Tensor]:
        """[B, N, C] to q, k, v of [B, H, N, d], by one GEMM or three."""
        if f'{name}.qkv.weight' not in self.arrays:
            return [self.heads(self.linear(u, f'{name}.{part}'), tokens) for part in 'qkv']
        heads, width = self.net.num_heads, self.net.dim // self.net.num_heads
        qkv = self.ops.reshape(self.linear(u, f'{name}.qkv'), [-1, tokens, 3, heads, width])
        parts = self.ops.split(self.ops.transpose(qkv, [2, 0, 3, 1, 4]), 0, [1, 1, 1])  # [1, B, H, N, d] each
        return [self.ops.reshape(part, [-1, heads, tokens, width]) for part in parts]

    def attention(self, u: Tensor, name: str, tokens: int) -> Tensor:
        """Self-attention with the batch as first axis: [B, N, C] to [B, N, C]."""
        q, k, v = self.queries_keys_values(u, name, tokens)
        scores = self.mul(self.ops.matmul(q, k, transpose_y=True), f'{name}.scale')  # [B, H, N, N]
        if self.net.attention == 'folded' and f'{name}.proj_l.weight' in self.arrays:
            attn = self.attn_folded(scores, name, tokens)
        else:
            scores = self.mix(scores, f'{name}.proj_l', tokens)
            attn = self.mix(self.ops.softmax(scores), f'{name}.proj_w', tokens)
        if self.keep:
            self.matrices.append(attn)
        y = self.ops.transpose(self.ops.matmul(attn, v), [0, 2, 1, 3])  # [B, N, H, d]
        return self.linear(self.ops.reshape(y, [-1, tokens, self.net.dim]), f'{name}.proj')

    def mix(self, scores: Tensor, name: str, tokens: int) -> Tensor:
        """Talking heads on [B, H, N, N]; the identity for models without."""
        if f'{name}.weight' not in self.arrays:
            return scores
        if self.net.attention == 'linear':
            mixed = self.linear(self.ops.transpose(scores, [0, 2, 3, 1]), name)  # [B, N, N, H]
            return self.ops.transpose(mixed, [0, 3, 1, 2])
        heads = self.net.num_heads
        mixed = self.mix_flat(self.ops.reshape(scores, [-1, heads, tokens * tokens]), name)
        return self.ops.reshape(mixed, [-1, heads, tokens, tokens])

    def mix_flat(self, scores: Tensor, name: str) -> Tensor:
        """Talking heads on [.., H, N*N]."""
        weight = self.ops.array(f'{name}.weight_t', self.arrays[f'{name}.weight'].T)
        mixed = self.ops.matmul(weight, scores)
        if f'{name}.bias' in self.arrays:
            mixed = self.ops.add(mixed, self.ops.array(f'{name}.bias', self.arrays[f'{name}.bias'][:, None]))
        return mixed

    def attn_folded(self, scores: Tensor, name: str, tokens: int) -> Tensor:
        """Scores [B, H, N, N] to attention probabilities after talking heads, [B, H, N, N].

        Paddle's oneDNN executes a reshape as a copy, but fuses a reshape and a transpose next to a matmul into the
        matmul's memory descriptors. The transposes here serve that fusion only; they are identity permutations."""
        reshape, transpose, heads = self.ops.reshape, self.ops.transpose, self.net.num_heads
        x = transpose(reshape(scores, [-1, 1, heads, tokens * tokens]), [0, 1, 2, 3])
        x = transpose(self.mix_flat(x, f'{name}.proj_l'), [0, 2, 1, 3])  # [B, H, 1, N*N]
        x = self.ops.softmax(reshape(x, [-1, heads * tokens, tokens]))
        x = transpose(reshape(x, [-1, heads, tokens * tokens]), [0, 1, 2])
        x = self.mix_flat(x, f'{name}.proj_w')
        return transpose(reshape(x, [-1, heads, tokens, tokens]), [0, 1, 2, 3])

    def attention_leading(self, u: Tensor, name: str, tokens: int) -> Tensor:
        """The same as ``attention``, computed with the heads as first axis."""
        heads, width = self.net.num_heads, self.net.dim // self.net.num_heads
        qkv = self.ops.reshape(self.linear(u, f'{name}.qkv'), [-1, tokens, 3, heads, width])
        parts = self.ops.split(self.ops.transpose(qkv, [2, 3, 0, 1, 4]), 0, [1, 1, 1])  # [1, H, B, N, d] each
        q, k, v = (self.ops.reshape(part, [heads, -1, tokens, width]) for part in parts)
        scores = self.mul(self.ops.matmul(q, k, transpose_y=True), f'{name}.scale')  # [H, B, N, N]
        scores = self.mix_leading(scores, f'{name}.proj_l')
        attn = self.mix_leading(self.ops.softmax(scores), f'{name}.proj_w')
        y = self.ops.transpose(self.ops.matmul(attn, v), [1, 2, 0, 3])  # [B, N, H, d]
        return self.linear(self.ops.reshape(y, [-1, tokens, self.net.dim]), f'{name}.proj')

    def mix_leading(self, scores: Tensor, name: str) -> Tensor:
        """Talking heads on [H, B, N, N]: the sum over heads h of scores[h] times column h, one slice at a time."""
        if f'{name}.weight' not in self.arrays:
            return scores
        weight, mixed = self.arrays[f'{name}.weight'], None
        for head, part in enumerate(self.ops.split(scores, 0, [1] * self.net.num_heads)):
            column = self.ops.array(f'{name}.weight_{head}', weight[head][:, None, None, None])  # [H, 1, 1, 1]
            term = self.ops.multiply(part, column)
            mixed = term if mixed is None else self.ops.add(mixed, term)
        if f'{name}.bias' in self.arrays:
            bias = self.ops.array(f'{name}.bias', self.arrays[f'{name}.bias'][:, None, None, None])
            mixed = self.ops.add(mixed, bias)
        return mixed

    def few_queries(self, u: Tensor, name: str, count: int, tokens: int) -> Tensor:
        """Attention with queries from the first ``count`` tokens only: [B, N, C] to [B, count, C]."""
        query_tokens = self.first(u, count, tokens)
        if f'{name}.query.weight' in self.arrays:  # low rank: see simplify.low_rank_class_attention
            rows = self.linear(query_tokens, f'{name}.query')  # [B, count, H*C]
            q = self.ops.reshape(rows, [-1, count * self.net.num_heads, self.net.dim])
            attn = self.ops.softmax(self.ops.matmul(q, u, transpose_y=True))  # [B, count*H, N]
            if self.keep:
                self.few_rows.append((attn, True))
            y = self.ops.reshape(self.ops.matmul(attn, u), [-1, count, self.net.num_heads * self.net.dim])
            return self.linear(y, f'{name}.value')
        if f'{name}.qkv.weight' in self.arrays:
            q, k, v = self.queries_keys_values(u, name, tokens)
            q = q if count == tokens else self.ops.split(q, 2, [count, tokens - count])[0]
        else:
            q = self.heads(self.linear(query_tokens, f'{name}.q'), count)
            k, v = (self.heads(self.linear(u, f'{name}.{part}'), tokens) for part in 'kv')
        scores = self.mul(self.ops.matmul(q, k, transpose_y=True), f'{name}.scale')  # [B, H, count, N]
        attn = self.ops.softmax(scores)
        if self.keep:
            self.few_rows.append((attn, False))
        y = self.ops.transpose(self.ops.matmul(attn, v), [0, 2, 1, 3])  # [B, count, H, d]
        return self.linear(self.ops.reshape(y, [-1, count, self.net.dim]), f'{name}.proj')

    # Head

    def head(self, tokens: Tensor) -> Tensor:
        """Prefix tokens [B, T, C] after the final LayerNorm to logits; two heads are averaged."""
        count = len(self.net.prefix)
        if 'heads.weight' in self.arrays or count == 1:
            rows = self.ops.reshape(tokens, [-1, count * self.net.dim])
            return self.linear(rows, 'heads' if 'heads.weight' in self.arrays else 'head')
        parts = [self.ops.reshape(part, [-1, self.net.dim]) for part in self.ops.split(tokens, 1, [1] * count)]
        both = self.ops.add(self.linear(parts[0], 'head'), self.linear(parts[1], 'head_dist'))
        return self.ops.multiply(both, self.ops.array('one_half', np.array(0.5)))
