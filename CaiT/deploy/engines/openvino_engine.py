# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on CPU: fp32, bf16, and int8 by NNCF.

The graph has the heads as first axis and a static batch size: only then does the compiler fuse the sum of talking heads
into one kernel. It is stored with batch size 1, so that for one image the file is passed to the compiler, which finds
the compiled model in its cache. More images are split into parts that run in parallel, one stream per part and thread.
"""
from __future__ import annotations

import collections
import contextlib
import os
import re
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Counter, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from CaiT import runtime
from CaiT.deploy.engines import BaseEngine, Options, reason, stem
from CaiT.deploy.engines.lanes import Lanes
from CaiT.deploy.engines.openvino_attention import Attention, misfit
from CaiT.errors import InputError

if TYPE_CHECKING:  # for export only: importing them would slow down the start of inference
    from CaiT.data.transforms import DataConfig
    from CaiT.deploy.network import Network
    from CaiT.deploy.parity import CheckSet

PART = 4  # images per stream and run: more exceed the cache, fewer underuse the kernels
OFTEN = 20       # runs of a size of batch after which it gets a model of its own
MORE_SIZES = 2   # that get one: each takes the memory of the model once more
MANY_HEADS = 8   # from which the compiled attention is faster than AMX


class Plan(NamedTuple):
    """How a run is computed: ``part`` images at a time on each of ``streams``."""
    part: int
    streams: int


def cache_folder() -> str:
    """The folder in which compiled models are cached between processes."""
    base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return os.path.join(base, 'paddle-cait', 'openvino')


def _cache_of(graph: Path, stamps: List[Any]) -> Optional[str]:
    """The folder for the compiled models of these files; those of earlier files in their place are removed. OpenVINO by
    itself takes what it compiled for current when path, size and second of the last change of ``graph`` are the same
    (2026.4). None where nothing can be kept: every start compiles anew, and that is said."""
    import hashlib
    place, files = (hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:16]
                    for text in (os.path.realpath(graph), repr(stamps)))
    folder = os.path.join(cache_folder(), f'{place}-{files}')
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        print(f'openvino: compiled models are not kept: {cache_folder()}: {error.strerror}', file=sys.stderr)
        return None
    for earlier in Path(cache_folder()).glob(f'{place}-*'):
        if earlier.name != os.path.basename(folder):
            shutil.rmtree(earlier, ignore_errors=True)
    return folder


def _declared_shape(graph: Path) -> Optional[Tuple[Any, ...]]:
    """Shape of one image as the file has it; None where it does not say."""
    found = re.search(rb'type="Parameter"[^>]*>\s*<data\b[^>]*\bshape="([^"]*)"', graph.read_bytes())
    if not found:
        return None
    return tuple(int(axis) if axis.strip().isdigit() else None for axis in found[1].split(b',')[1:])


def library() -> Any:
    """The openvino package, imported without its model converter unless that is imported already.

    The converter is not needed, takes as long to import as the rest, and sends telemetry over the network. Temporarily
    blocks its module in ``sys.modules``."""
    converter = 'openvino.tools.ovc'
    sys.modules.setdefault(converter, None)  # None makes the import an ImportError, which the package handles
    try:
        import openvino
    finally:
        if sys.modules.get(converter, 0) is None:
            del sys.modules[converter]
    return openvino


class Engine(BaseEngine):
    name = 'openvino'
    precisions = ('fp32', 'bf16', 'int8')
    endings = ('.xml', '.bin')
    module = 'openvino'
    install = 'pip install openvino onnx nncf'

    @staticmethod
    def write_needs(precision: str) -> Tuple[str, ...]:
        return ('onnx', 'nncf') if precision == 'int8' else ('onnx',)

    @staticmethod
    def write(net: Network, folder: Path, options: Options, data: DataConfig,
              calibration: Optional[CheckSet]) -> List[Path]:
        """``.xml`` and ``.bin``; fp32 and bf16 share them, the precision is chosen when the model is loaded."""
        from CaiT.deploy.engines.onnx_ops import onnx_model
        from CaiT.deploy.simplify import raw_input, simplify
        openvino = library()
        path = folder / f'{stem("openvino", options)}.xml'
        if not path.is_file():
            net = simplify(net, 'leading', False)
            if options.input == 'uint8':
                net = raw_input(net, data.mean, data.std)
            model = openvino.Core().read_model(onnx_model(net).SerializeToString())
            if options.precision == 'int8':
                model = _quantize(model, net, calibration.array(options.input))
            model.reshape(_with_batch(model, 1))
            openvino.save_model(model, str(path), compress_to_fp16=False)
            if net.family == 'cait' and not misfit(net.num_heads, net.dim, net.patches):
                attention = Attention(openvino.Core(), openvino.__version__, path, compile_missing=True)
                print(f'openvino: compiled attention: {attention.obstacle or "ready"}')
        return [path, path.with_suffix('.bin')]

    def __init__(self, graph: Path, options: Options) -> None:
        super().__init__(graph, options)
        if options.use_gpu:
            raise InputError('--use-gpu True: the openvino backend runs on CPU, use --backend paddle')
        flags = runtime.cpu_flags()
        if options.precision == 'bf16' and not flags & {'avx512_bf16', 'amx_bf16'}:
            raise InputError('--precision bf16: this processor has no AVX512-BF16 or AMX instructions; use fp32')
        openvino = library()
        self.version = openvino.__version__.split('-')[0]
        self.core = openvino.Core()
        self.attention = Attention(self.core, openvino.__version__, graph)
        self.shape = _declared_shape(graph)
        cache = _cache_of(graph, self.stamps)
        if cache:
            self.core.set_property({'CACHE_DIR': cache})
        fast = options.precision != 'fp32' and flags & {'avx512_bf16', 'amx_bf16'}
        self.settings = {'INFERENCE_PRECISION_HINT': 'bf16' if fast else 'f32',
                         'INFERENCE_NUM_THREADS': options.threads * self.lanes.limit,
                         # The streams of each model are pinned from the first core on: a run of one image and one of
                         # two, which are two models, would share a core beside an idle one.
                         'ENABLE_CPU_PINNING': self.lanes.limit == 1}
        self.set_streams(max(1, min(options.threads, self.chunk // PART)))

    def set_streams(self, streams: int) -> None:
        """Split runs of ``chunk`` images into this many parts. The constructor sets the fastest number; benchmarks set
        others."""
        self.streams, self.part = streams, self.chunk // streams
        self.models: Dict[Plan, Any] = {}
        self.seen: Counter[Plan] = collections.Counter()
        self.compiling = threading.Lock()
        self.lanes = Lanes({}, lambda lane: {}, self.lanes.limit)  # a lane: {plan: requests}

    def _model(self, plan: Plan) -> Any:
        """The model for a plan; compiled at first use, so that a single image does not wait for that of other sizes."""
        if plan in self.models:
            return self.models[plan]
        with self.compiling:
            if plan not in self.models:
                self.models[plan] = self._compiled(plan)
            return self.models[plan]

    def _compiled(self, plan: Plan) -> Any:
        """InputError when the file is no model, or is not the one that this engine was made of."""
        settings, problem = {**self.settings, 'NUM_STREAMS': plan.streams * self.lanes.limit}, ''
        try:
            model = None if self.is_replaced() else self.core.compile_model(self._read(plan), 'CPU', settings)
        except RuntimeError as error:
            problem = f'OpenVINO cannot load this model ({reason(error)})'
        if self.is_replaced():
            problem = 'was replaced after it was loaded; start again'
        if problem:
            raise InputError(f'{self.graph}: {problem}')
        return model

    def _read(self, plan: Plan) -> Any:
        """The model for a plan, or its file, of which the compiler finds the compiled model without reading it."""
        if plan.part == 1 and not self._is_compiled(plan.streams):
            return str(self.graph)
        model = self.core.read_model(str(self.graph))
        model.reshape(_with_batch(model, plan.part))
        if self._is_compiled(plan.streams):
            self.attention.replace(model, self.settings['INFERENCE_PRECISION_HINT'] == 'bf16')
        return model

    def _is_compiled(self, streams: int) -> bool:
        """Whether the compiled attention is used. Where AMX multiplies and several streams compute, it is ahead from 8
        heads on, whose mixing takes the time, and behind with 4 (measured: docs/speed.md)."""
        if self.attention.obstacle:
            return False
        amx = self.settings['INFERENCE_PRECISION_HINT'] == 'bf16' and 'amx_bf16' in runtime.cpu_flags()
        return not amx or streams * self.lanes.limit == 1 or self.attention.heads >= MANY_HEADS

    def _padded(self, images: int) -> Plan:
        """The plan that is always there."""
        return Plan(1, 1) if images == 1 else Plan(self.part, self.streams)

    def _fitting(self, images: int) -> Plan:
        """The fastest plan (measured: benchmarks/results/openvino_parts.json): whole parts, or as even ones as few
        images allow; all images on one stream where those would be padded by a quarter or more."""
        part = min(self.part, -(-images // self.streams))
        if images < self.chunk and 4 * (part * self.streams - images) >= part * self.streams:
            return Plan(images, 1)
        return Plan(part, self.streams)

    def _plan(self, images: int) -> Plan:
        """The fitting plan where its model is there, which a size that comes often gets in the background: compiling
        takes as long as some dozens of runs, and memory."""
        padded, fitting = self._padded(images), self._fitting(images)
        if fitting not in self.models and self.models and self.is_replaced():
            return next(iter(self.models))  # there will be no others
        if fitting == padded or fitting in self.models:
            return fitting
        self.seen[fitting] += 1
        if self.seen[fitting] == OFTEN and sum(count >= OFTEN for count in self.seen.values()) <= MORE_SIZES:
            threading.Thread(target=self._compile_quietly, args=(fitting,)).start()
        return padded

    def _compile_quietly(self, plan: Plan) -> None:
        with contextlib.suppress(InputError):  # without memory for it: padded as before
            self._model(plan)

    def prepare(self, images: int) -> None:
        self._model(self._fitting(images))

    def whole(self, images: int) -> int:
        return next(count for count in range(images, 0, -1) if self._is_whole(count))

    def _is_whole(self, images: int) -> bool:
        fitting = self._fitting(images)
        plan = fitting if fitting in self.models else self._padded(images)
        return images % (plan.part * plan.streams) == 0

    @property
    def image_shape(self) -> Optional[Tuple[Any, ...]]:
        return self.shape

    def run_all(self, images: np.ndarray, lane: Dict[Plan, List[Any]]) -> np.ndarray:
        """All images, part by part, on all streams; the last part is padded with its last image."""
        plan = self._plan(len(images))
        if plan not in lane:
            lane[plan] = [self._model(plan).create_infer_request() for _ in range(plan.streams)]
        requests, part, starts = lane[plan], plan.part, range(0, len(images), plan.part)
        results: List[np.ndarray] = []
        for index, start in enumerate(starts):
            request = requests[index % len(requests)]
            if index >= len(requests):
                results.append(_logits(request))
            inputs = images[start:start + part]
            if len(inputs) < part:
                inputs = np.concatenate([inputs, np.repeat(inputs[-1:], part - len(inputs), 0)])
            request.start_async({0: inputs})
        for index in range(len(results), len(starts)):
            results.append(_logits(requests[index % len(requests)]))
        return np.concatenate(results)[:len(images)]

    def describe(self) -> Dict[str, Any]:
        return {'engine': f'OpenVINO {self.version}', 'device': 'cpu', 'mkldnn': False, 'ir_optim': True,
                'tensorrt': False, 'memory_optim': True, 'threads': self.options.threads, 'streams': self.streams,
                'attention': 'compiled' if self._is_compiled(self.streams) else 'from the file'}


def _with_batch(model: Any, batch: int) -> List[int]:
    """The input shape of a model for ``batch`` images."""
    return [batch, *[axis.get_length() for axis in list(model.inputs[0].partial_shape)[1:]]]


def _logits(request: Any) -> np.ndarray:
    request.wait()
    return request.get_output_tensor(0).data.copy()


def _quantize(model: Any, net: Network, calibration: np.ndarray) -> Any:
    """NNCF int8 with SmoothQuant for ``quantized_layers``; ``calibration`` are images in the form of the graph's input.

    Sets NNCF's log level to ERROR."""
    import logging

    import nncf

    from CaiT.deploy.quantize import quantized_layers
    nncf.set_log_level(logging.ERROR)
    quantized = set(quantized_layers(net))
    ignored = [node.get_friendly_name() for node in model.get_ordered_ops()
             if node.get_type_name() in ('MatMul', 'Convolution') and node.get_friendly_name() not in quantized]
    return nncf.quantize(
        model, nncf.Dataset([image[None] for image in calibration]), preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(names=ignored))
