# SPDX-License-Identifier: Apache-2.0
"""Maps laid over images as one PNG: a common scale with a color bar, titles, head numbers, contact sheets.

Values are multiples of an even distribution (see ``attention_maps.times_even``): dark is 0, a model that looks
everywhere alike gives one even color at 1. Colors follow the square root of the value, so that small ones can be told
apart too.
"""
from __future__ import annotations

import math
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from CaiT.data.text import quoted
from CaiT.report.attention_maps import ROLLOUT, WEIGHTED, Explanation, times_even
from CaiT.report.fonts import can_draw, font_for

CELL, SMALL = 224, 150      # pixels of a cell's side, of a contact sheet's
GAP, MARGIN, LINE = 6, 14, 18
PER_LINE = 6                # cells side by side
CONTACT_COLUMNS = 3
OPACITY = 0.65              # of the map over the image
LEVELS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000)


class Row(NamedTuple):
    """Maps [side, side] with a title each, under a title of their own."""
    title: str
    maps: List[Tuple[str, np.ndarray]]


def rows_of(explanation: Explanation, index: int, class_name: str) -> List[Row]:
    """What is shown of image ``index``: each attending block's mean and heads, rollout, relevance."""
    prefix, rows = explanation.prefix, []
    cait = explanation.rollout is None
    for block, heads in enumerate(explanation.attention[index], 1):
        maps = times_even(heads, prefix)
        own = heads[:, :prefix].sum(-1).mean()
        name = f'class-attention block {block}' if cait else 'last block, attention of the class token'
        rows.append(Row(f'{name}; {100 * own:.1f}% stays with the tokens before the patches',
                        [('mean of heads', maps.mean(0)), *((f'head {h}', one) for h, one in enumerate(maps, 1))]))
    titles, last = [], []
    if not cait:
        titles.append('rollout')
        last.append((ROLLOUT, times_even(explanation.rollout[index], prefix)))
    if explanation.relevance is not None:
        titles.append(f'relevance for class {class_name}')
        last.append((WEIGHTED, times_even(explanation.relevance[index], prefix, True)))
    if last:
        rows.append(Row(('' if cait else 'all blocks: ') + ', and '.join(titles), last))
    return rows


def common_scale(maps: Sequence[np.ndarray]) -> float:
    """The upper end of the scale for all these maps: a round number that 99.5 % of their values do not exceed."""
    top = float(np.quantile(np.concatenate([np.ravel(one) for one in maps]), 0.995)) if len(maps) else 0.0
    return float(next((level for level in LEVELS if level >= top), LEVELS[-1]))


def colored(values: np.ndarray, top: float) -> np.ndarray:
    """Values [H, W] on the scale 0 to ``top`` as RGB [H, W, 3] uint8; above it the color of ``top``."""
    levels = np.round(np.sqrt(np.clip(values / top, 0, 1)) * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])


def overlay(image: Image.Image, values: np.ndarray, top: float, side: int = CELL) -> Image.Image:
    """The map [n, n], every patch a square of one color, over the image in gray."""
    gray = np.asarray(resized(image, side).convert('L'), np.float32)[..., None]
    colors = cv2.resize(colored(values, top), (side, side), interpolation=cv2.INTER_NEAREST)
    return Image.fromarray(np.round((1 - OPACITY) * gray + OPACITY * colors).astype(np.uint8))


def resized(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.NEAREST if image.width < side else Image.LANCZOS)


def sheet(image: Image.Image, title: Sequence[str], rows: Sequence[Row], top: float) -> Image.Image:
    """One image: ``title`` lines, then for each row the original beside its maps, and the color bar."""
    lines = [[('original', None), *row.maps] for row in rows]
    counts = [math.ceil(len(cells) / PER_LINE) for cells in lines]
    width = 2 * MARGIN + min(PER_LINE, max(len(cells) for cells in lines)) * (CELL + GAP) - GAP
    width = max(width, 2 * MARGIN + 3 * (CELL + GAP))
    title = [part for line in title for part in wrapped(line, width - 2 * MARGIN)]
    height = 2 * MARGIN + LINE * len(title) + sum(
        2 * LINE + count * (CELL + LINE + GAP) for count in counts) + _BAR_HEIGHT
    canvas = Image.new('RGB', (width, height), 'white')
    pen = ImageDraw.Draw(canvas)
    y = MARGIN
    for line in title:
        _write(pen, (MARGIN, y), line, 14)
        y += LINE
    for row, cells in zip(rows, lines):
        y += LINE // 2
        _write(pen, (MARGIN, y), _cut(row.title, width - 2 * MARGIN, 14), 14)
        y += LINE + LINE // 2
        for start in range(0, len(cells), PER_LINE):
            for column, (name, values) in enumerate(cells[start:start + PER_LINE]):
                x = MARGIN + column * (CELL + GAP)
                _write(pen, (x, y), name, 12, '#57606a')
                canvas.paste(resized(image, CELL) if values is None else overlay(image, values, top), (x, y + LINE))
            y += CELL + LINE + GAP
    color_bar(canvas, (MARGIN, y + GAP), min(width - 2 * MARGIN, 460), top)
    return canvas


