# SPDX-License-Identifier: Apache-2.0
"""Seconds from the start of the process to the prediction for one image: infer.py on each backend.

    python benchmarks/cold_start.py

Baselines: a script of ONNX Runtime and Pillow alone on the same ONNX file (bare_onnxruntime.py), and
`python -c 'import paddle'`, the lower bound of any program that uses Paddle. `empty cache` is OpenVINO's first start,
which compiles; later ones use its cache. Processes run in turn, in alternating order, so that drift of the machine's
speed affects all equally; files are in the page cache. Results are medians over the rounds after a warm-up round; a
ratio or difference is the median over the rounds. All processes must predict the same class.

Measure on an idle machine; the load average before the run is in the result, benchmarks/results/cold_start.json.
"""
from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)

from CaiT import runtime  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.errors import InputError, run  # noqa: E402
from CaiT.files import write_json  # noqa: E402
from CaiT.tools import benchmark  # noqa: E402

BARE, IMPORT, FIRST = 'bare onnxruntime', 'import paddle', 'ours openvino, empty cache'
BACKENDS = ('paddle', 'onnxruntime', 'openvino')
RESULT = HERE / 'results' / 'cold_start.json'
Start = Callable[[], str]  # runs a process, returns the class that it predicts


def process(command: List[str], cache: str) -> str:
    """The class predicted by ``command``; InputError when it fails. ``cache``: of OpenVINO's compiled models."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'XDG_CACHE_HOME': cache})
    if done.returncode:
        raise InputError(f'{" ".join(command)}: ended with status {done.returncode}: {done.stderr.strip()[-300:]}')
    return done.stdout.split('class_id: ')[-1].split(',')[0].strip()


def contenders(folder: str, image: str, name: str, cache: str) -> Dict[str, Start]:
    """The measured processes, the two baselines first."""
    from CaiT.models.registry import get_variant
    data = get_variant(name).data
    found: Dict[str, Start] = {IMPORT: lambda: process([sys.executable, '-c', 'import paddle'], cache)}
    if benchmark.unavailable('onnxruntime', 'fp32') is None:
        bare = [str(HERE / 'bare_onnxruntime.py'), f'{folder}/onnxruntime.onnx', image, str(data['image_size']),
                str(data['crop_pct'])]
        found[BARE] = lambda: process([sys.executable, *bare], cache)
    for backend in BACKENDS:
        if benchmark.unavailable(backend, 'fp32'):
            print(f'absent: {backend}: {benchmark.unavailable(backend, "fp32")}')
            continue
        command = [sys.executable, str(HERE.parent / 'infer.py'), f'--model-dir={folder}', f'--img-path={image}',
                   f'--backend={backend}', '--batch-size=1']
        found[f'ours {backend}'] = lambda command=command: process(command, cache)
        if backend == 'openvino':
            found[FIRST] = lambda command=command: process(command, f'{cache}/empty')
    return found


def measure(starts: Dict[str, Start], rounds: int, before: Callable[[], Any]) -> Dict[str, List[float]]:
    """{name: seconds of each round}; ``before`` is called before each round. The first round warms up."""
    seconds: Dict[str, List[float]] = {name: [] for name in starts}
    for number in range(rounds + 1):
        before()
        classes = {}
        for name in list(starts) if number % 2 else reversed(list(starts)):
            start_time = time.perf_counter()
            classes[name] = starts[name]()
            if number:
                seconds[name].append(time.perf_counter() - start_time)
        if len({predicted for name, predicted in classes.items() if name != IMPORT}) > 1:
            raise InputError(f'one image, several predicted classes: {classes}')
        print(f'round {number}' + ', '.join(f' {name} {found[-1]:.2f}' for name, found in seconds.items() if found),
              flush=True)
    return seconds


def rows(seconds: Dict[str, List[float]]) -> Dict[str, Dict[str, Any]]:
    """Median and best of each, the ratio to the bare script, and the difference to `import paddle`."""
    found = {}
    for name, own in seconds.items():
        found[name] = {'seconds': round(statistics.median(own), 3), 'best': round(min(own), 3)}
        if BARE in seconds:
            found[name]['ratio to bare'] = round(statistics.median(a / b for a, b in zip(own, seconds[BARE])), 3)
        found[name]['above import paddle'] = round(statistics.median(
            a - b for a, b in zip(own, seconds[IMPORT])), 3)
        found[name]['rounds'] = [round(one, 3) for one in own]
    return found


def main() -> int:
    flags = Parser(__doc__)
    flags.flag('model', default='cait_xxs24_224', metavar='NAME', help='model with random weights')
    flags.flag('rounds', type=int, default=11, metavar='N', help='default 11')
    flags.flag('output', default=str(RESULT), metavar='FILE', help='JSON file to write')
    args = flags.parse_args()
    if args.rounds < 1:
        raise InputError(f'--rounds: found {args.rounds}, expected at least 1')
    load = round(os.getloadavg()[0], 1)
    runtime.prepare()
    sys.path.append(str(HERE))
    from data_pipeline import make_images
    targets = [(backend, 'fp32', 'float') for backend in BACKENDS if benchmark.unavailable(backend, 'fp32') is None]
    with benchmark.exported(args.model, targets) as (_, folder), tempfile.TemporaryDirectory() as other:
        make_images(Path(other), 1)
        image = str(next(Path(other).glob('*.jpg')))
        cache = f'{other}/cache'
        seconds = measure(contenders(folder, image, args.model, cache), args.rounds,
                          lambda: shutil.rmtree(f'{cache}/empty', ignore_errors=True))
    found = rows(seconds)
    print(f'{"":28s} {"seconds":>8s} {"best":>6s} {"x bare":>7s}  above import paddle')
    for name, row in found.items():
        print(f'{name:28s} {row["seconds"]:8.2f} {row["best"]:6.2f} {row.get("ratio to bare", float("nan")):7.2f}  '
              f'{row["above import paddle"]:+.2f} s')
    report = {'what': __doc__.splitlines()[0], 'model': args.model, 'rounds': args.rounds,
              'machine': benchmark.machine(), 'load average before': load,
              'versions': benchmark.versions('paddlepaddle', 'onnxruntime', 'openvino', 'numpy', 'Pillow'),
              'starts': found}
    write_json(args.output, report)
    print(f'written to {args.output}')
    return 0


if __name__ == '__main__':
    run(main)
