# SPDX-License-Identifier: Apache-2.0
"""Images per second on every engine and precision, and which to choose for an exported model.

    python -m CaiT.tools.benchmark -models cait_s24_224 deit_tiny_patch16_224 --threads 1 2 --batches 8 --json=out.json
    python -m CaiT.tools.benchmark --model-dir=output/infer --val-list=dataset/val_list.txt

The second form measures a model of yours, with its accuracy on labeled images beside the speed, and ends with one line
of recommended flags. The first takes random weights, which do not affect the speed; the same command resumes it.

Contenders take turns in short windows, so that drift of the machine's speed affects all equally; the median window
counts. Decoding is not included. For PyTorch see benchmarks/against_peers.py.
"""
from __future__ import annotations

import contextlib
import os
import platform
import statistics
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from CaiT import errors, runtime, safe_json
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.files import check_regular, write_json

OURS = [('paddle', 'fp32'), ('paddle', 'bf16'), ('onnxruntime', 'fp32'), ('onnxruntime', 'int8'),
        ('openvino', 'fp32'), ('openvino', 'bf16'), ('openvino', 'int8')]
RAW = ('paddle', 'fp32')  # also measured with raw uint8 input
MIN_ROUNDS = 3  # after which a configuration over its time budget is stopped: one run may take longer than a window
PAUSE = 0.25  # seconds: OpenMP's idle threads spin for 0.2 s after a window and would slow the next contender
MACS_PER_SECOND = 4e10  # of one thread, roughly: for the estimate of the remaining time
INSTRUCTIONS = ('avx2', 'avx512f', 'avx512_bf16', 'avx512_vnni', 'amx_bf16', 'amx_int8')
Window = Callable[[float], Tuple[int, float]]  # seconds to run -> (images, seconds taken)
Contenders = Dict[str, Window]
Throughput = Dict[str, Any]  # of a contender, see throughput()


def window(run: Callable[[], Any], images: int) -> Window:
    """A window that repeats ``run``, which processes ``images`` images, for about the given seconds, at least once."""
    def measured(seconds: float) -> Tuple[int, float]:
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < seconds:
            run()
            count += images
        return count, time.perf_counter() - start
    return measured


def throughput(windows: Sequence[Optional[float]]) -> Throughput:
    """{median, best, worst, windows} of the images per second of a contender's windows; None: one that was dropped."""
    good = [one for one in windows if one is not None]
    return {'median': statistics.median(good), 'best': max(good), 'worst': min(good), 'windows': list(windows)}


