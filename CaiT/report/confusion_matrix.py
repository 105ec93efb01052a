# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix of an evaluation, or a part of it, as SVG."""
from __future__ import annotations

from collections import Counter
from html import escape
from typing import Dict, Iterable, List

from CaiT.data.text import display_width
from CaiT.report import metrics
from CaiT.report.predictions import Predictions
from CaiT.report.svg import COLORS

BLUE, ORANGE = COLORS[:2]


def matrix_svg(predictions: Predictions, rows: List[int], columns: List[int]) -> str:
    """Rows: labels, columns: predictions; a cell's color is its fraction of the row, its number a count of images."""
    counts = metrics.confusion(predictions.labels, predictions.ids[:, 0], rows, columns)
    totals = counts.sum(1)
    row_names = [predictions.name(class_id) for class_id in rows]
    column_names = [predictions.name(class_id) for class_id in columns]
    if counts[:, -1].any():
        column_names.append('all others')
    shorter = short_names(predictions, [*rows, *columns])
    row_texts, column_texts = [shorter[k] for k in rows], [shorter[k] for k in columns]
    column_texts += column_names[len(columns):]
    cell, left = 30, 14 + 7 * max(map(display_width, [*row_texts, *column_texts]))
    top = max(left, 34)
    width, height = left + cell * len(column_names) + left // 2, top + cell * len(rows) + 10
    style = f'min-width:{int(0.85 * width) if width > 450 else 0}px;max-width:{int(1.2 * width)}px'
    parts = [f'<svg viewBox="0 0 {width} {height}" style="{style}" role="img" aria-label="confusion matrix">']
    for i, name in enumerate(column_texts):
        x = left + cell * i + cell / 2
        parts.append(f'<text x="{x + 4}" y="{top - 6}" transform="rotate(-60 {x + 4} {top - 6})">'
                     f'{escape(name)}</text>')
    for row, name in enumerate(row_names):
        y = top + cell * row
        parts.append(f'<text x="{left - 6}" y="{y + 19}" text-anchor="end">{escape(row_texts[row])}</text>')
        for column, guess in enumerate(column_names):
            count = int(counts[row, column])
            right = column < len(columns) and columns[column] == rows[row]
            strength = 0.12 + 0.88 * count / totals[row] if count else 0.0
            x = left + cell * column
            parts.append(f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                         f'fill="{BLUE if right else ORANGE}" fill-opacity="{strength:.3f}" stroke="#d8dee4" '
                         f'stroke-width="0.5"><title>'
                         f'{escape(name)} predicted as {escape(guess)}: {count} of {int(totals[row])}</title></rect>')
            if count:
                ink = ink_on(BLUE if right else ORANGE, strength)
                text = count if count < 10_000 else f'{count / 1000:.0f}k'
                parts.append(f'<text x="{x + cell / 2 - .5}" y="{y + 19}" text-anchor="middle" '
                             f'style="fill:{ink};pointer-events:none">{text}</text>')
    return ''.join(parts) + '</svg>'


def short_names(predictions: Predictions, class_ids: Iterable[int]) -> Dict[int, str]:
    """Names of at most 18 columns, of which a Chinese character takes two; those that would be cut to the same carry
    their class id."""
    cut = {class_id: _cut(predictions.name(class_id), 18) for class_id in class_ids}
    count = Counter(cut.values())
    return {class_id: f'{_cut(name, 12)} {class_id}' if count[name] > 1 else name for class_id, name in cut.items()}


def _cut(name: str, columns: int) -> str:
    if display_width(name) <= columns:
        return name
    while display_width(name) >= columns:
        name = name[:-1]
    return name.rstrip('…') + '…'


def ink_on(color: str, opacity: float) -> str:
    """Black or white, whichever has the higher contrast (WCAG's) on this color over white."""
    def luminance(channels: Iterable[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    below = luminance(1 + opacity * (int(color[i:i + 2], 16) / 255 - 1) for i in (1, 3, 5))
    return '#fff' if 1.05 / (below + 0.05) > (below + 0.05) / 0.05 else '#000'
