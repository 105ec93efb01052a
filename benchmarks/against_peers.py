# SPDX-License-Identifier: Apache-2.0
"""This project's engines, PyTorch, and timm's and the papers' graphs on the same engines, in one round-robin run.

    bash benchmarks/make_peers.sh                                      once: an environment with PyTorch and timm
    python benchmarks/against_peers.py --peer-python=.venv-peers/bin/python --out=benchmarks/results/cpu

Peers, each with its best settings: timm on PyTorch (eager and torch.compile, in fp32 and bf16 autocast; int8 by dynamic
quantization); timm's model through torch.onnx on ONNX Runtime (fp32, int8 by dynamic quantization) and on OpenVINO
(fp32, bf16, int8 by NNCF; a fixed batch size; one stream, and two with four images each); and the model as formulated
in the papers on Paddle Inference. As in our int8, fc2 stays in fp32 everywhere, and so do the tiny mixes of talking
heads. Writes <out>.json, <out>.md and <out>.svg. The line in a panel is the limit given by this machine's fastest GEMM
at this model's shapes. Unavailable peers are reported. Without --peer-python only the papers' graph is compared.

Windows in which the machine itself was slow (quiet_windows.py) are dropped and measured again; how many is in the file.
The JSON file is written after every model, thread count and batch size; an interrupted run continues with the same
command on the same machine. Measure on an idle machine; the load average before the run is in the file.
"""
from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.quiet_windows import QuietWindows, slow_windows
from CaiT import errors
from CaiT.errors import InputError
from CaiT.files import atomic_write
from CaiT.tools import benchmark
from CaiT.tools.benchmark import Contenders, window

MODELS = ['cait_xxs24_224', 'cait_s24_224', 'deit_tiny_patch16_224', 'vit_tiny_patch16_224']
GEMMS = {'f32': 'fp32', 'bf16': 'bf16'}  # OpenVINO's name of a precision -> ours
TORCH = ('eager', 'compile', 'bf16', 'compile bf16', 'int8')
TWO_STREAMS_BATCH, PART = 8, 4  # batch size from which OpenVINO is also measured with two streams of four images each
FLOAT_LAYERS = ('fc2', 'proj_l', 'proj_w')  # that stay in fp32 beside int8


