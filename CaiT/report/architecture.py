# SPDX-License-Identifier: Apache-2.0
"""The architecture of a CaiT as SVG, with the sizes of a model that was built."""
from __future__ import annotations

from html import escape
from typing import Any, List, NamedTuple, Sequence

from CaiT.report.svg import number

WIDTH, HEIGHT = 940, 640
MIDDLE, WIDE = 246, 310            # of the column that shows the network: its middle, the width of its boxes
COLUMNS, NARROW = (542, 806), 256  # the same of the two columns that show a block each
STEP, TALL = 36, 26                # from box to box in a block, and the height of a box
BLUE, ORANGE, GREEN, GRAY, WHITE = '#ddf0fb', '#fde8d9', '#dcf3ec', '#eef1f4', '#ffffff'
STYLE = ('text{font:14px -apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328;text-anchor:middle}'
         '.title{font-size:18px;font-weight:600}.head{font-weight:600}'
         'path{stroke:#57606a;stroke-width:1.5;fill:none}.flow{marker-end:url(#tip)}.residual{stroke-dasharray:4 3}')
TIP = ('<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
       '<path d="M0 0L8 4L0 8z" style="fill:#57606a;stroke:none"/></marker>')


class Sizes(NamedTuple):
    """The numbers of the figure."""
    name: str
    image_size: int
    in_channels: int
    patch_size: int
    dim: int
    depth: int
    depth_token_only: int
    num_heads: int
    hidden_dim: int
    init_values: float
    num_classes: int
    parameters: int


def sizes_of(model: Any, name: str) -> Sizes:
    """Read from the layers of a freshly built ``CaiT.models.cait.CaiT`` (LayerScale still at its first value)."""
    dim, in_channels, patch_size, _ = model.patch_embed.proj.weight.shape
    block = model.blocks[0]
    return Sizes(name, model.patch_embed.image_size, in_channels, patch_size, dim, len(model.blocks),
                 len(model.blocks_token_only), block.attn.num_heads, block.mlp.fc1.weight.shape[1],
                 float(f'{float(block.gamma_1[0]):.6g}'), model.num_classes,
                 sum(int(one.size) for one in model.parameters()))


def architecture(sizes: Sizes) -> str:
    """The figure, on a light ground of its own: at the left the network, from the image at the bottom to the logits
    at the top; at the right a block of each kind, from its input at the bottom to its output at the top."""
    dim, heads, patches = sizes.dim, sizes.num_heads, (sizes.image_size // sizes.patch_size) ** 2
    mixed, projected = f'talking heads: Linear {heads} to {heads}', f'values, Linear {dim} to {dim}'
    scale = f'LayerScale, starts at {number(sizes.init_values)}'
    mlp = ['LayerNorm', f'Linear {dim} to {sizes.hidden_dim}, GELU', f'Linear {sizes.hidden_dim} to {dim}', scale]
    parts = [_text(WIDTH / 2, 36, f'{sizes.name}: {sizes.parameters:,} parameters', 'title'), *_network(sizes, patches)]
    parts += _block(COLUMNS[0], ORANGE, 'self-attention block', f'{patches} x {dim}', [
        'LayerNorm', f'q, k, v: {heads} heads of {dim // heads}', f'scores {heads} x {patches} x {patches}', mixed,
        'softmax', mixed, projected, scale], mlp)
    parts += _block(COLUMNS[1], GREEN, 'class-attention block', f'1 x {dim}', [
        f'LayerNorm, all {patches + 1} tokens', f'q: class token, {heads} heads of {dim // heads}',
        f'k, v: all {patches + 1} tokens', f'scores {heads} x 1 x {patches + 1}', 'softmax', projected, scale], mlp)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" role="img" aria-label="architecture of {escape(sizes.name)}"><style>{STYLE}</style>'
            f'<defs>{TIP}</defs><rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{WHITE}"/>\n'
            + '\n'.join(parts) + '\n</svg>\n')


