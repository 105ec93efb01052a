# SPDX-License-Identifier: Apache-2.0
"""The architecture's figure: its numbers are the config's, its text fits its boxes, and the repository's is current."""
from __future__ import annotations

import re
from pathlib import Path
from typing import List
from xml.etree import ElementTree

import pytest
from PIL import ImageFont

from CaiT.models.registry import get_variant
from CaiT.report.architecture import Sizes, architecture, sizes_of
from tests.models.small import small_model

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / 'docs' / 'images' / 'cait_xxs24_224.svg'
NS = '{http://www.w3.org/2000/svg}'


def texts(svg: str) -> List[str]:
    return [one.text for one in ElementTree.fromstring(svg).iter(f'{NS}text')]


def sizes(name: str, parameters: int) -> Sizes:
    """By hand from the row of a variant: two class-attention blocks, an MLP of four times the channels."""
    arch, size = get_variant(name).arch, int(name.rsplit('_', 1)[1])
    return Sizes(name, size, 3, 16, arch['embed_dim'], arch['depth'], 2, arch['num_heads'], 4 * arch['embed_dim'],
                 arch['init_values'], 1000, parameters)


def test_the_figure_of_the_repository():
    """Parameters: those of the paper's table (12.0 million), to the digit in the config's header."""
    assert COMMITTED.read_text(encoding='utf-8') == architecture(sizes('cait_xxs24_224', 11_956_264)), \
        'run `make figures`'


@pytest.mark.parametrize('name, parameters, expected', [
    ('cait_xxs36_384', 17_372_680, [
        'cait_xxs36_384: 17,372,680 parameters', 'image 3 x 384 x 384', '24 x 24 = 576 patches, + positions',
        '36 self-attention blocks', '2 class-attention blocks', 'scores 4 x 576 x 576', 'scores 4 x 1 x 577',
        'Linear 192 to 768, GELU', 'LayerScale, starts at 1e-5', 'LayerNorm, Linear 192 to 1000']),
    ('cait_m48_448', 356_460_520, [
        '28 x 28 = 784 patches, + positions', '48 self-attention blocks', 'q, k, v: 16 heads of 48',
        'talking heads: Linear 16 to 16', 'Linear 3072 to 768', 'LayerScale, starts at 1e-6', '784 x 768', '1 x 768'])])
def test_numbers_are_those_of_the_variant(name, parameters, expected):
    assert not set(expected) - set(texts(architecture(sizes(name, parameters))))


@pytest.mark.parametrize('overrides', [
    dict(image_size=32, patch_size=8, embed_dim=24, num_heads=3, mlp_ratio=2.0, init_values=1.0),
    dict(image_size=40, patch_size=4, embed_dim=16, num_heads=2, depth=5, depth_token_only=4, in_channels=1)])
def test_sizes_are_read_from_the_model(overrides):
    model = small_model('cait_xxs24_224', lambda model: None, **overrides)
    want = {**dict(depth=3, depth_token_only=2, mlp_ratio=4.0, init_values=1e-5, in_channels=3), **overrides}
    count = sum(int(one.size) for one in model.parameters())
    assert sizes_of(model, 'x') == Sizes(
        'x', want['image_size'], want['in_channels'], want['patch_size'], want['embed_dim'], want['depth'],
        want['depth_token_only'], want['num_heads'], int(want['mlp_ratio'] * want['embed_dim']), want['init_values'],
        5, count)


@pytest.mark.parametrize('name', ['cait_xxs24_224', 'cait_m48_448'])
def test_text_fits_and_nothing_leaves_the_figure(name):
    """Every text centered in a box is narrower than the box, in a font wider than Helvetica."""
    svg = architecture(sizes(name, 356_460_520))
    root = ElementTree.fromstring(svg)
    font = ImageFont.load_default(14)
    boxes = [[float(one.get(key) or 0) for key in ('x', 'y', 'width', 'height')] for one in root.iter(f'{NS}rect')]
    for one in root.iter(f'{NS}text'):
        x, y, half = float(one.get('x')), float(one.get('y')), font.getlength(one.text) / 2
        inside = min((box for box in boxes if box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3]),
                     key=lambda box: box[2] * box[3])
        assert inside[0] <= x - half and x + half <= inside[0] + inside[2], one.text
    width, height = float(root.get('width')), float(root.get('height'))
    assert all(box[0] >= 0 and box[0] + box[2] <= width and box[1] + box[3] <= height for box in boxes)
    assert float(re.search(r'text\{font:(\d+)px', svg).group(1)) * 800 / width >= 11  # pixels on a page of 800
    assert boxes[0] == [0, 0, width, height] and 'fill="#ffffff"' in svg  # its own ground, on dark pages too