class Torch:
    """torch_peer.py in the peers' interpreter."""

    def __init__(self, python: str) -> None:
        try:
            self.process = subprocess.Popen([python, str(Path(__file__).parent / 'torch_peer.py')], text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise InputError(f'--peer-python {python}: {error.strerror}') from None

    def request(self, **message: Any) -> Dict[str, Any]:
        """Send a request and return the response; InputError when the process has ended."""
        try:
            self.process.stdin.write(json.dumps(message) + '\n')
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            raise InputError('the peers have ended: has their interpreter torch, timm and onnx? '
                             'see benchmarks/make_peers.sh') from None

    def contenders(self, model: str, batch: int, threads: int, absent: Dict[str, str]) -> Contenders:
        found: Contenders = {}
        self.request(do='forget')
        for how in TORCH:
            key = f'timm PyTorch {how}'
            response = self.request(do='load', key=key, model=model, how=how, batch=batch, threads=threads)
            if 'error' in response:
                absent[key] = response['error']
                continue

            def run(seconds: float, key: str = key) -> Tuple[int, float]:
                response = self.request(do='run', key=key, seconds=seconds)
                return response['images'], response['seconds']
            found[key] = run
        return found


def timm_onnx(path: Path, size: int, batch: int, threads: int, absent: Dict[str, str]) -> Contenders:
    """timm's ONNX on ONNX Runtime and OpenVINO."""
    import numpy as np
    found: Contenders = {}
    images = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    try:
        import onnxruntime
        for precision, file in (('fp32', path), ('int8', path.with_suffix('.int8.onnx'))):
            if not file.is_file():
                absent[f'timm onnxruntime {precision}'] = 'not quantized, see above'
                continue
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads, settings.log_severity_level = threads, 3
            session = onnxruntime.InferenceSession(str(file), settings, providers=['CPUExecutionProvider'])
            found[f'timm onnxruntime {precision}'] = window(lambda s=session: s.run(None, {'x': images}), batch)
    except ImportError as error:
        absent['timm onnxruntime'] = str(error)
    try:
        import openvino
        core = openvino.Core()
        for precision in ('fp32', 'bf16', 'int8'):
            file = path if precision != 'int8' else path.with_suffix('.int8.xml')
            if precision != 'fp32' and benchmark.unavailable('openvino', precision):
                absent[f'timm openvino {precision}'] = benchmark.unavailable('openvino', precision)
                continue
            fast = precision != 'fp32' and benchmark.unavailable('openvino', 'bf16') is None
            settings = {'INFERENCE_PRECISION_HINT': 'bf16' if fast else 'f32', 'INFERENCE_NUM_THREADS': threads}
            streams = [(1, batch)] + ([(2, PART)] if threads > 1 and batch >= TWO_STREAMS_BATCH else [])
            for count, part in streams:
                network = core.read_model(str(file))
                network.reshape([part, 3, size, size])
                compiled = core.compile_model(network, 'CPU', {**settings, 'NUM_STREAMS': count})
                queue = openvino.AsyncInferQueue(compiled, count)
                name = 'timm openvino ' + ('2 streams ' if count == 2 else '') + precision
                found[name] = window(lambda q=queue, n=part: run_in_parts(q, images, n), batch)
    except ImportError as error:
        absent['timm openvino'] = str(error)
    return found


def run_in_parts(queue: Any, images: Any, part: int) -> None:
    """Run ``part`` images at a time on the next free stream."""
    for start in range(0, len(images), part):
        queue.start_async({0: images[start:start + part]})
    queue.wait_all()


def quantize_timm(path: Path, size: int) -> None:
    """int8 versions of timm's ONNX file beside it: .int8.xml by NNCF for transformers, .int8.onnx by ONNX Runtime."""
    import logging

    import nncf
    import numpy as np
    import onnx
    import openvino
    nncf.set_log_level(logging.ERROR)
    images = np.random.default_rng(0).standard_normal((16, 1, 3, size, size)).astype(np.float32)
    ignored = nncf.IgnoredScope(patterns=[f'.*/{name}/MatMul.*' for name in FLOAT_LAYERS], validate=False)
    model = nncf.quantize(openvino.Core().read_model(str(path)), nncf.Dataset(list(images)),
                          model_type=nncf.ModelType.TRANSFORMER, subset_size=16, ignored_scope=ignored)
    openvino.save_model(model, str(path.with_suffix('.int8.xml')), compress_to_fp16=False)
    if benchmark.unavailable('onnxruntime', 'int8') is None:
        from onnxruntime import quantization
        excluded = [node.name for node in onnx.load(str(path)).graph.node
                    if node.op_type == 'MatMul' and set(node.name.split('/')) & set(FLOAT_LAYERS)]
        quantization.quantize_dynamic(str(path), str(path.with_suffix('.int8.onnx')), per_channel=True,
                                      op_types_to_quantize=['MatMul'], nodes_to_exclude=excluded)


def papers_graph(model: Any, folder: Path) -> Path:
    """Export the model as formulated in the papers, for Paddle Inference."""
    import paddle

    from CaiT.deploy.engines.paddle_ops import InferenceLayer
    from CaiT.deploy.simplify import from_model
    layer = InferenceLayer(from_model(model))
    spec = [paddle.static.InputSpec(layer.shape(None), 'float32', 'x')]
    paddle.jit.save(layer, str(folder / 'paper'), input_spec=spec)
    return folder / 'paper.json'


def paper(graph: Path, size: int, batch: int, threads: int) -> Contenders:
    """Paddle Inference on ``papers_graph``, with whole batches."""
    import numpy as np

    from CaiT.deploy.engines import Options, engine_class
    found: Contenders = {}
    for precision in ('fp32', 'bf16'):
        if benchmark.unavailable('paddle', precision) is None:
            engine = engine_class('paddle')(graph, Options(precision, 'float', threads, batch))
            engine.chunk = batch  # whole, as that code would
            images = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
            found[f"papers' graph paddle {precision}"] = window(lambda e=engine, x=images: e.run(x), batch)
    return found


def gemm(model: Any, hint: str, threads: int) -> Contenders:
    """A chain of this model's GEMMs alone, for 8 images, in OpenVINO; the 'images' of its window are GFLOP."""
    import numpy as np
    import openvino
    from openvino import opset13 as ops
    dim, hidden = model.embed_dim, model.blocks[0].mlp.fc1.weight.shape[1]
    rows, flop = 8 * model.patch_embed.num_patches, 0
    start = x = ops.parameter([rows, dim], np.float32)
    block = [(dim, 3 * dim), (3 * dim, dim), (dim, dim), (dim, hidden), (hidden, dim)]
    for index, (inputs, outputs) in enumerate(6 * block):
        weight = np.random.default_rng(index).standard_normal((inputs, outputs)).astype(np.float32) / inputs ** 0.5
        x = ops.matmul(x, ops.constant(weight), False, False)
        flop += 2 * rows * inputs * outputs
    compiled = openvino.Core().compile_model(openvino.Model([x], [start]), 'CPU', {
        'INFERENCE_PRECISION_HINT': hint, 'INFERENCE_NUM_THREADS': threads, 'NUM_STREAMS': 1})
    request, array = compiled.create_infer_request(), np.ones((rows, dim), np.float32)
    timed = window(lambda: request.infer({0: array}), 1)

    def run(seconds: float) -> Tuple[float, float]:
        count, elapsed = timed(seconds)
        return count * flop / 1e9, elapsed
    return {f'GEMM {hint}, GFLOP': run}


def limits(rates: Dict[str, benchmark.Throughput], model: str) -> Dict[str, benchmark.Throughput]:
    """The images per second that the GEMM throughput allows; removes the GEMM contenders from ``rates``."""
    from CaiT.tools.model_table import macs
    images = 1e9 / (2 * macs(model)['total'])  # images per GFLOP
    return {precision: benchmark.throughput([one and one * images
                                             for one in rates.pop(f'GEMM {hint}, GFLOP')['windows']])
            for hint, precision in GEMMS.items() if f'GEMM {hint}, GFLOP' in rates}


def quiet_round_robin(contenders: Contenders, rounds: int, seconds: float) -> Dict[str, benchmark.Throughput]:
    """As benchmark.round_robin, with None in place of windows in which the machine was slow, and up to as many rounds
    again until each contender has ``rounds`` others; InputError when one has none at all."""
    probes, found = QuietWindows(), {name: [] for name in contenders}
    for run in contenders.values():
        run(0.0)  # compile, fill caches
    start, slow = time.perf_counter(), []
    for done in range(2 * rounds):
        is_late = time.perf_counter() - start > 5 * rounds * seconds * len(contenders)
        most_dropped = max(sum(slow[place::len(contenders)]) for place in range(len(contenders)))
        if done - most_dropped >= rounds or is_late and done >= benchmark.MIN_ROUNDS:
            break
        for name, run in contenders.items():
            time.sleep(benchmark.PAUSE)
            images, elapsed = probes.run(lambda run=run: run(seconds))
            found[name].append(images / elapsed)
        slow = slow_windows(probes.probes)
    for number, is_slow in enumerate(slow):
        if is_slow:
            found[list(contenders)[number % len(contenders)]][number // len(contenders)] = None
    empty = [name for name, windows in found.items() if not any(windows)]
    if empty:
        raise InputError(f'{empty[0]}: the machine was slow in all {len(found[empty[0]])} windows; measure on an idle '
                         'machine')
    return {name: benchmark.throughput(windows) for name, windows in found.items()}


def measure(args: Any, torch: Optional[Torch], results: benchmark.Results) -> Iterator[Dict[str, Any]]:
    """Measure all cells that ``results`` does not contain; each row is written to its file before it is yielded."""
    from CaiT.models.registry import get_variant
    cells = benchmark.Cells(args, results)
    for name, configurations in cells.all.items():
        size = get_variant(name).data['image_size']
        with benchmark.exported(name, benchmark.targets()) as (model, folder), tempfile.TemporaryDirectory() as other:
            onnx, absent = Path(other) / 'timm.onnx', {}
            if torch:
                response = torch.request(do='export', model=name, path=str(onnx))
                absent.update({'timm ONNX': response['error']} if 'error' in response else {})
                if onnx.is_file() and benchmark.unavailable('openvino', 'int8') is None:
                    quantize_timm(onnx, size)
            else:
                absent['PyTorch and timm'] = '--peer-python was not given'
            graph = papers_graph(model, Path(other))
            for threads, batch in configurations:
                contenders = {**benchmark.own_engines(folder, batch, threads), **paper(graph, size, batch, threads)}
                if torch:
                    contenders.update(torch.contenders(name, batch, threads, absent))
                if onnx.is_file():
                    contenders.update(timm_onnx(onnx, size, batch, threads, absent))
                for hint, precision in GEMMS.items():
                    if benchmark.unavailable('openvino', precision) is None:
                        contenders.update(gemm(model, hint, threads))
                rates = quiet_round_robin(contenders, args.rounds, args.seconds)
                windows = [one for speeds in rates.values() for one in speeds['windows']]
                results.add({'model': name, 'threads': threads, 'batch': batch, 'limits': limits(rates, name),
                             'rates': rates, 'absent': dict(absent), 'windows': len(windows),
                             'windows dropped': windows.count(None)})
                yield results.rows[-1]
                print(cells.finished(name, threads, batch), flush=True)


def main() -> int:
    flags = benchmark.parser(__doc__)
    flags.set_defaults(models=MODELS, threads=[1, 2])
    flags.flag('peer_python', metavar='PYTHON', help='interpreter with torch, timm and onnx')
    flags.flag('out', default='benchmarks/results/cpu', metavar='NAME', help='results: NAME.json, NAME.md and NAME.svg')
    args = benchmark.parsed(flags)
    torch = Torch(args.peer_python) if args.peer_python else None
    header = benchmark.header(args)
    header['versions'].update(torch.request(do='versions') if torch else {})
    print(header)
    results = benchmark.Results(f'{args.out}.json', header)
    for row in measure(args, torch, results):
        print('\n'.join(benchmark.table([row])))
        reached = {kind: round(limit['median'], 1) for kind, limit in row['limits'].items()}
        print(f'    arithmetic limit: {reached}   absent: {row["absent"] or "none"}')
        print(f'    windows dropped, the machine being slow: {row["windows dropped"]} of {row["windows"]}', flush=True)
    from chart import benchmark_chart, markdown
    with atomic_write(f'{args.out}.md') as file:
        file.write('\n'.join(markdown(results.as_dict())) + '\n')
    with atomic_write(f'{args.out}.svg') as file:
        file.write(benchmark_chart(results.as_dict()))
    print(f'{args.out}.json, .md, .svg')
    return 0


if __name__ == '__main__':
    errors.run(main)
