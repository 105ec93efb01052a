# SPDX-License-Identifier: Apache-2.0
"""The results of against_peers.py as Markdown tables and as bar charts.

    python benchmarks/chart.py benchmarks/results/cpu.json       writes cpu.md and cpu.svg
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from CaiT.report.benchmark_chart import benchmark_chart, ordered, precision_of
from CaiT.tools.benchmark import Throughput, ratio


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


def _ratio(one: Throughput, other: Optional[Throughput]) -> str:
    return f'{ratio(one, other):.2f}' if other else ''


if __name__ == '__main__':
    source = Path(sys.argv[1])
    found = json.loads(source.read_text(encoding='utf-8'))
    source.with_suffix('.md').write_text('\n'.join(markdown(found)) + '\n', encoding='utf-8')
    source.with_suffix('.svg').write_text(benchmark_chart(found), encoding='utf-8')
