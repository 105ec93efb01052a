# SPDX-License-Identifier: Apache-2.0
"""Charts as inline SVG text: axes with labeled ticks, lines, bars. No library, nothing to load."""
from __future__ import annotations

import math
from html import escape
from typing import List, NamedTuple, Optional, Sequence, Tuple

# Okabe and Ito's palette: told apart with any color vision.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#6b4c9a', '#000000')
WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 10, 40  # pixels of margin around the plotted area


class Series(NamedTuple):
    """One line of a chart: its name in the legend, its points (x, y), and how it is drawn."""
    name: str
    points: Sequence[Tuple[float, float]]
    color: str
    dash: str = ''     # SVG's stroke-dasharray
    step: bool = False


def ticks(low: float, high: float, count: int = 5, integer: bool = False) -> List[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) within [low, high], whole if ``integer``."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    if integer:
        step = max(1.0, float(math.ceil(step - 1e-9)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float, exponent: bool = False) -> str:
    """A tick's label: plain where short, 1e-5 style for the very small and the very large, or where asked for."""
    if value and (exponent or abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, power = f'{value:.1e}'.split('e')
        return f'{mantissa[:-2] if mantissa.endswith(".0") else mantissa}e{int(power)}'
    return f'{value:.4f}'.rstrip('0').rstrip('.') or '0'


def labels(values: Sequence[float], exponent: bool = False) -> List[str]:
    """Labels of ticks, no two alike: with more digits where ``number`` would round two to the same."""
    found = [number(value, exponent) for value in values]
    if len(set(found)) == len(found):
        return found
    step = min(later - earlier for earlier, later in zip(values, values[1:]))
    return [f'{value:.{max(0, math.ceil(-math.log10(step) - 1e-9))}f}' for value in values]


class Axes:
    """The plotted area: maps values to pixels and draws frame, grid, ticks and labels."""

    def __init__(self, x_range: Tuple[float, float], y_range: Tuple[float, float], x_label: str, y_label: str,
                 integer_x: bool = False, percent_y: bool = False, integer_y: bool = False,
                 height: int = HEIGHT) -> None:
        self.x_range, self.y_range = _widened(x_range), _widened(y_range)
        self.x_label, self.y_label = x_label, y_label
        self.integer_x, self.percent_y, self.integer_y, self.height = integer_x, percent_y, integer_y, height

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM)

    def svg(self, body: str, description: str) -> str:
        """The whole drawing, with ``body`` drawn over the grid; ``description`` is what a screen reader says."""
        parts = [f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(description)}">']
        bottom, right = self.height - BOTTOM, WIDTH - RIGHT
        marks = ticks(*self.x_range, 6, self.integer_x)
        for value, label in zip(marks, labels(marks)):
            x = self.x(value)
            parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>'
                         f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{label}</text>')
        marks = ticks(*self.y_range, 6, self.integer_y)
        small = 0 < max(map(abs, marks), default=0) < 0.01  # all in one notation
        texts = ([f'{one}%' for one in labels([100 * value for value in marks])] if self.percent_y
                 else labels(marks, small))
        for value, label in zip(marks, texts):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
                         f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
        parts.append(f'<text x="{(LEFT + right) / 2}" y="{self.height - 8}" text-anchor="middle">'
                     f'{escape(self.x_label)}</text>')
        parts.append(f'<text x="12" y="{(TOP + bottom) / 2}" text-anchor="middle" '
                     f'transform="rotate(-90 12 {(TOP + bottom) / 2})">{escape(self.y_label)}</text>')
        return ''.join(parts) + body + '</svg>'

    def line(self, series: Series) -> str:
        """A line through the finite points; a gap where one is not finite. Every point tells its numbers on hover."""
        dash = f' stroke-dasharray="{series.dash}"' if series.dash else ''
        parts, current = [], []
        for point in [*series.points, (math.nan, math.nan)]:
            if all(math.isfinite(value) for value in point):
                current.append((self.x(point[0]), self.y(point[1])))
                continue
            if len(current) > 1:
                path = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in current)
                if series.step:
                    path = f'M{current[0][0]:.1f} {current[0][1]:.1f}' + ''.join(
                        f'H{x:.1f}V{y:.1f}' for x, y in current[1:])
                parts.append(f'<path d="{path}" fill="none" stroke="{series.color}" stroke-width="1.8"{dash}/>')
            elif current:
                parts.append(f'<circle cx="{current[0][0]:.1f}" cy="{current[0][1]:.1f}" r="2.5" '
                             f'fill="{series.color}"/>')
            current = []
        if len(series.points) <= 400:
            for x, y in series.points:
                if math.isfinite(x) and math.isfinite(y):
                    label = f'{100 * y:.2f}%' if self.percent_y else f'{y:.6g}'
                    parts.append(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="4" fill="transparent"><title>'
                                 f'{escape(series.name)}: {label} at {number(x)}</title></circle>')
        return ''.join(parts)

    def bar(self, x_range: Tuple[float, float], y_range: Tuple[float, float], color: str, title: str,
            opacity: float = 1.0) -> str:
        """A rectangle between two values on either axis."""
        x, right = self.x(x_range[0]) + 0.5, self.x(x_range[1]) - 0.5
        top, bottom = self.y(max(y_range)), self.y(min(y_range))
        return (f'<rect x="{x:.1f}" y="{top:.1f}" width="{max(right - x, 0.5):.1f}" height="{bottom - top:.1f}" '
                f'fill="{color}" fill-opacity="{opacity:g}"><title>{escape(title)}</title></rect>')


def _widened(bounds: Tuple[float, float]) -> Tuple[float, float]:
    low, high = bounds
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def line_chart(series: Sequence[Series], x_label: str, y_label: str, description: str, integer_x: bool = False,
               percent_y: bool = False, y_range: Optional[Tuple[float, float]] = None,
               x_range: Optional[Tuple[float, float]] = None) -> str:
    """Lines over common axes. The y axis starts at 0 unless the values lie close together far from it."""
    points = [point for one in series for point in one.points if all(math.isfinite(value) for value in point)]
    if not points:
        return '<p class="note">no values yet</p>'
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    if y_range is None:
        low, high = min(ys), max(ys)
        pad = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
        bottom = 0.0 if 0 <= low < 0.9 * high else low - pad
        y_range = (bottom, min(high + pad, 1.0) if percent_y else high + pad)
        if low == high == 0:
            y_range = (0.0, 1.0)
    axes = Axes(x_range or (min(xs), max(xs)), y_range, x_label, y_label, integer_x, percent_y)
    return axes.svg(''.join(axes.line(one) for one in series), description)


def legend(series: Sequence[Series]) -> str:
    """HTML: a sample of each line with its name."""
    items = []
    for one in series:
        dash = f' stroke-dasharray="{one.dash}"' if one.dash else ''
        items.append(f'<span class="key"><svg class="swatch" viewBox="0 0 22 8"><line x1="0" y1="4" x2="22" y2="4" '
                     f'stroke="{one.color}" stroke-width="2.5"{dash}/></svg>{escape(one.name)}</span>')
    return ''.join(items)
