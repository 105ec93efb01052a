# SPDX-License-Identifier: Apache-2.0
"""The results of against_peers.py as Markdown tables and as a bar chart.

    python benchmarks/chart.py benchmarks/results/cpu.json       writes cpu.md and cpu.png
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CaiT.tools.benchmark import Throughput, ratio

PRECISIONS = ('fp32', 'bf16', 'int8')
COLORS = {'ours': '#1f6fb2', 'timm': '#c9702b', "papers'": '#8a8a8a'}


def precision_of(name: str) -> str:
    """The precision in a contender's name; PyTorch eager and compiled are fp32."""
    return next((one for one in PRECISIONS if name.endswith(one)), 'fp32')


def markdown(result: Dict[str, Any]) -> List[str]:
    """One table per model, threads and batch: images per second, and ratios to the best peer and to eager."""
    machine, lines = result['machine'], ['# Inference on this CPU', '']
    lines += [f'{machine["cpu"]}, {machine["cores"]} cores, {", ".join(machine["instructions"])}. Medians of '
              f'{result["rounds"]} windows of {result["seconds"]} s (fewer where one run takes longer), in '
              'turn; a ratio is the median over the windows; float32 arrays in, logits out; random weights. '
              'Versions: '
              + ', '.join(f'{k} {v}' for k, v in result['versions'].items()) + '.', '']
    for row in result['rows']:
        rates = row['rates']
        lines += [f'## {row["model"]}, batch {row["batch"]}, {row["threads"]} threads', '',
                  '| | images/s | x best peer of that precision | x PyTorch eager | fraction of the arithmetic limit |',
                  '|---|---|---|---|---|']
        for name in ordered(rates):
            kind = precision_of(name)
            peers = [speed for other, speed in rates.items()
                     if not other.startswith('ours') and precision_of(other) == kind]
            best = max(peers, key=lambda speed: speed['median'], default=None)
            limit = row['limits'].get(kind)
            percentage = f'{100 * ratio(rates[name], limit):.0f} %' if limit else ''
            lines.append(f'| {"**" + name + "**" if name.startswith("ours") else name} | {rates[name]["median"]:.1f} | '
                         f'{_ratio(rates[name], best)} | {_ratio(rates[name], rates.get("timm PyTorch eager"))} | '
                         f'{percentage} |')
        lines += ['', 'Limit by the fastest GEMM measured in the same run: '
                  + ', '.join(f'{kind} {limit["median"]:.0f}/s' for kind, limit in row['limits'].items()) + '.']
        lines += [f'Absent: {name} ({why}).' for name, why in row['absent'].items()]
        lines.append('')
    return lines


def ordered(rates: Dict[str, Throughput]) -> List[str]:
    """Names by precision, the fastest of each first."""
    return sorted(rates, key=lambda name: (PRECISIONS.index(precision_of(name)), -rates[name]['median']))


def _ratio(one: Throughput, other: Optional[Throughput]) -> str:
    return f'{ratio(one, other):.2f}' if other else ''


def draw(result: Dict[str, Any], path: str) -> None:
    """Bars for the batch nearest to 8 and the most threads of each model, the arithmetic limits as lines."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    models = list(dict.fromkeys(row['model'] for row in result['rows']))
    chosen = [min((row for row in result['rows'] if row['model'] == model),
                  key=lambda row: (-row['threads'], abs(row['batch'] - 8))) for model in models]
    figure, axes = pyplot.subplots(len(chosen), 1, figsize=(9, 4.6 * len(chosen)), squeeze=False)
    for axis, row in zip(axes[:, 0], chosen):
        names = ordered(row['rates'])[::-1]  # the first bar is at the bottom
        values = [row['rates'][name]['median'] for name in names]
        axis.barh(names, values, color=[COLORS[name.split(' ')[0]] for name in names])
        for position, value in enumerate(values):
            axis.text(value, position, f' {value:.0f}', va='center', fontsize=8)
        for (kind, limit), style in zip(row['limits'].items(), ('--', ':')):
            axis.axvline(limit['median'], color='black', linestyle=style, linewidth=1,
                         label=f'{kind} limit (GEMM alone)')
        axis.set_title(f'{row["model"]}: images/s, batch {row["batch"]}, {row["threads"]} threads', fontsize=10)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=8, loc='lower right')
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == '__main__':
    source = Path(sys.argv[1])
    found = json.loads(source.read_text(encoding='utf-8'))
    source.with_suffix('.md').write_text('\n'.join(markdown(found)) + '\n', encoding='utf-8')
    draw(found, str(source.with_suffix('.png')))
