# SPDX-License-Identifier: Apache-2.0
"""The compiled attention in OpenVINO against the attention of the exported graph.

    python benchmarks/openvino_attention.py

Contenders, in turn in one run, for each number of images, of streams and precision: 'graph' is the file as it is
exported, 'compiled' has the operation in its place, also where the engine would not use it (with AMX and several
streams). The JSON file has images per second and the ratio of the two.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List

if __name__ == '__main__':  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT import errors
from CaiT.files import write_json
from CaiT.tools import benchmark

RESULT = Path(__file__).resolve().parent / 'results' / 'openvino_attention.json'
CASES = [(1, 1), (8, 1), (8, 2)]  # images, streams


def contenders(folder: str, precision: str, threads: int, images: int, streams: int) -> benchmark.Contenders:
    import numpy as np

    from CaiT.deploy.engines import Options
    from CaiT.deploy.predictor import Predictor
    found = {}
    for name in ('graph', 'compiled'):
        predictor = Predictor(folder, 'openvino', Options(precision, 'float', threads, images))
        engine = predictor.engine
        if engine.attention.obstacle:
            raise errors.InputError(f'no compiled attention: {engine.attention.obstacle}')
        engine._is_compiled = lambda streams, name=name: name == 'compiled'
        engine.set_streams(streams)
        batch = np.random.default_rng(0).standard_normal((images, *predictor.input_shape), np.float32)
        found[name] = benchmark.window(lambda engine=engine, batch=batch: engine.run(batch), images)
    return found


def main() -> int:
    flags = benchmark.parser(__doc__)
    flags.set_defaults(models=['cait_xxs24_224', 'cait_s24_224'], rounds=11, seconds=0.4)
    flags.flag('precisions', nargs='+', default=['fp32', 'bf16', 'int8'], help='default fp32 bf16 int8')
    flags.flag('output', type=Path, default=RESULT, help='JSON file to write')
    args = benchmark.parsed(flags)
    rows: List[Dict[str, Any]] = []
    report = {'what': __doc__.splitlines()[0], **benchmark.header(args), 'rows': rows}
    for name in args.models:
        targets = [('openvino', precision, 'float') for precision in args.precisions]
        with benchmark.exported(name, targets) as (_, folder):
            for precision in args.precisions:
                for images, streams in CASES:
                    rates = benchmark.round_robin(contenders(folder, precision, args.threads[0], images, streams),
                                                  args.rounds, args.seconds)
                    ratio = benchmark.ratio(rates['compiled'], rates['graph'])
                    rows.append({'model': name, 'threads': args.threads[0], 'precision': precision, 'images': images,
                                 'streams': streams, 'rates': rates, 'ratio': ratio})
                    print(f'{name:16s} {precision} {images} images, {streams} streams: {ratio:.2f}x, ' + ', '.join(
                        f'{other} {speed["median"]:.1f}' for other, speed in rates.items()), flush=True)
                    write_json(args.output, report)
    return 0


if __name__ == '__main__':
    errors.run(main)
