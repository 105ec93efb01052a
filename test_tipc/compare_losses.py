# SPDX-License-Identifier: Apache-2.0
"""Compare the losses in two training logs: all must be equal as printed.

    python test_tipc/compare_losses.py --dynamic=norm_train.log --static=to_static_train.log

Reads the ``[Train][Epoch 1/2][Iter: 0/4] …, loss: 2.30259, …`` lines of both logs.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.errors import InputError, run

_LINE = re.compile(r'\[Epoch (\d+)/\d+\]\[Iter: (\d+)/\d+\].* loss: ([^ ,]+),')


def losses(path: str) -> Dict[Tuple[int, int], str]:
    """{(epoch, step): loss as printed}; InputError when there is none."""
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            found = {(int(epoch), int(step)): loss for epoch, step, loss in _LINE.findall(file.read())}
    except OSError as error:
        raise InputError(f'{path}: {error.strerror}') from None
    if not found:
        raise InputError(f'{path}: reports no loss, so nothing was compared')
    return found


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.flag('dynamic', required=True, metavar='LOG', help='log of the dynamic training')
    parser.flag('static', required=True, metavar='LOG', help='log of the training compiled to a static graph')
    args = parser.parse_args(arguments)
    dynamic, static = losses(args.dynamic), losses(args.static)
    print('epoch  step  dynamic  static')
    for position in sorted({*dynamic, *static}):
        print('{:5d}  {:4d}  {}  {}'.format(*position, dynamic.get(position, '-'), static.get(position, '-')))
    differing = sorted(position for position in {*dynamic, *static} if dynamic.get(position) != static.get(position))
    if differing:
        epoch, step = differing[0]
        raise InputError(f'{len(differing)} of {len(dynamic)} losses differ, the first in epoch {epoch}, step {step}')
    print(f'all {len(dynamic)} losses are the same')
    return 0


if __name__ == '__main__':
    run(main)