def _network(sizes: Sizes, patches: int) -> List[str]:
    dim, size, side = sizes.dim, sizes.image_size, sizes.image_size // sizes.patch_size
    image, embedding, self_attention, class_attention, head = 570, 454, 336, 218, 126  # upper edges
    parts = [
        _box(MIDDLE, WIDE, image, 36, GRAY, f'image {sizes.in_channels} x {size} x {size}'),
        _box(MIDDLE, WIDE, embedding, 58, BLUE, f'patch embedding {sizes.patch_size} x {sizes.patch_size}',
             f'{side} x {side} = {patches} patches, + positions'),
        _box(MIDDLE, WIDE, self_attention, 58, ORANGE, f'{sizes.depth} self-attention blocks',
             f'the {patches} patches attend to each other'),
        _box(MIDDLE, WIDE, class_attention, 58, GREEN, f'{sizes.depth_token_only} class-attention blocks',
             f'the class token attends to all {patches + 1}'),
        _box(MIDDLE, WIDE, head, 36, BLUE, f'LayerNorm, Linear {dim} to {sizes.num_classes}'),
        _box(42, 56, class_attention + 4, 50, GRAY, 'class', 'token'), _arrow(70, class_attention + 29, 'H89'),
        _arrow(MIDDLE, head, 'V98'), _text(MIDDLE, 90, f'{sizes.num_classes} logits')]
    for start, end, shape in ((image, embedding + 58, ''), (embedding, self_attention + 58, f'{patches} x {dim}'),
                              (self_attention, class_attention + 58, f'{patches} x {dim}'),
                              (class_attention, head + 36, f'1 x {dim}')):
        parts.append(_arrow(MIDDLE, start, f'V{end + 2}'))
        if shape:
            parts.append(_text(MIDDLE + 48, (start + end) / 2 + 5, shape))
    return parts


def _block(middle: float, color: str, title: str, shape: str, attention: Sequence[str], mlp: Sequence[str]
           ) -> List[str]:
    """Attention and MLP above each other; the input of each is added to its output."""
    left, bottom = middle - NARROW / 2, HEIGHT - 34
    parts = [f'<rect x="{left:g}" y="56" width="{NARROW}" height="{HEIGHT - 70}" rx="6" fill="{color}"/>',
             _text(middle, 78, title, 'head'), _text(middle, bottom + 14, shape)]
    for lines in (attention, mlp):
        y = bottom
        for line in lines:
            parts.append(_arrow(middle, y, f'v{TALL - STEP + 2}'))
            y -= STEP
            parts.append(_box(middle + 6, NARROW - 36, y, TALL, WHITE, line))
        plus = y - 20
        parts += [_arrow(middle, y, f'V{plus + 10}'),
                  _arrow(middle, bottom - 3, f'H{left + 12:g}V{plus}H{middle - 10:g}', ' residual'),
                  f'<circle cx="{middle:g}" cy="{plus}" r="8" fill="{WHITE}" stroke="#57606a"/>',
                  _text(middle, plus + 5, '+')]
        bottom = plus - 8
    return [*parts, _arrow(middle, bottom, f'V{bottom - 12}')]


def _box(middle: float, width: float, top: float, height: float, color: str, *lines: str) -> str:
    first = top + height / 2 + 5 - 10 * (len(lines) - 1)
    return (f'<rect x="{middle - width / 2:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="5" fill="{color}" '
            'stroke="#8c959f"/>'
            + ''.join(_text(middle, first + 20 * index, line, '' if index else 'head' if len(lines) > 1 else '')
                      for index, line in enumerate(lines)))


def _arrow(x: float, y: float, path: str, kind: str = '') -> str:
    return f'<path class="flow{kind}" d="M{x:g} {y:g}{path}"/>'


def _text(x: float, y: float, text: str, kind: str = '') -> str:
    kind = f' class="{kind}"' if kind else ''
    return f'<text x="{x:g}" y="{y:g}"{kind}>{escape(text)}</text>'
