# SPDX-License-Identifier: Apache-2.0
"""Pictures per second of a model on every engine and precision, measured in one run.

    python -m CaiT.tools.benchmark                                     cait_xxs24_224, batches 1, 8, 32, all cores
    python -m CaiT.tools.benchmark -models cait_s24_224 deit_tiny_patch16_224 --threads 1 2 --batches 8 --json=out.json

All contenders take turns, window by window, so that a machine whose speed drifts is fair to each; the median window
counts. Arrays in, logits out: decoding is not in it. Weights are random, which does not change the speed. For the
comparison with PyTorch and others see benchmarks/against_peers.py.
"""
from __future__ import annotations

import contextlib
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError

OURS = [('paddle', 'fp32'), ('paddle', 'bf16'), ('onnxruntime', 'fp32'), ('onnxruntime', 'int8'),
        ('openvino', 'fp32'), ('openvino', 'bf16'), ('openvino', 'int8')]
Window = Callable[[float], Tuple[int, float]]  # seconds to run -> (pictures, seconds taken)
Contenders = Dict[str, Window]


def window(run: Callable[[], Any], pictures: int) -> Window:
    """Repeats ``run``, which takes ``pictures`` pictures, for about as long as asked."""
    def measured(seconds: float) -> Tuple[int, float]:
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            run()
            count += pictures
        return count, time.perf_counter() - start
    return measured


def round_robin(contenders: Contenders, rounds: int, seconds: float) -> Dict[str, Dict[str, float]]:
    """{name: {median, best, worst}} in pictures per second over ``rounds`` windows each, taken in turn."""
    rates: Dict[str, List[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run(0.0)  # compile, fill caches
    for _ in range(rounds):
        for name, run in contenders.items():
            pictures, taken = run(seconds)
            rates[name].append(pictures / taken)
    return {name: {'median': statistics.median(found), 'best': max(found), 'worst': min(found)}
            for name, found in rates.items()}


@contextlib.contextmanager
def exported(name: str, checks_count: int = 4) -> Iterator[Tuple[Any, str]]:
    """(dynamic model with random weights, folder with all that this machine can run)."""
    import paddle

    from CaiT.data.transforms import DataConfig
    from CaiT.deploy import parity
    from CaiT.deploy.export import export
    from CaiT.models.registry import create_model, get_variant
    paddle.seed(0)
    model, data = create_model(name), DataConfig(**get_variant(name).data)
    model.eval()
    targets = [(*pair, 'float') for pair in OURS if missing(*pair) is None]
    with tempfile.TemporaryDirectory() as folder:
        export(model, folder, name, data, parity.synthetic(data, checks_count), {}, targets, None, runtime.cores(),
               parity.synthetic(data, 16))
        yield model, folder


def missing(backend: str, precision: str) -> Any:
    """Why a pair cannot be measured here, None when it can."""
    import importlib.util

    from CaiT.deploy.engines import engine_class
    if precision == 'bf16' and 'avx512_bf16' not in runtime.cpu_flags():
        return 'no AVX512-BF16 on this processor'
    for library in {'openvino': ('onnx', 'nncf'), 'onnxruntime': ('onnx',)}.get(backend, ()):
        if importlib.util.find_spec(library) is None:
            return f'{library} is not installed'
    try:
        engine_class(backend, precision)
    except InputError as error:
        return str(error)
    return None


def ours(folder: str, batch: int, threads: int) -> Contenders:
    """Our engines on an exported folder."""
    import numpy as np

    from CaiT.deploy.engines import Options
    from CaiT.deploy.predictor import Predictor
    contenders: Contenders = {}
    for backend, precision in OURS:
        if missing(backend, precision) is None:
            predictor = Predictor(folder, backend, Options(precision, 'float', threads, batch))
            pictures = np.random.default_rng(0).standard_normal((batch, *predictor.picture_shape)).astype(np.float32)
            contenders[f'ours {backend} {precision}'] = window(
                lambda run=predictor.engine.run, x=pictures: run(x), batch)
    return contenders


def machine() -> Dict[str, Any]:
    """What the figures were measured on."""
    names = [line.split(':')[1].strip() for line in _cpuinfo() if line.startswith('model name')]
    flags = sorted(runtime.cpu_flags() & {'avx2', 'avx512f', 'avx512_bf16', 'avx512_vnni', 'amx_bf16', 'amx_int8'})
    return {'cpu': names[0] if names else platform.machine(), 'cores': runtime.cores(), 'instructions': flags,
            'system': platform.platform(), 'python': platform.python_version()}


def _cpuinfo() -> List[str]:
    try:
        return Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return []


def table(rows: List[Dict[str, Any]]) -> List[str]:
    """Measured rows as text, one line each."""
    lines = []
    for row in rows:
        lines.append(f'{row["model"]:26s} threads {row["threads"]} batch {row["batch"]:2d}')
        width = max(map(len, row['rates']))
        lines += [f'    {name:{width}s} {rate["median"]:8.1f} /s   ({rate["worst"]:.1f} to {rate["best"]:.1f})'
                  for name, rate in sorted(row['rates'].items(), key=lambda item: -item[1]['median'])]
    return lines


def parser(doc: str) -> Parser:
    """The flags that this script and against_peers.py share."""
    flags = Parser(doc)
    flags.flag('models', nargs='+', default=['cait_xxs24_224'], metavar='NAME')
    flags.flag('batches', nargs='+', type=int, default=[1, 8, 32], metavar='N')
    flags.flag('threads', nargs='+', type=int, default=[runtime.cores()], metavar='N')
    flags.flag('rounds', type=int, default=7, metavar='N', help='windows per contender; default 7')
    flags.flag('seconds', type=float, default=1.0, metavar='S', help='length of a window; default 1')
    flags.flag('json', metavar='FILE', help='write the figures there')
    return flags


def main() -> int:
    args = parser(__doc__).parse_args()
    print(runtime.prepare())
    print(machine())
    for pair in OURS:
        if missing(*pair):
            print(f'absent: {" ".join(pair)}: {missing(*pair)}')
    rows = []
    for name in args.models:
        with exported(name) as (_, folder):
            for threads in args.threads:
                for batch in args.batches:
                    rates = round_robin(ours(folder, batch, threads), args.rounds, args.seconds)
                    rows.append({'model': name, 'threads': threads, 'batch': batch, 'rates': rates})
                    print('\n'.join(table(rows[-1:])), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps({'machine': machine(), 'rows': rows}, indent=1) + '\n', encoding='utf-8')
    return 0


if __name__ == '__main__':
    errors.run(main)
