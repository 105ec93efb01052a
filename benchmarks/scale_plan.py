# SPDX-License-Identifier: Apache-2.0
"""What a training run costs beside the network on 64 and on 1,000 devices: the table of docs/scale.md.

    python benchmarks/scale_plan.py --measure    measures the constants and adds them to benchmarks/results/scale.json
    python benchmarks/scale_plan.py              computes the table from the constants in that file

Nothing here ran on more than one machine. Counts (steps, opens, bytes, log lines) follow from the code; the groups that
parquet files are read in are counted by simulating the samplers of all ranks for a few steps; seconds are those of one
process on the machine that measured the constants, of its own disk, with the number of bytes scaled.
"""
from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

if __name__ == '__main__':  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from CaiT.cli import Parser
from CaiT.data.sampler import EvalSampler, TrainSampler
from CaiT.errors import InputError, run
from CaiT.files import write_json

RESULT = Path(__file__).resolve().parent / 'results' / 'scale.json'
IMAGE_BYTES, ROW_GROUP = 110 * 1024, 100
SHARDS = {'1.28M': (1_280_000, 1000), '14M': (14_000_000, 2000)}  # images, tars
VAL_IMAGES, EPOCHS, WORKERS, REPORT_FREQ, MAX_OPEN = 50_000, 400, 2, 100, 512
MODEL, MEASURED_MODEL = 'cait_s24_224', 'cait_xxs24_224'
SIMULATED_STEPS = 3
GB, TB = 1e9, 1e12


class Case(NamedTuple):
    devices: int
    batch: int  # per device
    size: str

    def __str__(self) -> str:
        return f'{self.devices:,} devices x {self.batch}, {self.size}'


CASES = (Case(64, 16, '1.28M'), Case(1000, 4, '1.28M'), Case(1000, 4, '14M'))


def parameters(model: str) -> int:
    from CaiT.models.registry import create_model
    return sum(int(np.prod(one.shape)) for one in create_model(model).parameters())


