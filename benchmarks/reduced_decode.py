# SPDX-License-Identifier: Apache-2.0
"""Training images of 4000x3000 pixels per second, decoded whole and with DATA.REDUCED_DECODE, on one core.

    python benchmarks/reduced_decode.py

From the JPEG file to the normalized float32 array of 224x224: random resized crop, flip, rand-m9-mstd0.5-inc1 and
random erasing 0.25, as in data_pipeline.py. Both decode the same files for the same crops, in turn. The result is
written to benchmarks/results/reduced_decode.json.
"""
from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

if __name__ == '__main__':  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.data_pipeline import CROP_PCT, ERASE, MEAN, RECIPE, SIZE, STD, make_images
from CaiT.cli import Parser
from CaiT.errors import run
from CaiT.files import write_json
from CaiT.tools.benchmark import processor, versions

RESULT = Path(__file__).resolve().parent / 'results' / 'reduced_decode.json'
WIDTH, HEIGHT = 4000, 3000


def measure(paths: Sequence[str], rounds: int) -> Dict[str, List[float]]:
    """Images per second of each round, 'whole' and 'reduced'; a round is a crop of each image."""
    import cv2
    import numpy as np

    from CaiT.data.train_transforms import TrainOptions, train_transform
    from CaiT.data.transforms import DataConfig
    cv2.setNumThreads(0)
    data = DataConfig(SIZE, CROP_PCT, 'bicubic', MEAN, STD)
    options = TrainOptions(auto_augment=RECIPE, erase_prob=ERASE)
    transforms = {'whole': train_transform(data, options, False), 'reduced': train_transform(data, options, True)}
    found: Dict[str, List[float]] = {name: [] for name in transforms}
    for number in range(rounds + 1):
        for name, transform in transforms.items():
            start = time.perf_counter()
            for index, path in enumerate(paths):
                transform(path, np.random.Generator(np.random.PCG64([number, index])))
            if number:  # the first is a warm-up
                found[name].append(len(paths) / (time.perf_counter() - start))
    return found


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = Parser(__doc__)
    parser.flag('count', type=int, default=6, help='image files')
    parser.flag('rounds', type=int, default=9, help='rounds of both decoders (default 9)')
    parser.flag('output', default=str(RESULT), metavar='FILE', help='JSON file to write')
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), flags.count, WIDTH, HEIGHT)
        paths = sorted(map(str, Path(folder).iterdir()))
        size = statistics.mean(map(os.path.getsize, paths))
        found = measure(paths, flags.rounds)
    result: Dict[str, Any] = {
        'what': __doc__.splitlines()[0], 'processor': processor(), 'images': flags.count, 'mean bytes': round(size),
        'versions': versions('opencv-python-headless', 'numpy'), 'load average': round(os.getloadavg()[0], 1),
        'images/s': {name: round(statistics.median(speeds), 1) for name, speeds in found.items()},
        'rounds': {name: [round(speed, 1) for speed in speeds] for name, speeds in found.items()},
        'ratio': round(statistics.median(a / b for a, b in zip(found['reduced'], found['whole'])), 2)}
    write_json(flags.output, result)
    print(f'{result["images/s"]}, ratio {result["ratio"]}; written to {flags.output}')


if __name__ == '__main__':
    run(main)
