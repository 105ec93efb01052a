# SPDX-License-Identifier: Apache-2.0
"""Paddle Inference on CPU and GPU.

Observed with Paddle 3.3 on CPU: oneDNN is enabled by default; the default is one thread; ``enable_memory_optim`` makes
``create_predictor`` raise for models of Paddle 3, unless ``enable_new_ir(True)`` and ``enable_new_executor()`` were
called, and is not called on a CPU; int8 switches are accepted but ignored, so int8
is not supported; graphs whose first operation has only parameters as inputs crash oneDNN (the models expand their class
token to the batch for that reason).
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Set, Tuple, Union

import numpy as np

from CaiT import runtime
from CaiT.deploy.engines import BaseEngine, Options, paddle_gpu, reason, stem
from CaiT.deploy.engines.lanes import Lanes, NoMore
from CaiT.deploy.engines.paddle_run import runner
from CaiT.errors import InputError

if TYPE_CHECKING:  # for export only: importing them would slow down the start of inference
    from paddle.nn import Layer

    from CaiT.data.transforms import DataConfig
    from CaiT.deploy.network import Network
    from CaiT.deploy.parity import CheckSet


def declared_shape(graph: Path, name: str) -> Optional[Tuple[int, ...]]:
    """Shape of one of the images that the graph's input ``name`` takes; None where the file does not say. Paddle's
    predictor has no word for it and computes with any shape that the operations happen to take."""
    try:
        if graph.suffix == '.pdmodel':
            from paddle.base.core import ProgramDesc
            program = ProgramDesc(graph.read_bytes())  # owns what follows
            return next(tuple(one.shape()[1:]) for one in program.block(0).all_vars() if one.name() == name)
        for operation in json.loads(graph.read_bytes())['program']['regions'][0]['blocks'][0]['ops']:
            values = {one['N']: one['AT']['D'] for one in operation['A']} if operation['#'] == '1.data' else {}
            if values.get('name') == name:
                return tuple(values['shape'][1:])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, RuntimeError, StopIteration):
        pass  # another format's version
    return None


class Lane:
    """A predictor, or a clone of it, and the places where its images and logits go."""

    def __init__(self, predictor: Any, on_gpu: bool = False) -> None:
        self.predictor = predictor
        self.free_run = predictor.run if on_gpu else runner(predictor)  # the latter was tested on CPUs
        self.inputs = predictor.get_input_handle(predictor.get_input_names()[0])
        self.outputs = predictor.get_output_handle(predictor.get_output_names()[0])
        self.known: Set[Tuple[int, ...]] = set()

    def run(self, images: np.ndarray) -> np.ndarray:
        """The first run of a shape can fail, and is Paddle's own."""
        self.inputs.reshape(images.shape)
        self.inputs.copy_from_cpu(images)
        (self.free_run if images.shape in self.known else self.predictor.run)()
        self.known.add(images.shape)
        return self.outputs.copy_to_cpu()


