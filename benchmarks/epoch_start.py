# SPDX-License-Identifier: Apache-2.0
"""What an epoch costs beside its batches: the seconds from its begin to the first batch, and from the last to its end.

    python benchmarks/epoch_start.py
    python benchmarks/epoch_start.py --before ../another-checkout     beside an earlier commit's

Images are zeros, so that loading them takes no time. Workers are forked from a process with and without 4 GB of memory,
which it writes to in each epoch, as training does to weights. Medians of --epochs epochs after the first. The result is
written to benchmarks/results/epoch_start.json.
"""
from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

ROOT = Path(os.environ.get('CAIT_CHECKOUT', Path(__file__).resolve().parents[1]))
if __name__ == '__main__':  # run by path: the package need not be installed
    sys.path[0] = str(ROOT)
    sys.path.append(str(Path(__file__).resolve().parent))

from sides import measured_in, sides  # noqa: E402

from CaiT import runtime  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.errors import run  # noqa: E402

RESULT = Path(__file__).resolve().parent / 'results' / 'epoch_start.json'
IMAGES, BATCH = 256, 8
CASES = ((2, 0), (8, 0), (2, 4))  # workers, GB


class Zeros:
    """A dataset of images that take no time."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, key: Any) -> Any:
        import numpy as np
        return np.zeros((3, 224, 224), np.float32), np.int64(0)


def process(workers: int, gigabytes: int, epochs: int) -> Dict[str, float]:
    """The figures of one process."""
    runtime.prepare()
    import numpy as np

    from CaiT.data.loader import build_loader
    from CaiT.data.sampler import TrainSampler
    memory = np.ones(gigabytes << 27)
    sampler = TrainSampler(IMAGES, BATCH, seed=0)
    loader = build_loader(Zeros(), sampler, workers, True)
    starts: List[float] = []
    ends: List[float] = []
    for epoch in range(epochs + 1):
        sampler.set_epoch(epoch)
        begun = time.perf_counter()
        for step, _ in enumerate(loader):
            last = time.perf_counter()
            if step == 0:
                starts.append(last - begun)
        ends.append(time.perf_counter() - last)
        memory += 1
    start, end = (1000 * statistics.median(found[1:]) for found in (starts, ends))
    return {'ms to the first batch': round(start, 1), 'ms after the last': round(end, 1), 'ms': round(start + end, 1)}


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = Parser(__doc__)
    parser.flag('epochs', type=int, default=9, help='epochs to measure (default 9)')
    parser.flag('before', help='a checkout of an earlier commit', metavar='FOLDER')
    parser.flag('output', default=str(RESULT), metavar='FILE', help='JSON file to write')
    parser.flag('process', type=int, nargs=2, help='measure in this process; used by the program itself')
    flags = parser.parse_args(argv)
    if flags.process:
        print(json.dumps(process(*flags.process, flags.epochs)), flush=True)
        return
    from CaiT.files import write_json
    from CaiT.tools.benchmark import processor, versions
    results: Dict[str, Any] = {}
    for workers, gigabytes in CASES:
        case = f'{workers} workers, {gigabytes} GB'
        for name, checkout in sides(flags.before, ROOT).items():
            results.setdefault(case, {})[name] = found = measured_in(
                checkout, __file__, ['--process', str(workers), str(gigabytes), '--epochs', str(flags.epochs)])
            print(f'{case}, {name}: {found}', flush=True)
    write_json(flags.output, {'what': __doc__.splitlines()[0], 'processor': processor(), 'cores': runtime.cores(),
                              'versions': versions('paddlepaddle'), 'epochs': flags.epochs,
                              'results': results})
    print(f'written to {flags.output}')


if __name__ == '__main__':
    run(main)
