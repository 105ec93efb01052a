# SPDX-License-Identifier: Apache-2.0
"""Compare the output of inference with stored results, image by image.

    python test_tipc/compare_results.py --gt_file='test_tipc/results/python_*_results_fp32.txt' \\
        --log_file='test_tipc/output/ViT/whole_infer/python_infer_*.log' --atol=1e-3 --rtol=1e-3

Stored results are lines ``<image><tab>[class id, probability]``, or the table ``predictions.csv`` that -pred writes.
A log holds ``image_name: <image>, class_id: 3, prob: 0.8984`` lines, lines like the stored ones, or one of these
before each of those, with more digits. Images are matched by path, else by file name. fp32, fp16, bf16 or
int8 in a file's name selects the stored file that a log is compared with; fp32 is the default.

The comparison fails when a class differs, a probability differs by more than atol + rtol x the stored one (and half of
its last digit), an image is missing, or there is nothing to compare. Another class whose stored probability equals the
best within the same limits is accepted.
"""
from __future__ import annotations

import csv
import glob
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.errors import InputError, run

PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8')
Truth = Dict[str, Dict[int, float]]  # image -> {class id: probability}, the best class first
Record = Tuple[str, int, str]        # image, class id, probability as it is written

_PRINTED = re.compile(r'image_name: (.+), class_id: (\d+), prob: (\S+)$')


def precision_of(path: str) -> str:
    """The precision in a file's name; fp32 by default."""
    return next((word for word in PRECISIONS if word in os.path.basename(path)), 'fp32')


def read_truth(path: str) -> Truth:
    """The stored results of a file; InputError for a line that is none."""
    truth: Truth = {}
    with open(path, encoding='utf-8', newline='') as file:
        if path.endswith('.csv'):
            for row in csv.DictReader(file):
                try:
                    classes = map(int, row['top5_class_ids'].split())
                    truth[os.path.normpath(row['path'])] = dict(zip(classes, map(float, row['top5_probs'].split())))
                except (KeyError, ValueError, AttributeError):
                    raise InputError(f'{path}: found {row}, expected the columns that -pred writes') from None
        else:
            for number, line in enumerate(file, 1):
                record = _pair(line)
                if record is None:
                    raise InputError(f'{path}, line {number}: found {line.strip()!r}, '
                                     'expected <image><tab>[class id, probability]')
                truth[os.path.normpath(record[0])] = {record[1]: float(record[2])}
    if not truth:
        raise InputError(f'{path}: holds no results')
    return truth


def read_log(path: str) -> List[Record]:
    """The predictions in a log, in order."""
    printed: List[Record] = []
    pairs: List[Record] = []
    previous: Optional[Record] = None  # the record of the previous line
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            match = _PRINTED.search(line)
            if match:
                record = (match[1], int(match[2]), match[3])
                if previous and previous[0] == os.path.basename(record[0]):
                    if previous[1] != record[1]:
                        raise InputError(f'{record[0]}: found class {previous[1]} in a line and {record[1]} in the '
                                         'next')
                    record = (*record[:2], previous[2])
                printed.append(record)
            previous = _pair(line)
            if previous:
                pairs.append(previous)
    return printed or pairs


def _pair(line: str) -> Optional[Record]:
    """The record of a ``<image><tab>[class id, probability]`` line, None for any other line."""
    image, tab, values = line.rstrip('\r\n').partition('\t')
    try:
        class_id, probability = json.loads(values, parse_float=str, parse_constant=str) if tab else ()
        return image, int(class_id), str(probability)
    except (ValueError, TypeError):
        return None


def half_a_digit(number: str) -> float:
    """Half of the last digit of a number as written: 0.00005 for 0.8984."""
    mantissa, _, exponent = number.lower().partition('e')
    return 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition('.')[2]))


