# SPDX-License-Identifier: Apache-2.0
"""Can a model be written as a ``Network``? Only what is known to the last layer can: everything else is exported
as its plain Paddle graph, which is slower and says the same whatever the model does.
"""
from __future__ import annotations

import re
from typing import Any, Dict, Iterator, Set, Tuple

from paddle import nn

from CaiT.accelerate.layers import FAST
from CaiT.deploy.network import EPS
from CaiT.models import cait, layers, vit

# What a network's numbers come from; who overrides one of them computes something else.
METHODS = ('forward', 'forward_features', 'forward_head', 'embed', 'encode', 'add_positions', 'run_block')
PLAIN = {fast: plain for plain, fast in FAST.items()}
NORM = (layers.LayerNorm, nn.LayerNorm)
UNUSED = (nn.Dropout, layers.DropPath, nn.Identity)  # nothing happens here in evaluation
HEADS: Dict[str, Any] = {'patch_embed': layers.PatchEmbed, 'patch_embed.proj': nn.Conv2D, 'pos_drop': UNUSED,
                         'norm': NORM, 'head': nn.Linear, 'head_dist': nn.Linear}


def _stack(name: str, block: type, attention: type, *inputs: str) -> Dict[str, Any]:
    """The sublayers of a list of blocks, its indices written as '*'."""
    known = {'': block, '.norm1': NORM, '.norm2': NORM, '.drop_path': UNUSED, '.attn': attention,
             '.attn.proj': nn.Linear, '.attn.attn_drop': UNUSED, '.attn.proj_drop': UNUSED, '.mlp': layers.Mlp,
             '.mlp.fc1': nn.Linear, '.mlp.act': nn.GELU, '.mlp.fc2': nn.Linear, '.mlp.drop': UNUSED}
    return {name: nn.LayerList, **{f'{name}.*{part}': kind for part, kind in known.items()},
            **{f'{name}.*.attn.{part}': nn.Linear for part in inputs}}


KNOWN = {
    'cait': {**HEADS, **_stack('blocks', cait.Block, cait.TalkingHeadAttention, 'qkv'),
             **_stack('blocks_token_only', cait.ClassBlock, cait.ClassAttention, 'q', 'k', 'v'),
             'blocks.*.attn.proj_l': cait.HeadMix, 'blocks.*.attn.proj_w': cait.HeadMix},
    'vit': {**HEADS, **_stack('blocks', vit.Block, vit.Attention, 'qkv')},
}


def obstacle(model: nn.Layer) -> str:
    """Why ``model`` must be exported as its plain Paddle graph; empty when it need not."""
    said = getattr(model, 'to_network', lambda: None)()
    if said is None:
        return f'{type(model).__name__} has no to_network'
    order = PLAIN.get(type(model), type(model)).__mro__
    describes = _position(order, 'to_network')
    for method in METHODS:
        if _position(order, method) < describes:
            return f'{type(model).__name__} overrides {method} without to_network'
    if len(said['prefix']) > 1 and order[describes] is vit.ViT:  # whose head reads the first alone
        return f'{type(model).__name__} has {len(said["prefix"])} tokens before the patches without to_network'
    return next(_differences(model, said), '')


def _position(order: Tuple[type, ...], name: str) -> int:
    """Of the first class that defines ``name``."""
    return next((index for index, one in enumerate(order) if name in vars(one)), len(order))


def _differences(model: nn.Layer, said: Dict[str, Any]) -> Iterator[str]:
    """What in the layers of ``model`` is not as the families' papers have it."""
    known, found = KNOWN[said['family']], {}
    for name, layer in model.named_sublayers(include_self=True):
        if layer._forward_pre_hooks or layer._forward_post_hooks:
            yield f'{name or "the model"} has a hook'
        for method in vars(layer):
            if callable(vars(layer)[method]) and callable(getattr(type(layer), method, None)):
                yield f'{name or "the model"} has a {method} of its own'
        if not name:
            continue
        kind, role = PLAIN.get(type(layer), type(layer)), re.sub(r'\.\d+(?=\.|$)', '.*', name)
        wanted = known.get(role, ())
        if kind not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            yield f'{name} is a {type(layer).__name__}'
        yield from _numbers(name, layer, kind, said)
        found[name] = role
    heads = {'head', 'head_dist'} if len(said['prefix']) == 2 else {'head'}
    missing = [role for role, kind in known.items() if kind is not UNUSED and role not in {*found.values(), 'head',
                                                                                          'head_dist'}]
    if missing or heads != {'head', 'head_dist'} & set(found) or len(said['prefix']) > 2:
        yield f'its layers are not those of the family {said["family"]}'
    extra = set(model.state_dict()) - set(_parameters(found, known, said))
    if extra:
        yield f'{sorted(extra)[0]} is not known'


def _numbers(name: str, layer: Any, kind: type, said: Dict[str, Any]) -> Iterator[str]:
    """Settings of a layer that the graph has as constants."""
    if kind in NORM and (layer._epsilon != EPS or layer.weight is None or layer.bias is None):
        yield f'{name} has epsilon {layer._epsilon} or no affine part'
    if kind is nn.Conv2D and (_pair(layer._stride) != (said['patch_size'],) * 2 or _pair(layer._padding) != (0, 0)
                              or _pair(layer._dilation) != (1, 1) or layer._groups != 1 or layer.bias is None
                              or layer.weight.shape[1:] != [3, said['patch_size'], said['patch_size']]):
        yield f'{name} is not a projection of RGB patches of {said["patch_size"]} pixels'
    if kind is nn.GELU and layer._approximate:
        yield f'{name} is approximate'
    if kind is nn.Linear and layer.bias is None and name.rsplit('.', 1)[-1] not in ('qkv', 'q', 'k', 'v'):
        yield f'{name} has no bias'
    if hasattr(layer, 'num_heads'):
        width = layer.proj.weight.shape[0] // said['num_heads']
        if layer.num_heads != said['num_heads'] or layer.scale != width ** -0.5:
            yield f'{name} has another number of heads or scale'


def _pair(value: Any) -> Tuple[int, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value, value)


def _parameters(found: Dict[str, str], known: Dict[str, Any], said: Dict[str, Any]) -> Set[str]:
    """Names of all parameters that a network has."""
    names = {'pos_embed', *said['prefix']}
    for name, role in found.items():
        if known.get(role) in (nn.Linear, NORM, nn.Conv2D, cait.HeadMix):
            names |= {f'{name}.weight', f'{name}.bias'}
        if known.get(role) in (cait.Block, cait.ClassBlock):
            names |= {f'{name}.gamma_1', f'{name}.gamma_2'}
    return names
