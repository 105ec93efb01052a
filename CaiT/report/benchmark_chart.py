# SPDX-License-Identifier: Apache-2.0
"""Results of benchmarks/against_peers.py as one SVG: a row per model, a panel per precision."""
from __future__ import annotations

import itertools
from html import escape
from typing import Any, Dict, List, Mapping

from CaiT.report.svg import number, ticks

PRECISIONS = ('fp32', 'bf16', 'int8')
COLORS = {'ours': '#0072b2', 'timm': '#d55e00', "papers'": '#767676'}
WIDTH, MARGIN, GAP = 960, 16, 18        # of the whole, in pixels
NAMES, VALUES = 140, 42                 # of a panel: left of the bars, right of them
PANEL = (WIDTH - 2 * MARGIN - (len(PRECISIONS) - 1) * GAP) / len(PRECISIONS)
BAR, HEAD, FOOT, TITLE = 18, 22, 26, 28  # heights: a bar with its gap, a panel's title, its axis, a row's title
TOP = 42                                # height of the legend
STYLE = ('text{font:12px -apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328}'
         '.title{font-size:15px;font-weight:600}.panel{font-weight:600}.small{font-size:11px;fill:#57606a}'
         '.grid{stroke:#d8dee4}.limit{stroke:#1f2328;stroke-width:1.5;stroke-dasharray:5 3}')


def precision_of(name: str) -> str:
    """The precision in a contender's name; PyTorch eager and compiled are fp32."""
    return next((one for one in PRECISIONS if name.endswith(one)), 'fp32')


def ordered(rates: Mapping[str, Mapping[str, Any]]) -> List[str]:
    """Names by precision, the fastest of each first."""
    return sorted(rates, key=lambda name: (PRECISIONS.index(precision_of(name)), -rates[name]['median']))


def labels(values: List[float]) -> List[str]:
    """The values of a panel as text: whole numbers, with one decimal where two of them lie less than 1 apart."""
    ranked = sorted(values)
    close = any(later - earlier < 1 for earlier, later in zip(ranked, ranked[1:]))
    return [f'{value:.1f}' if close else f'{value:.0f}' for value in values]


def chosen(result: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Of each model, the row with the most threads and of these the batch nearest to 8."""
    models = dict.fromkeys(row['model'] for row in result['rows'])
    return [min((row for row in result['rows'] if row['model'] == model),
                key=lambda row: (-row['threads'], abs(row['batch'] - 8))) for model in models]


def benchmark_chart(result: Mapping[str, Any]) -> str:
    """SVG of the medians, images per second, one row per model of ``chosen``. A panel's axis starts at 0 and is its
    own; the arithmetic limit, where one was measured, is a line in the panel of its precision alone.
    """
    parts, top = [_legend(result)], TOP
    for row in chosen(result):
        groups = {kind: list(names) for kind, names in itertools.groupby(ordered(row['rates']), precision_of)}
        parts.append(f'<text class="title" x="{MARGIN}" y="{top + 18}">{escape(row["model"])}: images/s, batch '
                     f'{row["batch"]}, {row["threads"]} thread{"s" if row["threads"] > 1 else ""}</text>')
        for kind, names in groups.items():
            left = MARGIN + PRECISIONS.index(kind) * (PANEL + GAP)
            parts.append(_panel(left, top + TITLE, kind, {name: row['rates'][name]['median'] for name in names},
                                row['limits'].get(kind, {}).get('median')))
        top += TITLE + HEAD + BAR * max(map(len, groups.values())) + FOOT + GAP
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
            f'role="img" aria-label="images per second by model and precision"><style>{STYLE}</style>'
            f'<rect width="{WIDTH}" height="{top}" rx="8" fill="#ffffff"/>\n' + '\n'.join(parts) + '\n</svg>\n')


def _legend(result: Mapping[str, Any]) -> str:
    used = {name.split(' ')[0] for row in chosen(result) for name in row['rates']}
    meanings = {'ours': 'this project', 'timm': 'timm', "papers'": "the papers' graph on Paddle Inference"}
    parts, x = [], MARGIN
    for name, color in COLORS.items():
        if name in used:
            parts.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{color}"/>'
                         f'<text x="{x + 18}" y="24">{escape(meanings[name])}</text>')
            x += 44 + 6 * len(meanings[name])
    if any(row['limits'] for row in chosen(result)):
        parts.append(f'<path class="limit" d="M{x} 20h22"/><text x="{x + 28}" y="24">limit: the matrix products alone, '
                     'at the speed of the fastest GEMM</text>')
    return ''.join(parts)


def _panel(left: float, top: float, kind: str, values: Dict[str, float], limit: Any) -> str:
    """One precision: bars from the top down, the axis below."""
    start, width = left + NAMES, PANEL - NAMES - VALUES
    end = max([*values.values(), limit or 0.0])
    bottom = top + HEAD + BAR * len(values)
    parts = [f'<text class="panel" x="{left:.0f}" y="{top + 14}">{kind}</text>']
    for value in ticks(0.0, end, 3):
        x = start + value / end * width
        parts.append(f'<path class="grid" d="M{x:.1f} {top + HEAD - 2}V{bottom}"/>'
                     f'<text class="small" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{number(value)}</text>')
    if limit:
        x = start + limit / end * width
        parts.append(f'<path class="limit" d="M{x:.1f} {top + HEAD - 2}V{bottom}"/>'
                     f'<text class="small" x="{x:.1f}" y="{top + 14}" text-anchor="middle">limit '
                     f'{labels([*values.values(), limit])[-1]}</text>')
    for index, ((name, value), label) in enumerate(zip(values.items(), labels(list(values.values())))):
        y, size = top + HEAD + BAR * index, value / end * width
        plain = name[:-len(kind)].rstrip() if name.endswith(kind) else name
        owner = name.split(' ')[0]
        parts.append(f'<text x="{start - 6:.0f}" y="{y + 12}" text-anchor="end">{escape(plain)}</text>'
                     f'<rect x="{start:.0f}" y="{y + 1}" width="{size:.1f}" height="{BAR - 4}" '
                     f'fill="{COLORS.get(owner, "#767676")}"/>'
                     f'<text x="{left + PANEL:.0f}" y="{y + 12}" text-anchor="end">{label}</text>')
    return ''.join(parts)
