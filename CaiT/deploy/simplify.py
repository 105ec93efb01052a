# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of trained networks: the same function with fewer operations.

Each function takes a ``Network`` and returns one with the same logits (within float32 rounding; tested alone and
combined for every family). Arithmetic is float64. ``simplify`` applies the rewrites for an engine in the order in which
they depend on each other.

Notation: row vectors, x W + b; x̂ is a token minus its mean over its standard deviation; LayerNorm is x̂ g + β.
"""
from __future__ import annotations

from typing import Any, List, Sequence

import numpy as np

from CaiT.deploy.network import Array, Network
from CaiT.errors import InputError

LOW_RANK_BYTES = 16 << 20  # its two matrices must fit into the last-level cache to be faster


def from_model(model: Any) -> Network:
    """The network of a dynamic model (CaiT, ViT, DeiT), formulated as in the papers.

    Raises InputError for a model that is not one of these to the last layer: see ``rewritable.obstacle``.
    """
    from CaiT.deploy.rewritable import obstacle
    problem = obstacle(model)
    if problem:
        raise InputError(f'{type(model).__name__}: its graph cannot be rewritten ({problem})')
    said = model.to_network()
    arrays = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    side = int(round(model.patch_embed.num_patches ** 0.5))
    net = Network(said['family'], said['patch_size'] * side, said['patch_size'], said['num_heads'],
                  tuple(said['prefix']), arrays)
    for name in attentions(net):
        arrays[f'{name}.scale'] = np.array((net.dim // net.num_heads) ** -0.5)
    return net


def attentions(net: Network) -> List[str]:
    """Names of all attention layers, in order."""
    return [f'{stack}.{index}.attn' for stack in ('blocks', 'blocks_token_only') for index in range(net.depth(stack))]


def talking_heads_as_matmul(net: Network) -> Network:
    """Moving heads last, multiplying [.., H] by W and moving them back is Wᵀ times the [H, N*N] view of the scores:
    one small matmul without the two transposes."""
    return net.with_arrays(attention='matmul')


def talking_heads_folded(net: Network) -> Network:
    """The same small matmul, its reshapes next to identity transposes: for an engine that fuses the pair into its
    matmuls (graph.attn_folded)."""
    return net.with_arrays(attention='folded')


def heads_leading(net: Network) -> Network:
    """The same sum over heads with the heads as first axis: Σ_h scores[h] · W[h, :], each term a scaled slice. Engines
    that fuse element-wise chains compute it in one pass."""
    return net.with_arrays(attention='leading')


def drop_score_bias(net: Network) -> Network:
    """proj_l's bias adds b_h to a whole row before the softmax, and softmax(s + b) = softmax(s). The same holds for
    the keys' bias: q · (k + b) = q · k + q · b, and q · b is the same for all keys of a row. With talking heads the
    keys' bias adds q_h · b_h, constant along the row for each h, and so does any mixture of them."""
    new = net.with_arrays()
    for name in attentions(net):
        new.arrays.pop(f'{name}.proj_l.bias', None)
        new.arrays.pop(f'{name}.k.bias', None)
    return new


def fold_layer_scale(net: Network) -> Network:
    """(y W + b) γ = y (W γ) + b γ: LayerScale is folded into the projection before it, proj or fc2."""
    new = net.with_arrays()
    for stack in ('blocks', 'blocks_token_only'):
        for index in range(net.depth(stack)):
            block = f'{stack}.{index}'
            for gamma, linear in ((f'{block}.gamma_1', f'{block}.attn.proj'), (f'{block}.gamma_2', f'{block}.mlp.fc2')):
                if gamma in new.arrays:
                    _scale_outputs(new, linear, new.arrays.pop(gamma))
    return new


def fold_scale(net: Network) -> Network:
    """(q kᵀ) s = (q s) kᵀ: 1/√d is folded into the weight and bias of the queries."""
    new = net.with_arrays()
    for name in attentions(net):
        scale = new.arrays.pop(f'{name}.scale')
        if f'{name}.qkv.weight' in new.arrays:
            factor = np.ones(3 * net.dim)
            factor[:net.dim] = scale
            _scale_outputs(new, f'{name}.qkv', factor)
        else:
            _scale_outputs(new, f'{name}.q', scale)
    return new


