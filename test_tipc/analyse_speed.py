# SPDX-License-Identifier: Apache-2.0
"""Images per second from a training log, by the rule of PaddlePaddle/benchmark's analysis script.

    python test_tipc/analyse_speed.py --filename=train.log --speed_log_file=speed.json --model_name=CaiT_bs64_fp32_DP \\
        --base_batch_size=64 --run_mode=DP --fp_item=fp32 --keyword=ips: --skip_steps=2 --device_num=N1C1 \\
        --speed_unit=images/s --convergence_key=loss:

In each line with the keyword as one of its blank-separated words, the next word is the number. The first
skip_steps numbers are dropped, then the largest and the smallest 5 % (at least 5 of each); the rest is averaged and
multiplied by the cards. Fewer than skip_steps + 11 numbers are too few. The result is one JSON object.
"""
from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import List, Optional, Sequence

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.errors import InputError, run
from CaiT.files import atomic_write

MIN_NUMBERS = 11  # that must remain after skip_steps
TRIM, MIN_TRIMMED = 0.05, 5


def numbers(lines: Sequence[str], keyword: str, suffix: str = '') -> List[float]:
    """The number after ``keyword`` in each line that has it as a word; ``suffix`` characters after it are removed."""
    found = []
    for line in lines:
        words = line.split()
        if keyword in words[:-1]:
            text = words[words.index(keyword) + 1].rstrip(suffix)
            try:
                found.append(float(text))
            except ValueError:
                raise InputError(f'{keyword} {text}: expected a number, in line {line.strip()!r}') from None
    return found


def speed(values: Sequence[float], skip: int, cards: int) -> float:
    """The trimmed mean of the values after the first ``skip``, times ``cards``."""
    if len(values) < skip + MIN_NUMBERS:
        raise InputError(f'too few logs printed: found {len(values)} speeds, expected at least {skip + MIN_NUMBERS}')
    ordered = sorted(values[skip:])
    count = max(int(len(ordered) * TRIM), MIN_TRIMMED)
    trimmed = ordered[count:-count]
    return sum(trimmed) / len(trimmed) * cards


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    for name, text in (('filename', 'log of the training'), ('speed_log_file', 'JSON file to write'),
                       ('model_name', 'name in the result'), ('run_mode', 'DP, for data parallel'),
                       ('fp_item', 'fp32 or another precision'), ('device_num', 'N1C1: machines and cards'),
                       ('speed_unit', 'images/s')):
        parser.flag(name, required=True, help=text)
    parser.flag('base_batch_size', type=int, required=True, help='images per process and step')
    parser.flag('keyword', default='ips:', help='word before the speed in a line (default ips:)')
    parser.flag('convergence_key', default='loss:', help='word before the loss (default loss:)')
    parser.flag('skip_steps', type=int, default=0, help='lines to leave out at the start')
    args = parser.parse_args(arguments)
    devices = re.fullmatch(r'N(\d+)C(\d+)', args.device_num)
    if not devices:
        raise InputError(f'--device_num: found {args.device_num!r}, expected N<machines>C<cards>')
    try:
        lines = Path(args.filename).read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError as error:
        raise InputError(f'--filename {args.filename}: {error.strerror}') from None
    losses = numbers(lines, args.convergence_key, suffix=',')
    result = json.dumps({
        'model_branch': os.environ.get('model_branch', ''), 'model_commit': os.environ.get('model_commit', ''),
        'model_name': args.model_name, 'batch_size': args.base_batch_size, 'fp_item': args.fp_item,
        'run_mode': args.run_mode, 'convergence_value': losses[-1] if losses else None,
        'convergence_key': args.convergence_key,
        'ips': round(speed(numbers(lines, args.keyword), args.skip_steps, int(devices[2])), 3),
        'speed_unit': args.speed_unit, 'device_num': args.device_num,
        'model_run_time': os.environ.get('model_run_time', ''), 'frame_commit': os.environ.get('frame_commit', ''),
        'frame_version': os.environ.get('frame_version', '')})
    print(result)
    with atomic_write(args.speed_log_file) as file:
        file.write(result + '\n')
    return 0


if __name__ == '__main__':
    run(main)