def tile(image: Image.Image, caption: Sequence[str], maps: Sequence[Tuple[str, np.ndarray]],
         top: float) -> Image.Image:
    """A small original beside its maps, below the lines of ``caption``."""
    width = (1 + len(maps)) * (SMALL + 2) - 2
    titles = len(caption) * LINE
    canvas = Image.new('RGB', (width, titles + LINE + SMALL), 'white')
    pen = ImageDraw.Draw(canvas)
    for line, text in enumerate(caption):
        _write(pen, (0, line * LINE), _cut(drawable(text), width, 13), 13)
    for column, (name, values) in enumerate([('original', None), *maps]):
        left = column * (SMALL + 2)
        _write(pen, (left, titles), _cut(name, SMALL, 12), 12, '#57606a')
        canvas.paste(resized(image, SMALL) if values is None else overlay(image, values, top, SMALL),
                     (left, titles + LINE))
    return canvas


def bar(top: float, width: int = 460) -> Image.Image:
    """The color bar by itself."""
    canvas = Image.new('RGB', (width, _BAR_HEIGHT), 'white')
    color_bar(canvas, (0, 0), width, top)
    return canvas


def contact_sheet(tiles: Sequence[Image.Image], top: float) -> Image.Image:
    """Tiles in rows, with the color bar below."""
    columns = min(CONTACT_COLUMNS, len(tiles))
    width, height = tiles[0].width + MARGIN, tiles[0].height + MARGIN
    lines = math.ceil(len(tiles) / columns)
    canvas = Image.new('RGB', (max(MARGIN + columns * width, 500), 2 * MARGIN + lines * height + _BAR_HEIGHT), 'white')
    for index, one in enumerate(tiles):
        canvas.paste(one, (MARGIN + index % columns * width, MARGIN + index // columns * height))
    color_bar(canvas, (MARGIN, MARGIN + lines * height), 460, top)
    return canvas


_BAR_HEIGHT = 60


def color_bar(canvas: Image.Image, place: Tuple[int, int], width: int, top: float) -> None:
    """The scale 0 to ``top``, with what its numbers mean."""
    x, y = place
    pen = ImageDraw.Draw(canvas)
    bar = colored(top * np.linspace(0, 1, width)[None].repeat(14, 0) ** 2, top)
    canvas.paste(Image.fromarray(bar), (x, y))
    marks = [0, *(mark for mark in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if 0.01 * top < mark < 0.75 * top), top]
    for mark in marks:
        at = x + round(math.sqrt(mark / top) * (width - 1))
        pen.line((at, y + 14, at, y + 18), '#1c2128')
        label = f'{mark:g}' if mark < top else f'>= {mark:g}'
        size = pen.textlength(label, font=font_for(label, 12))
        _write(pen, (min(max(at - size / 2, x), x + width - size), y + 19), label, 12)
    _write(pen, (x, y + 36), 'times an even distribution (1: no preference); one scale for all maps', 12, '#57606a')


def wrapped(text: str, width: int, size: int = 14) -> List[str]:
    """The text in lines of at most ``width`` pixels, broken at blanks where there are any."""
    lines, line = [], ''
    for word in drawable(text).split(' '):
        longer = f'{line} {word}' if line else word
        if line and font_for(longer, size).getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [_cut(one, width, size) for one in [*lines, line]]


def _cut(text: str, width: float, size: int) -> str:
    font = font_for(text, size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + '...') > width:
        text = text[:-1]
    return text + '...'


def _write(pen: Any, place: Tuple[float, float], text: str, size: int, color: str = '#1c2128') -> None:
    pen.text(place, text, color, font_for(text, size))


def drawable(text: str) -> str:
    """The text, with question marks for other letters than English ones where no font has all of it."""
    return text if can_draw(text) else ''.join(one if one.isascii() else '?' for one in text)


def drawable_names(names: Sequence[str]) -> Tuple[List[str], str]:
    """(class names for images, a log line): 'class 3' where no font has the name's characters; '' where all have."""
    shown = [name if name.isascii() or can_draw(name) else f'class {i}' for i, name in enumerate(names)]
    missing = next((name for name, one in zip(names, shown) if name != one), None)
    return shown, '' if missing is None else (
        f'class names: no font with the characters of {missing[:40]!r} is installed (Noto Sans CJK has them); the '
        'images say class numbers instead')


def title_of(path: str, explanation: Explanation, index: int, names: Optional[Sequence[str]]) -> List[str]:
    """The image's name and its five most probable classes."""
    probs = explanation.probs[index]
    best = np.argsort(-probs, kind='stable')[:5]
    top5 = ', '.join(f'{names[i] if names else f"class {i}"} {100 * probs[i]:.1f}%' for i in best)
    return [quoted(path), f'top-{len(best)}: {top5}']