def fold_norm_affine(net: Network) -> Network:
    """(x̂ g + β) W + b = x̂ (g W) + (β W + b): the affine parameters of a LayerNorm are folded into every
    Linear that consumes its output."""
    new = net.with_arrays()
    for name in attentions(net):
        block = name[:-len('.attn')]
        consumers = [f'{name}.{part}' for part in ('qkv', 'q', 'k', 'v') if f'{name}.{part}.weight' in net.arrays]
        _fold_affine(new, f'{block}.norm1', consumers)
        _fold_affine(new, f'{block}.norm2', [f'{block}.mlp.fc1'])
    _fold_affine(new, 'norm', [head for head in ('head', 'head_dist') if f'{head}.weight' in net.arrays])
    return new


def split_qkv(net: Network) -> Network:
    """x [Wq Wk Wv] = [x Wq, x Wk, x Wv]: three GEMMs instead of one GEMM and a split."""
    new = net.with_arrays()
    for name in attentions(net):
        if f'{name}.qkv.weight' not in new.arrays:
            continue
        for kind in ('weight', 'bias'):
            qkv = new.arrays.pop(f'{name}.qkv.{kind}', None)
            if qkv is not None:
                for part, value in zip('qkv', np.split(qkv, 3, axis=-1)):
                    new.arrays[f'{name}.{part}.{kind}'] = value
    return new


def last_block_on_prefix(net: Network) -> Network:
    """ViT and DeiT: the head's input is the class (and distillation) token, so the last block computes queries,
    projection and MLP for these only. Keys and values still come from all tokens."""
    return net if net.family == 'cait' else net.with_arrays(last_on_prefix=True)


def low_rank_class_attention(net: Network) -> Network:
    """With few query tokens, keys and values of all tokens need not be computed. Per head h, with u the normalized
    tokens and u₀ the query token:

        (u₀ Wq_h + bq_h) (u Wk_h + bk_h)ᵀ = (u₀ A_h + a_h) · u + const,        A_h = Wq_h Wk_hᵀ, a_h = bq_h Wk_hᵀ
        Σ_h (P_h (u Wv_h + bv_h)) Wp_h + bp = Σ_h (P_h u) V_h + (bv Wp + bp),  V_h = Wv_h Wp_h

    because rows of P sum to one and the softmax is invariant to the constant. Applied in CaiT's class attention and in
    the last block of ViT and DeiT (after ``last_block_on_prefix``), if A and V are small enough to stay in cache.
    """
    names = [name for name in attentions(net) if name.startswith('blocks_token_only.')]
    if net.last_on_prefix:
        names.append(f'blocks.{net.depth("blocks") - 1}.attn')
    if 2 * net.num_heads * net.dim ** 2 * 4 > LOW_RANK_BYTES:
        return net
    new = split_qkv(net) if net.last_on_prefix else net.with_arrays()
    if net.last_on_prefix:  # the other blocks keep their single qkv GEMM
        for name in set(attentions(net)) - set(names):
            for kind in ('weight', 'bias'):
                for part in 'qkv':
                    if f'{name}.qkv.{kind}' in net.arrays:
                        new.arrays.pop(f'{name}.{part}.{kind}')
                        new.arrays[f'{name}.qkv.{kind}'] = net.arrays[f'{name}.qkv.{kind}']
    for name in names:
        _low_rank(new, name)
    return new


def merge_heads(net: Network) -> Network:
    """Distilled DeiT: (x₀ W + b + x₁ W' + b') / 2 = [x₀ x₁] [W; W'] / 2 + (b + b') / 2, one matrix."""
    if 'head_dist.weight' not in net.arrays:
        return net
    new = net.with_arrays()
    weights = [new.arrays.pop(f'{head}.weight') for head in ('head', 'head_dist')]
    biases = [new.arrays.pop(f'{head}.bias') for head in ('head', 'head_dist')]
    new.arrays['heads.weight'] = np.concatenate(weights) / 2
    new.arrays['heads.bias'] = (biases[0] + biases[1]) / 2
    return new


