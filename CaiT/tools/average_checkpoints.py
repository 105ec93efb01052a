# SPDX-License-Identifier: Apache-2.0
"""Average the weights of several checkpoints of one model, parameter by parameter.

    python -m CaiT.tools.average_checkpoints output/run/average.pdparams output/run/epoch_0290 output/run/epoch_0300

The checkpoints are .pdparams files, with or without extension, of equal names and shapes; SAVE.EVERY and SAVE.TOP keep
them. The mean is computed in float64 and written as float32, for -pretrained. An existing file is not replaced.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

if __name__ == '__main__' and not __package__:  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT.cli import Parser
from CaiT.errors import InputError, run
from CaiT.weights.readers import read, resolve


def average(paths: Sequence[Path]) -> Dict[str, np.ndarray]:
    """The mean of the weights in ``paths``, float32; InputError naming the file that does not fit the first."""
    sums: Dict[str, np.ndarray] = {}
    for path in paths:
        arrays = read(path)
        if not sums:
            first = path
            sums = {name: np.zeros(np.shape(array), np.float64) for name, array in arrays.items()}
        shapes = {name: np.shape(array) for name, array in arrays.items()}
        different = [name for name in {**sums, **shapes}
                     if name not in sums or shapes.get(name) != sums[name].shape]
        if different:
            found = f'shape {list(shapes[different[0]])}' if different[0] in shapes else 'nothing'
            there = f'shape {list(sums[different[0]].shape)}' if different[0] in sums else 'nothing'
            raise InputError(f'{path}: {different[0]}: found {found}, expected {there} as in {first}')
        for name, array in arrays.items():
            if np.asarray(array).dtype.kind != 'f':
                raise InputError(f'{path}: {name}: found {np.asarray(array).dtype}, expected floating-point numbers')
            with np.errstate(over='ignore'):
                finite = np.isfinite(np.asarray(array, np.float32)).all()  # as what the mean is written
            if not finite:
                raise InputError(f'{path}: {name} holds NaN or infinite numbers')
            sums[name] += array
    return {name: (total / len(paths)).astype(np.float32) for name, total in sums.items()}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.add_argument('output', help='the .pdparams file to write')
    parser.add_argument('checkpoints', nargs='+', help='two or more checkpoints')
    args = parser.parse_args(argv)
    target = Path(args.output)
    if target.suffix != '.pdparams':
        raise InputError(f'{target}: expected a name that ends in .pdparams')
    if os.path.lexists(target):
        raise InputError(f'{target}: is there already, expected the name of a new file')
    paths: List[Path] = [Path(resolve(path)) for path in args.checkpoints]
    for path in paths:
        if path.suffix != '.pdparams':
            raise InputError(f'{path}: expected a .pdparams file (others: python -m CaiT.tools.convert_weights)')
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise InputError(f'checkpoints: found {", ".join(map(str, paths))}, expected at least two different files')
    arrays = average(paths)
    from CaiT.training import checkpoint  # imports Paddle
    checkpoint.write_weights(target, arrays)
    print(f'{target}: the mean of {len(paths)} checkpoints, {len(arrays)} parameters; use it with -pretrained={target}')
    return 0


if __name__ == '__main__':
    run(main)