class Engine(BaseEngine):
    name = 'paddle'
    precisions = ('fp32', 'bf16', 'fp16')  # fp16: on a GPU
    endings = ('.json', '.pdiparams')  # or .pdmodel, of Paddle 2
    module = 'paddle'
    install = 'pip install paddlepaddle==3.3.1'

    @staticmethod
    def write(net: Union[Network, Layer], folder: Path, options: Options, data: DataConfig,
              calibration: Optional[CheckSet]) -> List[Path]:
        """A graph with a dynamic batch size; the precision is chosen when it is loaded. Talking heads as a small matmul
        whose reshapes oneDNN fuses, three GEMMs for queries, keys and values: the fastest formulation here. A dynamic
        model in the place of ``net`` is written as its plain graph."""
        import paddle

        from CaiT.deploy.engines.paddle_ops import InferenceLayer, PlainLayer
        from CaiT.deploy.simplify import raw_input, simplify
        path = folder / stem('inference', options)
        if not path.with_suffix('.json').is_file():
            raw = options.input == 'uint8'
            if isinstance(net, paddle.nn.Layer):
                layer = PlainLayer(net, data.image_size, (data.mean, data.std) if raw else None)
            else:
                net = simplify(net, 'folded', True)
                layer = InferenceLayer(raw_input(net, data.mean, data.std) if raw else net)
            spec = [paddle.static.InputSpec(layer.shape(None), layer.dtype, 'x')]
            paddle.jit.save(layer, str(path), input_spec=spec)
        return [path.with_suffix('.json'), path.with_suffix('.pdiparams')]

    def __init__(self, graph: Path, options: Options) -> None:
        """``graph`` is a ``.json`` of Paddle 3 or a ``.pdmodel`` of Paddle 2; the weights are beside it.

        Calls runtime.prepare, which sets process-wide environment variables."""
        super().__init__(graph, options)
        device = 'gpu' if options.use_gpu else 'cpu'
        runtime.prepare(options.threads, device)
        runtime.follow(device)
        from paddle import inference
        if options.use_gpu:
            self.config = paddle_gpu.configure(inference, graph, options, declared_shape(graph, 'x'))
        else:
            self.config = inference.Config(str(graph), str(graph.with_suffix('.pdiparams')))
            self.config.disable_glog_info()
            self._cpu(options)
        try:
            lane = Lane(inference.create_predictor(self.config), options.use_gpu)
        except (RuntimeError, ValueError) as error:
            raise InputError(f'{graph}: Paddle Inference cannot load this model ({reason(error)})') from None
        name = lane.predictor.get_input_names()[0]
        self.shape = declared_shape(graph, name)
        self.lanes = Lanes(lane, self._clone, self.lanes.limit)

    def _clone(self, lane: Lane) -> Lane:
        """Another lane; NoMore when the files were replaced, for Paddle's clone reads them again (3.3.1)."""
        try:
            clone = None if self.is_replaced() else Lane(lane.predictor.clone(), self.options.use_gpu)
        except (RuntimeError, ValueError):  # of files that were replaced meanwhile, for one
            if not self.is_replaced():
                raise
        if self.is_replaced():
            print(f'{self.graph}: was replaced; the model that was loaded goes on with fewer streams than asked for, '
                  'until the program is started again', file=sys.stderr)
            raise NoMore
        return clone

    def _cpu(self, options: Options) -> None:
        if options.precision == 'fp16':
            raise InputError('--precision fp16: a CPU would ignore it, expected fp32 or bf16, or --use-gpu True')
        self.config.set_cpu_math_library_num_threads(options.threads)
        if options.use_mkldnn:
            self.config.enable_mkldnn()
        elif options.precision == 'bf16':
            raise InputError('--precision bf16: needs oneDNN, found --use-mkldnn False')
        else:
            self.config.disable_mkldnn()
        if options.precision == 'bf16':
            if 'avx512_bf16' not in runtime.cpu_flags():
                raise InputError('--precision bf16: this processor has no AVX512-BF16 instructions; use fp32')
            self.config.enable_mkldnn_bfloat16()

    @property
    def image_shape(self) -> Optional[Tuple[Any, ...]]:
        return self.shape

    def run_batch(self, images: np.ndarray, lane: Lane) -> np.ndarray:
        return lane.run(images)

    def describe(self) -> Dict[str, Any]:
        import paddle
        gpu = self.config.use_gpu()
        return {'engine': f'Paddle Inference {paddle.__version__}', 'device': 'gpu' if gpu else 'cpu',
                'mkldnn': not gpu and self.config.mkldnn_enabled(), 'ir_optim': self.config.ir_optim(),
                'tensorrt': self.options.use_tensorrt, 'memory_optim': gpu and self.graph.suffix == '.json',
                'threads': self.config.cpu_math_library_num_threads()}