def fold_embedding(net: Network) -> Network:
    """All are constants: position embeddings of the prefix tokens are added to these tokens, the bias of the patch
    projection to the position embeddings of the patches."""
    new = net.with_arrays()
    bias, positions = new.arrays.pop('patch_embed.proj.bias'), new.arrays.pop('pos_embed')
    if net.family == 'cait':
        new.arrays['pos_embed'] = positions + bias
        return new
    for index, name in enumerate(net.prefix):
        new.arrays[name] = new.arrays[name] + positions[:, index:index + 1]
    new.arrays['patch_pos_embed'] = positions[:, len(net.prefix):] + bias
    return new


def raw_input(net: Network, mean: Sequence[float], std: Sequence[float]) -> Network:
    """The normalization of raw uint8 NHWC images is folded into the first layer: Σ W (p/255 - m)/s + b =
    Σ (W / 255s) p + (b - Σ W m/s). The convolution has no padding, so the constant is the same for every patch."""
    new = net.with_arrays(input='uint8')
    weight = new.arrays['patch_embed.proj.weight']  # [C, 3, patch, patch]
    mean, std = (np.asarray(values, np.float64).reshape(1, 3, 1, 1) for values in (mean, std))
    new.arrays['patch_embed.proj.weight'] = weight / (255 * std)
    constant = -(weight * mean / std).sum((1, 2, 3))
    for name in ('patch_embed.proj.bias', 'patch_pos_embed', 'pos_embed'):  # the array that has the projection's bias
        if name in new.arrays:
            new.arrays[name] = new.arrays[name] + constant
            break
    return new


def simplify(net: Network, attention: str, separate: bool) -> Network:
    """Apply all rewrites. ``attention``: 'matmul', 'folded' or 'leading'; ``separate``: three GEMMs for queries, keys
    and values."""
    net = {'matmul': talking_heads_as_matmul, 'folded': talking_heads_folded, 'leading': heads_leading}[attention](net)
    for rewrite in (fold_embedding, fold_norm_affine, fold_layer_scale, fold_scale, last_block_on_prefix,
                    low_rank_class_attention, merge_heads):
        net = rewrite(net)
    return drop_score_bias(split_qkv(net) if separate else net)


def _scale_outputs(net: Network, linear: str, factor: Array) -> None:
    for name in (f'{linear}.weight', f'{linear}.bias'):
        if name in net.arrays:
            net.arrays[name] = net.arrays[name] * factor


def _fold_affine(net: Network, norm: str, consumers: Sequence[str]) -> None:
    weight_norm, bias_norm = net.arrays.pop(f'{norm}.weight'), net.arrays.pop(f'{norm}.bias')
    for name in consumers:
        weight = net.arrays[f'{name}.weight']
        net.arrays[f'{name}.bias'] = net.arrays.get(f'{name}.bias', 0.0) + bias_norm @ weight
        net.arrays[f'{name}.weight'] = weight_norm[:, None] * weight


def _low_rank(net: Network, name: str) -> None:
    heads, dim = net.num_heads, net.dim
    removed = {f'{part}.{kind}': net.arrays.pop(f'{name}.{part}.{kind}', None)
             for part in ('q', 'k', 'v', 'proj') for kind in ('weight', 'bias')}
    bias = {part: np.zeros(dim) if removed[f'{part}.bias'] is None else removed[f'{part}.bias']
            for part in ('q', 'v', 'proj')}
    scale = net.arrays.pop(f'{name}.scale', 1.0)
    wq, wk, wv = (removed[f'{part}.weight'].reshape(dim, heads, -1) for part in 'qkv')  # [C, H, d]
    out = removed['proj.weight'].reshape(heads, -1, dim)  # [H, d, C]
    net.arrays[f'{name}.query.weight'] = np.einsum('chj,ehj->che', wq, wk).reshape(dim, heads * dim) * scale
    net.arrays[f'{name}.query.bias'] = np.einsum('hj,ehj->he', bias['q'].reshape(heads, -1), wk).reshape(-1) * scale
    net.arrays[f'{name}.value.weight'] = np.einsum('chj,hje->hce', wv, out).reshape(heads * dim, dim)
    net.arrays[f'{name}.value.bias'] = bias['v'] @ removed['proj.weight'] + bias['proj']
