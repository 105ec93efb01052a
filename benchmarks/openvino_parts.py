# SPDX-License-Identifier: Apache-2.0
"""Batches of 2 to 7 images on OpenVINO, whose models have a fixed batch size: padded, or in parts of other sizes.

    python benchmarks/openvino_parts.py

Contenders, in turn in one run: 'padded' to parts of 4 (of 8 on one thread), as for 8 images; 'even' parts, one for each
stream; 'whole' on one stream with all threads. The JSON file has images per second, the ratio of each to 'padded', the
seconds of compiling a model for one more size, with and without the cache, and its memory.
"""
from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Dict, List

if __name__ == '__main__':  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.process_memory import status
from CaiT import errors
from CaiT.files import write_json
from CaiT.tools import benchmark

RESULT = Path(__file__).resolve().parent / 'results' / 'openvino_parts.json'
MODELS = ('cait_xxs24_224', 'deit_tiny_patch16_224')


def contenders(folder: str, precision: str, threads: int, images: int) -> benchmark.Contenders:
    import numpy as np

    from CaiT.deploy.engines import Options
    from CaiT.deploy.engines.openvino_engine import Plan
    from CaiT.deploy.predictor import Predictor
    found = {}
    for name in ('padded', 'even', 'whole'):
        predictor = Predictor(folder, 'openvino', Options(precision, 'float', threads))
        engine = predictor.engine
        plans = {'padded': Plan(engine.part, engine.streams), 'whole': Plan(images, 1),
                 'even': Plan(-(-images // engine.streams), engine.streams)}
        if plans[name] in [plans[other] for other in found]:
            continue
        engine._plan = lambda count, plan=plans[name]: plan
        batch = np.random.default_rng(0).standard_normal((images, *predictor.input_shape), np.float32)
        found[name] = benchmark.window(lambda engine=engine, batch=batch: engine.run(batch), images)
    return found


def compiling(folder: str) -> Dict[str, float]:
    """Seconds of a first answer at one more batch size, and the memory that its model takes."""
    import numpy as np

    from CaiT.deploy.engines import Options
    from CaiT.deploy.predictor import Predictor
    costs: Dict[str, float] = {}
    for name in ('seconds', 'seconds from the cache'):
        predictor = Predictor(folder, 'openvino', Options('fp32', 'float', 2))
        for images in (8, 5):
            batch = np.zeros((images, *predictor.input_shape), np.float32)
            before, start = status('VmRSS'), time.perf_counter()
            predictor.engine.run(batch)
            costs.update({name: time.perf_counter() - start, 'MB': status('VmRSS') - before})
    return costs


def main() -> int:
    flags = benchmark.parser(__doc__)
    flags.set_defaults(models=list(MODELS), batches=[2, 3, 4, 5, 6, 7], threads=[2, 1], rounds=7, seconds=0.3)
    flags.flag('precisions', nargs='+', default=['bf16', 'fp32'], help='default bf16 fp32')
    flags.flag('output', type=Path, default=RESULT, help='JSON file to write')
    args = benchmark.parsed(flags)
    rows: List[Dict[str, Any]] = []
    report = {'what': __doc__.splitlines()[0], **benchmark.header(args), 'rows': rows, 'another size': {}}
    for name in args.models:
        targets = [('openvino', precision, 'float') for precision in args.precisions]
        with benchmark.exported(name, targets) as (_, folder):
            report['another size'][name] = compiling(folder)
            for threads in args.threads:
                for precision in args.precisions:
                    for images in args.batches:
                        rates = benchmark.round_robin(contenders(folder, precision, threads, images), args.rounds,
                                                      args.seconds)
                        ratios = {other: benchmark.ratio(rates[other], rates['padded']) for other in rates}
                        rows.append({'model': name, 'threads': threads, 'precision': precision, 'images': images,
                                     'rates': rates, 'ratios': ratios})
                        print(f'{name:24s} {threads} threads {precision} {images} images  ', ', '.join(
                            f'{other} {speed["median"]:.1f} ({ratios[other]:.2f})' for other, speed in rates.items()),
                            flush=True)
                        write_json(args.output, report)
    print(report['another size'])
    return 0


if __name__ == '__main__':
    errors.run(main)
