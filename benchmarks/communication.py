# SPDX-License-Identifier: Apache-2.0
"""The part of a training step in which processes talk to each other, on gloo on one machine's CPU.

    python benchmarks/communication.py --ranks 2 4
    python benchmarks/communication.py --ranks 2 4 --before ../another-checkout     beside an earlier commit's

Each process trains a small CaiT on a batch in memory, as the trainer does: update, then the question whether any
process is told to stop. Every second step does the same alone: gradients are not averaged, nobody is asked. The part is
1 - (median of the steps alone / median of the steps together). Reads of the device by the host are counted as well. The
result is written to benchmarks/results/communication.json.
"""
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

ROOT = Path(os.environ.get('CAIT_CHECKOUT', Path(__file__).resolve().parents[1]))
if __name__ == '__main__':  # run by path: the package need not be installed
    sys.path[0] = str(ROOT)
    sys.path.append(str(Path(__file__).resolve().parent))

from sides import environment, sides  # noqa: E402

from CaiT import runtime  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.errors import InputError, run  # noqa: E402

RESULT = Path(__file__).resolve().parent / 'results' / 'communication.json'
MODEL = ['MODEL.NAME', 'cait', 'MODEL.EMBED_DIM', '192', 'MODEL.DEPTH', '4', 'MODEL.NUM_HEADS', '4', 'DATA.IMAGE_SIZE',
         '112', 'DATA.NUM_WORKERS', '0', 'TRAIN.EMA_DECAY', '0.9']
BATCH, WARM_UP = 4, 4


def process(steps: int) -> None:
    """One process of the job; the first prints the seconds of each step together and alone, and reads per step."""
    from CaiT.training.launchers import join_job
    join_job(os.environ)
    runtime.prepare()
    import numpy as np
    import paddle

    from CaiT.config import get_config
    from CaiT.training import distributed
    from CaiT.training.logger import RunLogger
    from CaiT.training.preemption import PreemptionSignal
    from CaiT.training.trainer import Trainer
    distributed.init('cpu')
    with tempfile.TemporaryDirectory() as folder:
        for split in ('train', 'val'):
            (Path(folder) / f'{split}_list.txt').write_text(''.join(f'{i}.jpg {i % 10}\n' for i in range(4000)))
        config = get_config(data_path=folder, batch_size=BATCH, device='cpu', num_classes=10, opts=MODEL)
        trainer = Trainer(config, Path(folder), RunLogger(Path(folder), 'log', active=False))
    trainer.model.train()
    trainer.state.step = 1  # no log line: those of every hundredth step are not measured
    rng = np.random.default_rng(distributed.rank())
    images = paddle.to_tensor(rng.standard_normal((BATCH, 3, 112, 112), dtype=np.float32))
    batch = [(images, paddle.to_tensor(rng.integers(0, 10, BATCH)))]
    preemption, no_sync, reads = PreemptionSignal(), distributed.no_sync, [0]
    asked = getattr(preemption, 'any_rank_at_intervals', preemption.any_rank)

    def counting(original: Any) -> Any:
        def counted(tensor: Any, *given: Any) -> Any:
            reads[0] += 1
            return original(tensor, *given)
        return counted
    for name in ('numpy', 'item'):
        setattr(paddle.Tensor, name, counting(getattr(paddle.Tensor, name)))
    found: Dict[str, List[float]] = {'together': [], 'alone': []}
    read = 0
    for number in range(2 * (steps + WARM_UP)):
        together = number % 2 == 0
        distributed.no_sync = no_sync if together else lambda net, enabled=True: no_sync(net, True)
        paddle.distributed.barrier()  # all begin together; its own time is not counted
        before, start = reads[0], time.perf_counter()
        trainer._update(batch)
        if together:
            asked()
        if number >= 2 * WARM_UP:
            found['together' if together else 'alone'].append(time.perf_counter() - start)
            read += (reads[0] - before) * together
    if distributed.rank() == 0:
        print(json.dumps({**found, 'reads': read / steps}), flush=True)


def measure(checkout: Path, ranks: int, steps: int) -> Dict[str, float]:
    """The figures of a job of ``ranks`` processes, started as by mpirun, with the package of ``checkout``."""
    variables = {key: value for key, value in environment(checkout).items() if not key.startswith('PADDLE_')}
    variables.update(OMPI_COMM_WORLD_SIZE=str(ranks), OMPI_COMM_WORLD_LOCAL_SIZE=str(ranks),
                     OMP_NUM_THREADS=str(max(1, runtime.cores() // ranks)))
    processes = [subprocess.Popen(
        [sys.executable, __file__, '--process', str(steps)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**variables, 'OMPI_COMM_WORLD_RANK': str(rank), 'OMPI_COMM_WORLD_LOCAL_RANK': str(rank)})
        for rank in range(ranks)]
    outputs = [process.communicate() for process in processes]
    lines = [line for line in outputs[0][0].splitlines() if line.startswith('{"together"')]
    status = max(abs(process.returncode) for process in processes)
    if status or not lines:
        raise InputError(f'{checkout}: the job of {ranks} processes ended with status {status}: '
                         f'{outputs[0][1].strip()[-500:]}')
    return figures(json.loads(lines[-1]))


def figures(found: Dict[str, Any]) -> Dict[str, float]:
    """Of the seconds of each step together and alone, and reads per step."""
    together, alone = (statistics.median(found[name]) for name in ('together', 'alone'))
    return {'ms together': round(1000 * together, 1), 'ms alone': round(1000 * alone, 1),
            'communication': round(max(0.0, 1 - alone / together), 3), 'host reads per step': round(found['reads'], 2)}


def main(arguments: Optional[List[str]] = None) -> None:
    parser = Parser(__doc__)
    parser.flag('ranks', nargs='+', type=int, default=[2, 4], help='numbers of processes (default: 2 4)')
    parser.flag('steps', type=int, default=30, help='steps to measure (default 30)')
    parser.flag('before', help='a checkout of an earlier commit', metavar='FOLDER')
    parser.flag('output', default=str(RESULT), metavar='FILE', help='JSON file to write')
    parser.flag('process', type=int, help='run as one process of a job; used by the program itself')
    flags = parser.parse_args(arguments)
    if flags.process:
        process(flags.process)
        return
    from CaiT.files import write_json
    from CaiT.tools.benchmark import processor
    results: Dict[str, Any] = {}
    for ranks in flags.ranks:
        for name, checkout in sides(flags.before, ROOT).items():
            results.setdefault(str(ranks), {})[name] = found = measure(checkout, ranks, flags.steps)
            print(f'{ranks} processes, {name}: {found}', flush=True)
    write_json(flags.output, {'processor': processor(), 'cores': runtime.cores(), 'batch per process': BATCH,
                              'model': ' '.join(MODEL), 'steps': flags.steps, 'processes': results})
    print(f'written to {flags.output}')


if __name__ == '__main__':
    run(main)
