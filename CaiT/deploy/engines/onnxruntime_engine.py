# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on CPU: fp32, and int8 with dynamically quantized activations.

bf16 is not supported: the CPU kernels silently fall back to fp32.
"""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np

from CaiT.deploy.engines import BaseEngine, Options, reason, stem
from CaiT.errors import InputError

if TYPE_CHECKING:  # for export only: importing them would slow down the start of inference
    from CaiT.data.transforms import DataConfig
    from CaiT.deploy.network import Network
    from CaiT.deploy.parity import CheckSet


class Engine(BaseEngine):
    name = 'onnxruntime'
    precisions = ('fp32', 'int8')
    endings = ('.onnx',)
    module = 'onnxruntime'
    install = 'pip install onnxruntime onnx'

    @staticmethod
    def write_needs(precision: str) -> Tuple[str, ...]:
        return ('onnx',)

    @staticmethod
    def write(net: Network, folder: Path, options: Options, data: DataConfig,
              calibration: Optional[CheckSet]) -> List[Path]:
        """One ``.onnx`` file. Talking heads as a small matmul, three GEMMs for queries, keys and values: the fastest
        formulation here. int8: SmoothQuant with ``calibration``, activations quantized dynamically."""
        import onnx

        from CaiT.deploy import quantize
        from CaiT.deploy.engines.onnx_ops import onnx_model
        from CaiT.deploy.simplify import raw_input, simplify
        path = folder / f'{stem("onnxruntime", options)}.onnx'
        net, quantized = simplify(net, 'matmul', True), []
        if options.precision == 'int8':
            net = quantize.smooth(net, quantize.input_maxima(net, calibration.array('float')))
            quantized = quantize.quantized_layers(net)
        if options.input == 'uint8':
            net = raw_input(net, data.mean, data.std)
        onnx.save(onnx_model(net, quantized), str(path))
        return [path]

    def __init__(self, graph: Path, options: Options) -> None:
        super().__init__(graph, options)
        if options.use_gpu:
            raise InputError('--use-gpu True: the onnxruntime backend runs on CPU, use --backend paddle')
        import onnxruntime
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.log_severity_level = 3
        # Without VNNI products of int8 would overflow 16 bits: take slower ones. Other processors ignore it.
        settings.add_session_config_entry('session.x64quantprecision', '1')
        try:
            self.session = onnxruntime.InferenceSession(str(graph), settings, providers=['CPUExecutionProvider'])
        except Exception as error:  # its exceptions have no common base class
            raise InputError(f'{graph}: ONNX Runtime cannot load this model ({reason(error)})') from None
        self.input = self.session.get_inputs()[0].name
        self.version = onnxruntime.__version__

    @property
    def rows_are_independent(self) -> bool:
        """In int8 the scale of the activations is that of the largest value in the batch."""
        return self.options.precision != 'int8'

    @property
    def image_shape(self) -> Tuple[Any, ...]:
        return tuple(self.session.get_inputs()[0].shape[1:])

    def run_batch(self, images: np.ndarray, lane: None) -> np.ndarray:
        """Sessions take any number of threads; a lane only counts them."""
        return self.session.run(None, {self.input: images})[0]

    def describe(self) -> Dict[str, Any]:
        return {'engine': f'ONNX Runtime {self.version}', 'device': 'cpu', 'mkldnn': False, 'ir_optim': True,
                'tensorrt': False, 'memory_optim': True, 'threads': self.options.threads}
