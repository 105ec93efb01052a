#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How the memory of this process grows over training steps and over inferences, both with workers: MB per 1,000.

    python tests/faults/memory_slopes.py training --count 5000
    python tests/faults/memory_slopes.py infer --count 20000

The slope is that of a line through the resident memory after the first third, when caches are full. The exit status
is 1 when it is above --limit.

Seen to fail: with --weakened every batch is referred to for ever (by monkeypatching in this process).
"""
from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

Samples = List[Tuple[int, float]]  # (count, resident MB)
leaked: List[Any] = []


def resident() -> float:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2 ** 20


def training(args: argparse.Namespace, folder: Path) -> Samples:
    """Mixup, EMA and repeated augmentation, two workers; a sample after each epoch of 100 steps."""
    from CaiT.training import jobs
    from tests.training.conftest import make_stripes, small_config
    stripes, steps, samples = make_stripes(folder / 'stripes', (400, 8)), 100, []

    def refresher(_: Path) -> Any:
        def after_epoch(finished: bool = False) -> str:
            if args.weakened:
                leaked.append(np.ones((steps, 4, 3, 16, 16)))
            if not finished:
                samples.append(((len(samples) + 1) * steps, resident()))
            return ''
        return after_epoch
    jobs.train(small_config(stripes, 'TRAIN.EMA_DECAY', 0.9, 'AUG.MIXUP', 0.8, 'AUG.REPEATS', 3, 'DATA.NUM_WORKERS', 2,
                            'VALIDATE_FREQ', 10, 'REPORT_FREQ', steps, epochs=-(-args.count // steps),
                            output_dir=str(folder / 'run')), refresher)
    return samples


def infer(args: argparse.Namespace, folder: Path) -> Samples:
    """One Predictor with two workers, on images of several sizes."""
    from PIL import Image

    from CaiT.data.transforms import DataConfig
    from CaiT.deploy import parity
    from CaiT.deploy.engines import Options
    from CaiT.deploy.export import export
    from CaiT.deploy.predictor import Predictor
    from tests.models.small import randomized, small_model
    model = small_model('cait_xxs24_224', randomized, image_size=32, num_classes=10, patch_size=8, embed_dim=48,
                        num_heads=4)
    data = DataConfig(32, 1.0, 'bicubic', (0.5,) * 3, (0.5,) * 3)
    export(model, folder / 'model', 'x', data, parity.synthetic(data, 4), {'file': 'w', 'sha256': ''},
           [('paddle', 'fp32', 'float')])
    paths = []
    for number in range(200):
        paths.append(str(folder / f'{number}.png'))
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (30 + number % 40, 50, 3), dtype=np.uint8)).save(paths[-1])
    samples: Samples = []
    predictor = Predictor(str(folder / 'model'), 'paddle', Options(threads=1))
    for number, prediction in enumerate(predictor.predict((paths * (1 + args.count // 200))[:args.count], 5, 2), 1):
        if args.weakened:
            leaked.append((prediction, np.ones(3000)))
        if number % 200 == 0:
            samples.append((number, resident()))
    return samples


def slope(samples: Samples) -> float:
    """MB per 1,000 of the least-squares line through the last two thirds."""
    count, memory = np.array(samples[len(samples) // 3:]).T
    return float(np.polyfit(count / 1000, memory, 1)[0])


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument('job', choices=('training', 'infer'))
    flags.add_argument('--count', type=int, default=5000)
    flags.add_argument('--limit', type=float, default=2.0, help='MB per 1,000')
    flags.add_argument('--weakened', action='store_true')
    args = flags.parse_args()
    from CaiT import runtime
    runtime.prepare()
    with tempfile.TemporaryDirectory(prefix='memory-') as folder:
        samples = {'training': training, 'infer': infer}[args.job](args, Path(folder))
    grown = slope(samples)
    print(f'{args.job}: {samples[-1][0]} {"steps" if args.job == "training" else "images"}, {samples[0][1]:.0f} MB to '
          f'{samples[-1][1]:.0f} MB, slope {grown:+.2f} MB per 1,000')
    return 1 if grown > args.limit else 0


if __name__ == '__main__':
    sys.exit(main())
