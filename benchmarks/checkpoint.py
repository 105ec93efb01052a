# SPDX-License-Identifier: Apache-2.0
"""What the checkpoint of the largest model costs: bytes on the disk, seconds, memory above the state itself.

    python benchmarks/checkpoint.py
    python benchmarks/checkpoint.py --before ../another-checkout     beside an earlier commit's

The state is that of training a model with AdamW and a moving average: weights, average and two moments in float32,
random numbers of the model's shapes. A process of its own writes it as the trainer does at the end of the best epoch,
``best`` and ``last``; another one reads ``last``. It needs the state twice in memory, and on the disk up to 2.5 times.
The result is written to benchmarks/results/checkpoint.json.
"""
from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

ROOT = Path(os.environ.get('CAIT_CHECKOUT', Path(__file__).resolve().parents[1]))
if __name__ == '__main__':  # run by path: the package need not be installed
    sys.path[0] = str(ROOT)
    sys.path.append(str(Path(__file__).resolve().parent))

from process_memory import status  # noqa: E402
from sides import measured_in, sides  # noqa: E402

from CaiT import runtime  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.errors import run  # noqa: E402

RESULT = Path(__file__).resolve().parent / 'results' / 'checkpoint.json'
PARTS = 4  # weights, average, two moments


def random_state(shapes: Dict[str, List[int]]) -> Dict[str, Any]:
    """The arrays of a training state, float32."""
    import numpy as np
    rng = np.random.default_rng(0)

    def arrays(prefix: str = '') -> Dict[str, Any]:
        return {prefix + name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    return {'model': arrays(), 'ema': arrays(), 'optimizer': {**arrays('moment1 '), **arrays('moment2 ')}}


def disk_bytes(folder: Path) -> int:
    """The size of all files; a file with several names counts once."""
    return sum({found.st_ino: found.st_size for found in map(os.stat, folder.iterdir())}.values())


def measured(work: Any) -> Dict[str, float]:
    """Seconds of ``work``, and its peak of memory above that of before."""
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts here
    before, start, cpu = status('VmRSS'), time.perf_counter(), time.process_time()
    work()
    return {'seconds': round(time.perf_counter() - start, 1), 'CPU seconds': round(time.process_time() - cpu, 1),
            'peak MB above': round(status('VmHWM') - before)}


def write(folder: Path, shapes: Dict[str, List[int]]) -> Dict[str, float]:
    """As the trainer of that checkout does: where it has no links, both tags are written."""
    from CaiT.training import checkpoint
    state = random_state(shapes)

    def both() -> None:
        checkpoint.write(folder, 'best', state)
        if hasattr(checkpoint, 'link'):
            checkpoint.link(folder, 'best', 'last')
        else:
            checkpoint.write(folder, 'last', state)
    return {**measured(both), 'bytes': disk_bytes(folder)}


def read(folder: Path, _: Any) -> Dict[str, float]:
    """The state alone is not part of 'peak MB above'."""
    from CaiT.training import checkpoint
    states: List[Any] = []
    found = measured(lambda: states.append(checkpoint.read(folder / 'last.pdstate')))
    size = sum(array.nbytes for part in ('model', 'ema', 'optimizer') for array in states[0][part].values())
    return {**found, 'peak MB above': round(found['peak MB above'] - size / (1 << 20))}


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = Parser(__doc__)
    parser.flag('model', default='cait_m48_448', help='model whose state is written')
    parser.flag('before', help='a checkout of an earlier commit', metavar='FOLDER')
    parser.flag('folder', default=tempfile.gettempdir(), help='where checkpoints are written, and removed')
    parser.flag('output', default=str(RESULT), metavar='FILE', help='JSON file to write')
    parser.flag('work', choices=['write', 'read'], help='measure one process; used by the program itself')
    flags = parser.parse_args(argv)
    if flags.work:
        print(json.dumps({'write': write, 'read': read}[flags.work](Path(flags.folder), json.load(sys.stdin))))
        return
    from CaiT.files import write_json
    from CaiT.models.registry import create_model
    from CaiT.tools.benchmark import processor, versions
    checkouts = sides(flags.before, ROOT)
    shapes = {name: list(one.shape) for name, one in create_model(flags.model).named_parameters()}
    results: Dict[str, Any] = {}
    for name, checkout in checkouts.items():
        with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
            for work in ('write', 'read'):
                results.setdefault(name, {})[work] = measured_in(
                    checkout, __file__, ['--work', work, '--folder', folder], json.dumps(shapes))
                print(f'{name}, {work}: {results[name][work]}', flush=True)
    import numpy as np
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    write_json(flags.output, {
        'what': __doc__.splitlines()[0], 'model': flags.model, 'parameters': count,
        'state MB': round(PARTS * 4 * count / (1 << 20)), 'processor': processor(), 'cores': runtime.cores(),
        'versions': versions('paddlepaddle', 'numpy'), 'load average': round(os.getloadavg()[0], 1),
        'results': results})
    print(f'written to {flags.output}')


if __name__ == '__main__':
    run(main)