def state_bytes(count: int) -> int:
    """Of a checkpoint: weights, average and two moments in the state, the weights once more beside it."""
    return 4 * count * 5


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def checkpoint_speed() -> Dict[str, float]:
    """Bytes per second of writing a checkpoint of MEASURED_MODEL (with fsync and checksum) and of reading it."""
    from CaiT.training import checkpoint
    count = parameters(MEASURED_MODEL)
    rng = np.random.default_rng(0)
    arrays = [{str(part): rng.standard_normal(count // 100, np.float32) for part in range(100)} for _ in range(4)]
    state = {'model': arrays[0], 'ema': arrays[1],
             'optimizer': {f'{moment}{key}': value for moment in (2, 3) for key, value in arrays[moment].items()}}
    with tempfile.TemporaryDirectory() as folder:
        writing = [timed(lambda: checkpoint.write(folder, 'last', state)) for _ in range(3)]
        reading = [timed(lambda: checkpoint.read(Path(folder) / 'last.pdstate')) for _ in range(3)]
        written = sum(path.stat().st_size for path in Path(folder).iterdir())
        size = (Path(folder) / 'last.pdstate').stat().st_size
    return {'written bytes': written, 'write seconds': float(np.median(writing)), 'state bytes': size,
            'read seconds': float(np.median(reading))}


def measure() -> Dict[str, Any]:
    """The constants that need a measurement."""
    found: Dict[str, Any] = {'checkpoint': checkpoint_speed(), 'order of an epoch': {}}
    for size, (images, _) in SHARDS.items():
        batches = iter(TrainSampler(images, 1, seed=0, rank=7, world_size=1024))
        found['order of an epoch'][size] = {'seconds': timed(partial(next, batches)), 'bytes': 3 * 8 * images}
    found['parameters'] = {MODEL: parameters(MODEL)}
    return found


def opened_tars(images: float, shards: int) -> float:
    """Expected opens by a worker that reads ``images`` random images and keeps the first MAX_OPEN tars open."""
    still_open = min(shards, MAX_OPEN)
    before_limit = sum(shards / (shards - found) for found in range(still_open)) if still_open < shards else np.inf
    if images <= before_limit:
        return shards * (1 - (1 - 1 / shards) ** images)
    return still_open + (images - before_limit) * (shards - still_open) / shards


def row_groups(case: Case, images: int, block: int) -> float:
    """Row groups that a device reads for a step, by the samplers of some ranks. ``block`` 0: in random order."""
    counts: List[int] = []
    for rank in range(0, case.devices, max(1, case.devices // 4)):
        batches = iter(TrainSampler(images, case.batch, 0, rank=rank, world_size=case.devices, block=block))
        counts += [len({index // ROW_GROUP for index, _ in next(batches)}) for _ in range(SIMULATED_STEPS)]
    return float(np.mean(counts))


def row(results: Dict[str, Any], kind: str, size: str) -> Dict[str, Any]:
    """A row of scale.py; InputError when it was not measured."""
    for one in results['rows']:
        if (one['reader'], one['kind'], one['size']) == ('ours', kind, size):
            return one
    raise InputError(f'{RESULT}: found no row of {kind}, {size}; measure it with benchmarks/scale.py')


def column(results: Dict[str, Any], case: Case) -> Dict[str, str]:
    """What one case costs, each with its unit."""
    constants = results['constants']
    images, shards = SHARDS[case.size]
    sampler = TrainSampler(images, case.batch, 0, world_size=case.devices)
    steps, used = len(sampler), images - sampler.left_out
    workers = case.devices * WORKERS
    read = used * IMAGE_BYTES
    group = ROW_GROUP * IMAGE_BYTES
    checkpoint_bytes = state_bytes(constants['parameters'][MODEL])
    speed = constants['checkpoint']
    write = checkpoint_bytes / speed['written bytes'] * speed['write seconds']
    state = checkpoint_bytes * 4 / 5
    loading = state / speed['state bytes'] * speed['read seconds']
    tars, lists = row(results, 'tar', case.size), row(results, 'list', case.size)
    report = min(REPORT_FREQ, max(1, steps // 10))
    val = [len(EvalSampler(VAL_IMAGES, 1, rank, case.devices)) for rank in (0, case.devices - 1)]
    order = constants['order of an epoch'][case.size]
    return {
        'steps of an epoch; images left out of it': f'{steps:,}; {sampler.left_out:,}',
        'files opened in an epoch, lists': f'{used:,}',
        f'files opened in the first epoch, in a later one; 1,000 or 2,000 tars ({MAX_OPEN} stay open in each of '
        f'{WORKERS} workers)': f'{workers * opened_tars(used / workers, shards):,.0f}; '
                               f'{used * max(0, shards - MAX_OPEN) / shards:,.0f}',
        'stat calls at the start, tars': f'{case.devices * shards:,}',
        'read in an epoch, lists and tars': f'{read / GB:,.0f} GB ({read / case.devices / GB:.2f} GB by a device)',
        'read in an epoch, parquet in random order':
            f'{steps * case.devices * row_groups(case, images, 0) * group / TB:,.0f} TB',
        'read in an epoch, parquet with block:100':
            f'{steps * case.devices * row_groups(case, images, ROW_GROUP) * group / TB:,.1f} TB',
        'read at the start: list files; indexes of tars':
            f'{case.devices * lists["list bytes"] / GB:,.1f} GB; {case.devices * 16 * images / GB:,.1f} GB',
        'first start with tars, once for the dataset': f'{tars["first start"]["CPU seconds"]:,.0f} CPU s',
        'order of an epoch, in each process': f'{order["seconds"]:.1f} s, {order["bytes"] / GB:.2f} GB',
        f'checkpoint of {MODEL} with average, by rank 0': f'{checkpoint_bytes / GB:.2f} GB, {write:.1f} s',
        'log lines of rank 0 in an epoch; in 400 epochs': f'{steps // report + 2}; {EPOCHS * (steps // report + 2):,}',
        'images of a device in an evaluation of 50,000': f'{val[1]} or {val[0]}' if val[0] != val[1] else f'{val[0]}',
        'restart: state read by rank 0; sent to the others; seconds of rank 0':
            f'{state / GB:.2f} GB; {(case.devices - 1) * state / GB:,.0f} GB; {loading:.1f} + '
            f'{tars["later start"]["seconds"]:.1f} (index) + {order["seconds"]:.1f} (order)',
        'lost by a kill at worst, SAVE_STEPS 0': f'an epoch ({steps:,} steps)'}


def table(results: Dict[str, Any]) -> List[str]:
    columns = [column(results, case) for case in CASES]
    lines = ['| | ' + ' | '.join(map(str, CASES)) + ' |', '|---|' + '--:|' * len(CASES)]
    lines += [f'| {name} | ' + ' | '.join(one[name] for one in columns) + ' |' for name in columns[0]]
    return lines


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.switch('measure', help='measure the constants')
    parser.flag('results', type=Path, default=RESULT, help='the file of benchmarks/scale.py')
    args = parser.parse_args(argv)
    if not args.results.is_file():
        raise InputError(f'--results {args.results}: no such file; write it with benchmarks/scale.py')
    results = json.loads(args.results.read_text(encoding='utf-8'))
    if args.measure:
        results['constants'] = measure()
        write_json(args.results, results)
    print('\n'.join(table(results)))
    return 0


if __name__ == '__main__':
    run(main)