def round_robin(contenders: Contenders, rounds: int, seconds: float) -> Dict[str, Throughput]:
    """{name: throughput} over ``rounds`` windows each, in turn; over fewer, at least MIN_ROUNDS, if single runs are so
    long that all together take twice the requested time."""
    speeds: Dict[str, List[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run(0.0)  # compile, fill caches
    start = time.perf_counter()
    for done in range(rounds):
        if done >= MIN_ROUNDS and time.perf_counter() - start > 2 * rounds * seconds * len(contenders):
            break
        for name, run in contenders.items():
            time.sleep(PAUSE)
            images, elapsed = run(seconds)
            speeds[name].append(images / elapsed)
    return {name: throughput(found) for name, found in speeds.items()}


def ratio(one: Throughput, other: Throughput) -> float:
    """The median over the windows of the ratio of two contenders of one run; where they share no window, of medians."""
    pairs = [(a, b) for a, b in zip(one['windows'], other['windows']) if a and b]
    return statistics.median(a / b for a, b in pairs or [(one['median'], other['median'])])


@contextlib.contextmanager
def exported(name: str, targets: Sequence[Tuple[str, str, str]]) -> Iterator[Tuple[Any, str]]:
    """(dynamic model with random weights, folder with its ``targets``)."""
    import paddle

    from CaiT.data.transforms import DataConfig
    from CaiT.deploy import parity
    from CaiT.deploy.export import export
    from CaiT.models.registry import create_model, get_variant
    paddle.seed(0)
    model, data = create_model(name), DataConfig(**get_variant(name).data)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        export(model, folder, name, data, parity.synthetic(data, 4), {'file': 'random'}, targets, None, runtime.cores(),
               parity.synthetic(data, 16))
        yield model, folder


def targets() -> List[Tuple[str, str, str]]:
    """(backend, precision, input) of all combinations that this machine can run."""
    return [(*pair, kind) for pair in OURS if unavailable(*pair) is None
            for kind in ('float', 'uint8') if kind == 'float' or pair == RAW]


def unavailable(backend: str, precision: str) -> Any:
    """Why an engine cannot be measured here; None when it can."""
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


def own_engines(folder: str, batch: int, threads: int) -> Contenders:
    """This project's engines on an exported folder; OpenVINO also with one stream if it would use more."""
    import numpy as np

    from CaiT.deploy.engines import Options
    from CaiT.deploy.predictor import Predictor
    contenders: Contenders = {}
    random = np.random.default_rng(0)

    def add(name: str, predictor: Predictor) -> None:
        shape = (batch, *predictor.input_shape)
        raw = predictor.options.input == 'uint8'
        images = (random.integers(0, 256, shape, np.uint8) if raw else random.standard_normal(shape, np.float32))
        contenders[name] = window(lambda: predictor.engine.run(images), batch)

    for backend, precision, kind in targets():
        options = Options(precision, kind, threads, batch)
        predictor = Predictor(folder, backend, options)
        add(f'ours {backend} {"uint8 " if kind == "uint8" else ""}{precision}', predictor)
        if backend == 'openvino' and predictor.engine.streams > 1:
            predictor = Predictor(folder, backend, options)
            predictor.engine.set_streams(1)
            add(f'ours {backend} 1 stream {precision}', predictor)
    return contenders


def machine() -> Dict[str, Any]:
    """The machine of the measurements; ``instructions`` are those of INSTRUCTIONS that the processor supports."""
    return {'cpu': processor(), 'cores': runtime.cores(), 'system': platform.platform(),
            'python': platform.python_version(),
            'instructions': [one for one in INSTRUCTIONS if one in runtime.cpu_flags()]}


def processor() -> str:
    """The processor's name, family and model (in virtual machines the name lacks the model number)."""
    fields = dict(part for part in (tuple(map(str.strip, line.split(':', 1))) for line in runtime._cpu().splitlines()
                                    if ':' in line))
    if 'model name' not in fields:
        return platform.processor() or platform.machine()
    return f'{fields["model name"]} (family {fields["cpu family"]}, model {fields["model"]})'


def versions(*names: str) -> Dict[str, str]:
    """Versions of installed packages, 'absent' for the others."""
    from importlib.metadata import PackageNotFoundError, version
    found = {}
    for name in names or ('paddlepaddle', 'onnxruntime', 'openvino', 'nncf', 'onnx'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = 'absent'
    return found


class Results:
    """Measured rows in a JSON file, rewritten after each row; existing rows are not measured again."""

    def __init__(self, path: Optional[str], header: Dict[str, Any]) -> None:
        """``header`` is common to all rows of a file; InputError when it has another, but for the load average."""
        self.path, self.header, self.rows = path, header, []
        if path and os.path.exists(path):
            check_regular(path)
            try:
                found = safe_json.load_json(path)
                self.rows = list(found['rows'])
                [row[key] for row in self.rows for key in ('model', 'threads', 'batch')]
            except (OSError, InputError, KeyError, TypeError) as error:
                raise InputError(f'{path}: not a file of this benchmark ({error}); name another one') from None
            for key, value in header.items():
                if key != 'load average before' and found.get(key) != value:
                    raise InputError(f'{path}: its {key} is {found.get(key)}, here it is {value}; name another file')
            self.header = {key: found[key] for key in header if key in found}

    def has(self, model: str, threads: int, batch: int) -> bool:
        return any((row['model'], row['threads'], row['batch']) == (model, threads, batch) for row in self.rows)

    def add(self, row: Dict[str, Any]) -> None:
        self.rows.append(row)
        if self.path:
            write_json(self.path, self.as_dict())

    def as_dict(self) -> Dict[str, Any]:
        return {**self.header, 'rows': self.rows}


class Cells:
    """The (model, threads, batch) configurations to measure, and an estimate of the remaining time."""

    def __init__(self, args: Any, results: Results) -> None:
        self.args, self.start, self.done = args, time.perf_counter(), 0.0
        missing = {name: [(threads, batch) for threads in args.threads for batch in args.batches
                          if not results.has(name, threads, batch)] for name in args.models}
        self.all = {name: cells for name, cells in missing.items() if cells}
        self.costs = {(name, *cell): self._cost(name, *cell) for name, cells in self.all.items() for cell in cells}
        skipped = len(args.models) * len(args.threads) * len(args.batches) - len(self.costs)
        if skipped:
            print(f'measured already: {skipped}')

    def _cost(self, name: str, threads: int, batch: int) -> float:
        """Estimated seconds of one window of a contender of medium speed."""
        from CaiT.tools.model_table import macs
        return self.args.seconds + batch * macs(name)['total'] / (threads * MACS_PER_SECOND)

    def finished(self, name: str, threads: int, batch: int) -> str:
        """A progress line, estimated from the time of the finished cells."""
        self.done += self.costs.pop((name, threads, batch))
        elapsed = time.perf_counter() - self.start
        left = elapsed / self.done * sum(self.costs.values())
        return f'cells left: {len(self.costs)}, {elapsed / 60:.1f} min taken, about {left / 60:.0f} min to go'


def table(rows: List[Dict[str, Any]]) -> List[str]:
    """Measured rows as text, one line per contender."""
    lines = []
    for row in rows:
        lines.append(f'{row["model"]:26s} threads {row["threads"]} batch {row["batch"]:2d}')
        width = max(map(len, row['rates']))
        lines += [f'    {name:{width}s} {speed["median"]:8.1f} /s   ({speed["worst"]:.1f} to {speed["best"]:.1f})'
                  for name, speed in sorted(row['rates'].items(), key=lambda item: -item[1]['median'])]
    return lines


def parser(doc: str) -> Parser:
    """The common flags of this script and against_peers.py."""
    flags = Parser(doc)
    flags.flag('models', nargs='+', default=['cait_xxs24_224'], metavar='NAME',
               help='models with random weights (default: cait_xxs24_224)')
    flags.flag('batches', nargs='+', type=int, default=[1, 8, 32], metavar='N', help='batch sizes (default: 1 8 32)')
    flags.flag('threads', nargs='+', type=int, default=[runtime.cores()], metavar='N',
               help='numbers of CPU threads (default: all cores)')
    flags.flag('rounds', type=int, default=5, metavar='N', help='windows per contender; default 5')
    flags.flag('seconds', type=float, default=0.5, metavar='S', help='length of a window; default 0.5')
    return flags


def parsed(flags: Parser) -> Any:
    """Parse the flags and prepare the runtime; InputError for an unknown model or a number that is not positive."""
    args = flags.parse_args()
    print(runtime.prepare())
    from CaiT.models.registry import get_variant
    for name in args.models:
        get_variant(name)
    for name in ('batches', 'threads', 'rounds', 'seconds'):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value <= 0:
                raise InputError(f'--{name}: found {value}, expected a positive number')
    return args


def header(args: Any) -> Dict[str, Any]:
    """The header of a result file, common to its rows."""
    return {'machine': machine(), 'rounds': args.rounds, 'seconds': args.seconds, 'versions': versions(),
            'load average before': round(os.getloadavg()[0], 1)}


def main() -> int:
    from CaiT.tools import benchmark_model  # which imports this module
    flags = parser(__doc__)
    flags.flag('json', metavar='FILE', help='JSON file to write')
    benchmark_model.add_flags(flags)
    args = parsed(flags)
    benchmark_model.check(args, flags)
    if args.model_dir:
        return benchmark_model.main(args, flags)
    print(machine())
    results = Results(args.json, header(args))
    cells = Cells(args, results)
    for pair in filter(lambda pair: unavailable(*pair), OURS):
        print(f'absent: {" ".join(pair)}: {unavailable(*pair)}')
    for name, configurations in cells.all.items():
        with exported(name, targets()) as (_, folder):
            for threads, batch in configurations:
                rates = round_robin(own_engines(folder, batch, threads), args.rounds, args.seconds)
                results.add({'model': name, 'threads': threads, 'batch': batch, 'rates': rates})
                print('\n'.join(table(results.rows[-1:])))
                print(cells.finished(name, threads, batch), flush=True)
    return 0


if __name__ == '__main__':
    errors.run(main)