def matched(truth: Truth, records: Sequence[Record]) -> Dict[str, Record]:
    """{stored image: its record}; InputError when one has none, or when its file name is ambiguous."""
    by_name: Dict[str, List[str]] = {}
    for image in truth:
        by_name.setdefault(os.path.basename(image), []).append(image)
    found: Dict[str, Record] = {}
    for record in records:
        image = os.path.normpath(record[0])
        same = [image] if image in truth else by_name.get(os.path.basename(image), [])
        if len(same) > 1:
            raise InputError(f'{image}: {len(same)} stored images have this file name, expected one')
        if same:
            found.setdefault(same[0], record)
    missing = [image for image in truth if image not in found]
    if missing:
        raise InputError(f'{len(missing)} of {len(truth)} stored images are not in the log, the first: {missing[0]}')
    return found


def differences(truth: Truth, found: Dict[str, Record], atol: float, rtol: float) -> List[str]:
    """One line for each image whose prediction differs from the stored one."""
    wrong = []
    for image, stored in truth.items():
        _, class_id, written = found[image]
        best_class, best = next(iter(stored.items()))
        expected = stored.get(class_id, math.nan)
        try:
            probability, allowed = float(written), atol + rtol * abs(best) + half_a_digit(written)
        except ValueError:
            raise InputError(f'{image}: found probability {written}, expected a number') from None
        if not (abs(probability - expected) <= allowed and best - expected <= allowed):
            wrong.append(f'{image}: found class {class_id}, probability {written}, '
                         f'expected class {best_class}, probability {best:.6f} within {allowed:g}')
    return wrong


def compare(truths: Dict[str, Tuple[str, Truth]], log: str, atol: float, rtol: float, fraction: float = 1.0) -> str:
    """Compare a log with the stored results of its precision; returns the line that says it passed.

    At least ``fraction`` of the images must have the stored prediction.
    """
    kind = precision_of(log)
    if kind not in truths and 'fp32' not in truths:
        raise InputError(f'{log}: --gt_file has results for {", ".join(truths)}, expected {kind} or fp32')
    name, truth = truths.get(kind) or truths['fp32']
    try:
        wrong = differences(truth, matched(truth, read_log(log)), atol, rtol)
    except InputError as error:
        raise InputError(f'{log} against {name}: {error}') from None
    for line in wrong:
        print(line)
    if len(truth) - len(wrong) < fraction * len(truth):
        raise InputError(f'The results of {log} and the results of {name} are inconsistent! ({len(wrong)} of '
                         f'{len(truth)} images, the first: {wrong[0]})')
    return (f'Assert allclose passed! The results of {log} and {name} are consistent! '
            f'({len(truth) - len(wrong)} of {len(truth)} images)')


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.flag('gt_file', help='stored results; may hold * and ?', metavar='FILE')
    parser.flag('log_file', help='logs of inference; may hold * and ?', metavar='FILE')
    parser.flag('atol', type=float, default=1e-3, help='absolute tolerance of a probability (default 1e-3)')
    parser.flag('rtol', type=float, default=1e-3, help='relative tolerance (default 1e-3)')
    parser.flag('fraction', 'share', type=float, default=1.0, help='of images that must be consistent; default 1')
    args = parser.parse_args(arguments)
    truths: Dict[str, Tuple[str, Truth]] = {}
    for path in _matches(args, 'gt_file'):
        first = truths.setdefault(precision_of(path), (path, read_truth(path)))[0]
        if first != path:
            raise InputError(f'--gt_file: {first} and {path} both hold {precision_of(path)} results, expected one file')
    for log in _matches(args, 'log_file'):
        print(compare(truths, log, args.atol, args.rtol, args.fraction))
    return 0


def _matches(args: Any, flag: str) -> List[str]:
    pattern = getattr(args, flag)
    found = sorted(glob.glob(pattern or ''))
    if not found:
        raise InputError(f'--{flag}: {pattern or "nothing given"}: no such file, so nothing was compared')
    return found


if __name__ == '__main__':
    run(main)
