# SPDX-License-Identifier: Apache-2.0
"""Weights of one model for another: which registered models a file fits, told by the shapes of its arrays.

Nothing is built: the registry's table has the numbers that the shapes show.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Sequence, Set

Shapes = Mapping[str, Sequence[int]]


def is_cait(names: Mapping[str, Any]) -> bool:
    """Whether these are public names of a CaiT, which alone has class attention."""
    return any(name.startswith('blocks_token_only.') for name in names)


def is_same_network(found: Shapes, wanted: Shapes) -> bool:
    """Whether both are of the same network in the same shape, whatever its image size and its classes."""
    return (_tokens(found), _stacks(found), _architecture(found)) == (
        _tokens(wanted), _stacks(wanted), _architecture(wanted))


def difference(found: Shapes, wanted: Shapes, asked: str) -> str:
    """What the file holds and which model it is given to, '' where the two are the same network.

    ``found`` and ``wanted`` are the shapes of the file's arrays and of the model's parameters under public names, in
    Paddle's layout; ``asked`` is the model's registered name or an alias of it, '' where it has none.
    """
    if is_same_network(found, wanted):
        return ''
    from CaiT.models.registry import get_variant  # imports Paddle, which is there when a model is
    asked = get_variant(asked).name if asked else ''
    names = _registered(found)
    fits = f'fits {" or ".join(names)}' if names else 'fits no registered model'
    model = asked if asked in _registered(wanted, any_image_size=True) else _described(wanted)
    return f'the file holds {_described(found)} and {fits}, the model is {model} (MODEL.NAME, -cfg or model=)'


def _registered(shapes: Shapes, any_image_size: bool = False) -> List[str]:
    """Registered models of this network and shape: those of its image size, where there are none those of another."""
    from CaiT.models.registry import get_variant, list_models
    tokens, stacks, architecture = _tokens(shapes), _stacks(shapes), _architecture(shapes)
    found = []
    for row in map(get_variant, list_models()):
        hidden = int(row.arch.get('embed_dim', 0) * row.arch.get('mlp_ratio', 0))
        if (set(row.model.tokens), set(row.model.stacks)) == (tokens, stacks) and all(
                {**row.arch, 'hidden': hidden}.get(key) == value for key, value in architecture.items()):
            found.append(row)
    same = [row.name for row in found if row.data['image_size'] == _image_size(shapes)]
    return [row.name for row in found] if any_image_size or not same else same


def _described(shapes: Shapes) -> str:
    """'a CaiT of width 192, depth 24 + 2, patch size 16, image size 224, 1000 classes'."""
    architecture, tokens = _architecture(shapes), _tokens(shapes)
    kind = 'CaiT' if is_cait(shapes) else 'distilled DeiT' if 'dist_token' in tokens else 'ViT or DeiT'
    depth = str(architecture['depth'])
    if is_cait(shapes):
        depth += f' + {architecture["depth_token_only"]}'
    parts = [('width', architecture.get('embed_dim')), ('depth', depth), ('patch size', architecture.get('patch_size')),
             ('image size', _image_size(shapes))]
    head = shapes.get('head.weight', ())
    return (f'a {kind} of ' + ', '.join(f'{name} {value}' for name, value in parts if value)
            + (f', {head[1]} classes' if len(head) == 2 else ''))


def _tokens(shapes: Shapes) -> Set[str]:
    return {name for name in shapes if name.endswith(('_token', '_embed')) and '.' not in name}


def _stacks(shapes: Shapes) -> Set[str]:
    return {name.partition('.')[0] for name in shapes if name.startswith(('blocks.', 'blocks_token_only.'))}


def _architecture(shapes: Shapes) -> Dict[str, int]:
    """Constructor's arguments as far as shapes show them, and ``hidden``, the channels within an MLP."""
    blocks = {stack: {name.split('.')[1] for name in shapes if name.startswith(f'{stack}.')}
              for stack in ('blocks', 'blocks_token_only')}
    result = {'depth': len(blocks['blocks'])}
    if blocks['blocks_token_only']:
        result['depth_token_only'] = len(blocks['blocks_token_only'])
    for key, name, axes, axis in (('embed_dim', 'cls_token', 3, 2), ('patch_size', 'patch_embed.proj.weight', 4, 3),
                                  ('num_heads', 'blocks.0.attn.proj_l.weight', 2, 0),
                                  ('hidden', 'blocks.0.mlp.fc1.weight', 2, 1)):
        if len(shapes.get(name, ())) == axes:
            result[key] = shapes[name][axis]
    return result


def _image_size(shapes: Shapes) -> int:
    """Pixels per side of the images that the position embedding is for; 0 where it does not say."""
    rows, patch = shapes.get('pos_embed', ()), _architecture(shapes).get('patch_size')
    if len(rows) != 3 or not patch:
        return 0
    patches = rows[1] - (0 if is_cait(shapes) else 1 + ('dist_token' in shapes))
    side = math.isqrt(max(patches, 0))
    return side * patch if side * side == patches else 0
