# SPDX-License-Identifier: Apache-2.0
"""Which model: accuracy, speed, memory and days of training in one table, for docs/models.md.

    python -m CaiT.tools.cost_table            print the table
    python -m CaiT.tools.cost_table --write    write it between the markers of docs/models.md
    python -m CaiT.tools.cost_table --check    exit 1 when the page has another

Days are computed, not measured: 3 · 2 · MACs (forward and backward pass, a multiply-add being two operations) times
images times epochs, divided by ``SUSTAINED`` operations per second and device. TRAIN.RECOMPUTE makes it a fourth more.
Memory is that of the recipe's comment (CaiT/tools/memory.py), speed that of benchmarks/results/cpu.json.
"""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import List, Optional

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.tools import model_table

PAGE = model_table.ROOT / 'docs/models.md'
SPEEDS = model_table.ROOT / 'benchmarks/results/cpu.json'
START, END = '<!-- cost-table:start -->', '<!-- cost-table:end -->'
IMAGES = 1_281_167  # ImageNet-1K's training set
SUSTAINED = 30e12  # operations per second of one device in training: an assumption, about a V100 with mixed precision


def days(name: str, devices: int) -> float:
    """Computed days of the recipe of this name on ``devices`` devices."""
    from CaiT.config import get_config
    config = get_config(name)
    operations = 3 * 2 * model_table.macs(name)['total'] * (1.25 if config.TRAIN.RECOMPUTE else 1)
    return operations * IMAGES * config.TRAIN.EPOCHS / (devices * SUSTAINED * 86400)


def memory(name: str) -> str:
    """GB on each device, from the comment of the recipe."""
    text = (model_table.ROOT / f'CaiT/configs/{name}.yaml').read_text(encoding='utf-8')
    return re.search(r'([\d.]+) GB on each device', text.replace('\n# ', ' ')).group(1)


def table() -> List[str]:
    """The table's lines in Markdown."""
    from CaiT.config import get_config
    from CaiT.models.registry import get_variant, list_models
    rows = json.loads(SPEEDS.read_text(encoding='utf-8'))['rows']
    speeds = {row['model']: row['rates']['ours openvino fp32']['median']
              for row in rows if (row['batch'], row['threads']) == (8, 2)}
    lines = ['| model | published top-1, % | images/s on two cores | epochs | GB per device | days on 1 / 8 devices |',
             '|---|---:|---:|---:|---:|---:|']
    for name in sorted(list_models(), key=lambda name: days(name, 1)):
        published = get_variant(name).published
        top1 = f'{published["top1"]:.2f}' if published.get('top1') else '–'
        top1 += ' (distilled)' if published.get('distilled') and published.get('top1') else ''
        speed = f'{speeds[name]:.1f}' if name in speeds else '–'
        lines.append(f'| `{name}` | {top1} | {speed} | {get_config(name).TRAIN.EPOCHS} | '
                     f'{memory(name)} | {days(name, 1):.1f} / {days(name, 8):.1f} |')
    return lines


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.switch('write', help='write the table between the markers of docs/models.md')
    parser.switch('check', help='compare the page with the table')
    options = parser.parse_args(arguments)
    runtime.prepare()
    if not (options.write or options.check):
        print('\n'.join(table()))
        return 0
    new = model_table.embed(PAGE.read_text(encoding='utf-8'), table(), PAGE, START, END)
    return model_table.update({PAGE: new}, options.write, 'cost_table')


if __name__ == '__main__':
    errors.run(main)
