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

from CaiT.cli import Parser
from CaiT.errors import run
from CaiT.report.benchmark_chart import PRECISIONS, benchmark_chart, ordered, precision_of
from CaiT.tools.benchmark import Throughput, ratio


def markdown(result: Dict[str, Any]) -> List[str]:
    """One table per model, threads and batch: images per second, and ratios to the best peer and to eager.

    The best peer is that of the same precision; of what computes on one stream also the best peer that does."""
    machine, lines = result['machine'], ['# Inference on this CPU', '']
    lines += [f'{machine["cpu"]}, {machine["cores"]} cores, {", ".join(machine["instructions"])}. Medians of '
              f'{result["rounds"]} windows of {result["seconds"]} s (fewer where one run takes longer), in '
              'turn; a ratio is the median over the windows; float32 arrays in, logits out; random weights. '
              'Windows in which the machine was slow are dropped. '
              'Versions: '
              + ', '.join(f'{k} {v}' for k, v in result['versions'].items()) + '.', '']
    for row in result['rows']:
        rates = row['rates']
        lines += [f'## {row["model"]}, batch {row["batch"]}, {row["threads"]} threads', '',
                  '| | images/s | x best peer of that precision | x best peer, both on one stream | x PyTorch eager '
                  '| fraction of the arithmetic limit |', '|---|---|---|---|---|---|']
        for name in ordered(rates):
            kind = precision_of(name)
            peers = {other: speed for other, speed in rates.items()
                     if not other.startswith('ours') and precision_of(other) == kind}
            alone = {other: speed for other, speed in peers.items() if on_one_stream(other, rates)}
            limit = row['limits'].get(kind)
            percentage = f'{100 * ratio(rates[name], limit):.0f} %' if limit else ''
            lines.append(f'| {"**" + name + "**" if name.startswith("ours") else name} | {rates[name]["median"]:.1f} | '
                         f'{_ratio(rates[name], _best(peers))} | '
                         f'{_ratio(rates[name], _best(alone)) if on_one_stream(name, rates) else ""} | '
                         f'{_ratio(rates[name], rates.get("timm PyTorch eager"))} | '
                         f'{percentage} |')
        lines += ['', 'Limit by the fastest GEMM measured in the same run: '
                  + ', '.join(f'{kind} {limit["median"]:.0f}/s' for kind, limit in row['limits'].items()) + '.']
        lines += best_against_best(rates)
        if row.get('windows dropped'):
            lines.append(f'Dropped: {row["windows dropped"]} of {row["windows"]} windows.')
        lines += [f'Absent: {name} ({why}).' for name, why in row['absent'].items()]
        lines.append('')
    return lines


def on_one_stream(name: str, rates: Dict[str, Throughput]) -> bool:
    """Whether a contender computes one batch at a time with all threads. Our OpenVINO engine chooses its number of
    streams; where it takes several, it is also measured with one, under another name."""
    one_stream = name.replace('ours openvino ', 'ours openvino 1 stream ')
    return '2 streams' not in name and (one_stream == name or '1 stream' in name or one_stream not in rates)


def best_against_best(rates: Dict[str, Throughput]) -> List[str]:
    """A line for each precision: our fastest against the fastest peer, whatever their settings, and on one stream."""
    lines = []
    for kind in PRECISIONS:
        same = {name: speed for name, speed in rates.items() if precision_of(name) == kind and 'uint8' not in name}
        alone = {name: speed for name, speed in same.items() if on_one_stream(name, rates)}
        ours, one = (_best({name: speed for name, speed in group.items() if name.startswith('ours')})
                     for group in (same, alone))
        peer, other = (_best({name: speed for name, speed in group.items() if not name.startswith('ours')})
                       for group in (same, alone))
        if ours and peer and one and other:
            lines.append(f'{kind}: best against best {ratio(ours, peer):.2f}, one stream against one '
                         f'{ratio(one, other):.2f}.')
    return lines


def _best(rates: Dict[str, Throughput]) -> Optional[Throughput]:
    return max(rates.values(), key=lambda speed: speed['median'], default=None)


def _ratio(one: Throughput, other: Optional[Throughput]) -> str:
    return f'{ratio(one, other):.2f}' if other else ''


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument('source', type=Path, help='a JSON file of against_peers.py')
    source = parser.parse_args().source
    found = json.loads(source.read_text(encoding='utf-8'))
    source.with_suffix('.md').write_text('\n'.join(markdown(found)) + '\n', encoding='utf-8')
    source.with_suffix('.svg').write_text(benchmark_chart(found), encoding='utf-8')


if __name__ == '__main__':
    run(main)
