# SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint of any supported source to this project's names and layout, or to timm's.

    python -m CaiT.tools.convert_weights cait_xxs24_224.pth cait_xxs24_224.pdparams
    python -m CaiT.tools.convert_weights cait_s24_224.ckpt cait_s24_384.safetensors --model cait_s24_384
    python -m CaiT.tools.convert_weights output/best.pdparams for_timm.safetensors --to timm

Without ``--to timm`` a .safetensors has Paddle's layout too (Linear [in, out]): timm and PyTorch would take its square
matrices transposed without an error.

With ``--model`` the weights are also checked against that model and position embeddings resampled; the number of
classes is that of the file. What is known of the images of the weights (mean, std, crop) is written into the output.
The output is written only after it has been read back and found equal, bit by bit; ``--force`` replaces a file.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Dict, List, Optional

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.files import atomic_write
from CaiT.weights.fit import check_finite, fit
from CaiT.weights.load_report import LoadReport
from CaiT.weights.readers import Checkpoint, read_checkpoint
from CaiT.weights.sources import PADDLE, TORCH
from CaiT.weights.translate import rename
from CaiT.weights.writers import check_output, check_replaced, write

LAYOUTS = {'paddle': PADDLE, 'timm': TORCH}
LAYOUT_LINES = {'paddle': f"  layout: Paddle's, Linear {PADDLE}; timm and PyTorch need --to timm",
                'timm': f"  layout: PyTorch's, Linear {TORCH}, for timm and PyTorch"}


def convert(source: str, target: str, model: Optional[str] = None, to: str = 'paddle', force: bool = False,
            use_ema: bool = False, key: str = '') -> LoadReport:
    """Write the weights of ``source`` to ``target``; returns the load report.

    A file that is there already is replaced with ``force`` only. ``use_ema`` and ``key`` choose among several models in
    one file, as MODEL.USE_EMA and MODEL.CHECKPOINT_KEY do.
    """
    check_output(target, LAYOUTS[to])
    checkpoint = read_checkpoint(source, use_ema, key)
    check_replaced(target, checkpoint.path, force)
    arrays, report = rename(checkpoint, get_family(model) if model else '')
    if model:
        arrays = fit(arrays, shapes(model, arrays), report, name=model)
    else:
        report.loaded = len(arrays) - len(report.zero_filled)
    check_finite(arrays, checkpoint.path)
    with atomic_write(target, 'wb') as file:
        write(file, Path(target).suffix, arrays, LAYOUTS[to], report.data)
        file.flush()
        differing = differences(read_checkpoint(file.name), arrays)
        if differing:
            raise InputError(f'{target}: {differing[0]} read again is not what was written ({len(differing)} in all); '
                             'nothing was kept')
    return report


def get_family(model: str) -> str:
    """The family of a public name: its sources have data configs by family."""
    runtime.prepare()
    from CaiT.models.registry import get_variant
    return get_variant(model).family


def shapes(model: str, arrays: Dict[str, np.ndarray]) -> Dict[str, tuple]:
    """Parameter shapes of a model with the number of classes of ``arrays``."""
    runtime.prepare()
    from CaiT.models.registry import create_model
    head = arrays.get('head.weight')
    layer = create_model(model, num_classes=0 if head is None else head.shape[1])
    return {name: tuple(parameter.shape) for name, parameter in layer.state_dict().items()}


def differences(checkpoint: Checkpoint, arrays: Dict[str, np.ndarray]) -> List[str]:
    """Names of the arrays that differ, bit by bit, between a written checkpoint and ``arrays``."""
    written, _ = rename(checkpoint)
    return sorted(name for name in set(written) | set(arrays)
                  if name not in written or name not in arrays or written[name].dtype != arrays[name].dtype
                  or written[name].shape != arrays[name].shape or written[name].tobytes() != arrays[name].tobytes())


def main(argv: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument('input', metavar='IN', help='.pdparams, .safetensors, .pth, .ckpt or .npz')
    parser.add_argument('output', metavar='OUT', help='.pdparams or .safetensors')
    parser.flag('model', help='check and adapt the weights for this model (a public name)')
    parser.flag('to', choices=sorted(LAYOUTS), default='paddle', metavar='{paddle,timm}',
                help='paddle: Linear [in, out]; timm: [out, in], for PyTorch tools (default: paddle)')
    parser.switch('force', help='replace OUT when it exists')
    parser.switch('use_ema', help='take the moving average of the weights that a training file holds beside them')
    parser.flag('key', default='', metavar='NAME', help='which of several models in the file: model, teacher, ...')
    arguments = parser.parse_args(argv)
    report = convert(arguments.input, arguments.output, arguments.model, arguments.to, arguments.force,
                     arguments.use_ema, arguments.key)
    print('\n'.join([*report.lines(), LAYOUT_LINES[arguments.to]]))
    print(f'written and read again, equal: {arguments.output} ({os.path.getsize(arguments.output):,} bytes)')
    return 0


if __name__ == '__main__':
    errors.run(main)
