# SPDX-License-Identifier: Apache-2.0
"""Images per second of one Predictor that several Python threads use at a time, for every engine.

    python benchmarks/threads.py                                  cait_xxs24_224, batch 1

For one CPU thread per stream: `direct` calls the engine below its queue of threads, `1 thread` through it (the ratio is
what safety costs a program of one thread), `2` and `4 threads` are clients of the same Predictor, with one stream and
with as many as there are cores. Contenders are measured in turn, as in CaiT/tools/benchmark.py; each thread sends an
image of its own, and its logits are compared with those that it got alone.
The result is written to benchmarks/results/threads.json.
"""
from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, List, Tuple

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)

from CaiT import runtime  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.errors import InputError, run  # noqa: E402
from CaiT.files import write_json  # noqa: E402
from CaiT.tools import benchmark  # noqa: E402

CLIENTS = (1, 2, 4)
RESULT = HERE / 'results' / 'threads.json'


def clients(predictor: Any, images: List[Any]) -> benchmark.Window:
    """A window in which each thread repeats its own image of ``images``."""
    alone = [predictor.logits(image) for image in images]

    def measured(seconds: float) -> Tuple[int, float]:
        counts, wrong = [0] * len(images), []
        start = time.perf_counter()

        def client(number: int) -> None:
            while not counts[number] or time.perf_counter() - start < seconds:
                if abs(predictor.logits(images[number]) - alone[number]).max() > 1e-4:
                    wrong.append(number)
                counts[number] += 1
        threads = [threading.Thread(target=client, args=(number,)) for number in range(len(images))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if wrong:
            raise InputError(f'{predictor.engine.graph}: {len(wrong)} of {sum(counts)} runs answered with other logits')
        return sum(counts), time.perf_counter() - start
    return measured


def direct(engine: Any, image: Any) -> benchmark.Window:
    """A window that calls the engine without its queue."""
    with engine.lanes.acquire() as lane:
        pass  # free again: nobody else asks for it while this window runs
    return benchmark.window(lambda: engine.run_all(image, lane), 1)


def measure(folder: str, backend: str, precision: str, kind: str, rounds: int, seconds: float) -> Any:
    """{contender: throughput with its ratio to `direct`} of one engine and precision."""
    import numpy as np

    from CaiT.deploy.engines import Options
    from CaiT.deploy.predictor import Predictor
    contenders = {}
    for streams in sorted({1, runtime.cores()}):
        predictor = Predictor(folder, backend, Options(precision, kind, threads=1, batch=1, streams=streams))
        random, shape = np.random.default_rng(0), (1, *predictor.input_shape)
        images = [random.standard_normal(shape, np.float32) if kind == 'float' else
                  random.integers(0, 256, shape, np.uint8) for _ in range(max(CLIENTS))]
        if streams == 1:
            contenders['direct'] = direct(predictor.engine, images[0])
        for count in CLIENTS:
            contenders[f'{streams} stream(s), {count} thread(s)'] = clients(predictor, images[:count])
    found = benchmark.round_robin(contenders, rounds, seconds)
    for name, row in found.items():
        row['against direct'] = round(benchmark.ratio(row, found['direct']), 2)
        print(f'{backend} {precision} {kind}: {name}: {row["median"]:.2f} images/s, {row["against direct"]:.2f}x')
    return found


def main(arguments: Any = None) -> None:
    parser = Parser(__doc__)
    parser.flag('model', default='cait_xxs24_224', metavar='NAME', help='model with random weights')
    parser.flag('rounds', type=int, default=9, help='windows for each contender (default 9)')
    parser.flag('seconds', type=float, default=0.5, help='length of a window (default 0.5)')
    parser.flag('output', default=str(RESULT), metavar='FILE', help='JSON file to write')
    flags = parser.parse_args(arguments)
    load, targets = os.getloadavg()[0], [one for one in benchmark.targets() if one[2] == 'float']
    with benchmark.exported(flags.model, targets) as (_, folder):
        results = {' '.join(one): measure(folder, *one, flags.rounds, flags.seconds) for one in targets}
    write_json(flags.output, {'model': flags.model, 'processor': benchmark.processor(), 'cores': runtime.cores(),
                              'load average before': round(load, 1), 'engines': results})
    print(f'written to {flags.output}')


if __name__ == '__main__':
    run(main)
