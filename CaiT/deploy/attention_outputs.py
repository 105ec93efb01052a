# SPDX-License-Identifier: Apache-2.0
"""Further outputs of the inference graph: what the class token attends to. Shapes as in graph.py."""
from __future__ import annotations

from typing import List, Sequence

import numpy as np

from CaiT.deploy.graph import Graph, Ops, Tensor
from CaiT.deploy.network import Network


def compute_outputs(net: Network, ops: Ops, x: Tensor, names: Sequence[str]) -> List[Tensor]:
    """Images to the outputs ``names``, of a network after ``last_block_on_prefix``.

    'logits' [B, classes]; 'attention' [B, blocks, H, N], the class token's softmax rows in CaiT's class-attention
    blocks or in the last block of ViT and DeiT; 'rollout' [B, N] of ViT and DeiT, the class token's row of the product
    over all blocks of (mean of heads + I) / 2.
    """
    graph = Graph(net, ops, keep=len(names) > 1)
    found = {'logits': graph.logits(x)}
    rows = [class_rows(graph, *one) for one in graph.few_rows]
    if 'attention' in names:
        shape = [-1, 1, net.num_heads, len(net.prefix) + net.patches]
        blocks = [ops.reshape(one, shape) for one in rows]
        found['attention'] = blocks[0] if len(blocks) == 1 else ops.concat(blocks, 1)
    if 'rollout' in names:
        found['rollout'] = rollout(graph, rows[-1])
    return [found[name] for name in names]


def class_rows(graph: Graph, attn: Tensor, is_low_rank: bool) -> Tensor:
    """The class token's rows [B, H, N] of what a block with few queries attends to."""
    count, heads = len(graph.net.prefix), graph.net.num_heads
    if is_low_rank:  # [B, count * H, N], the class token's rows first
        return graph.first(attn, heads, count * heads)
    rows = attn if count == 1 else graph.ops.split(attn, 2, [1, count - 1])[0]  # of [B, H, count, N]
    return graph.ops.reshape(rows, [-1, heads, count + graph.net.patches])


def rollout(graph: Graph, last: Tensor) -> Tensor:
    """[B, N]; ``last`` [B, H, N] are the class token's rows in the last block. One row from the left: no product of
    whole matrices."""
    ops, heads, tokens = graph.ops, graph.net.num_heads, len(graph.net.prefix) + graph.net.patches
    mean = ops.array('rollout.mean_of_heads', np.full((1, heads), 1 / heads))
    half = ops.array('rollout.half', np.array(0.5))
    row = ops.array('rollout.class_token', np.eye(1, tokens)[None])  # [1, 1, N]
    row = ops.multiply(half, ops.add(ops.matmul(mean, last), row))
    for matrix in reversed(graph.matrices):
        flat = ops.matmul(mean, ops.reshape(matrix, [-1, heads, tokens * tokens]))
        row = ops.multiply(half, ops.add(ops.matmul(row, ops.reshape(flat, [-1, tokens, tokens])), row))
    return ops.reshape(row, [-1, tokens])
