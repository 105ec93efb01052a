# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph with two outputs: logits, and the class token's attention in the last block, [B, H, N]."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

from CaiT.deploy import parity, quantize
from CaiT.deploy.clients import Request
from CaiT.deploy.engines import Options, engine_class
from CaiT.deploy.export import reference_logits
from CaiT.deploy.folder import check_space
from CaiT.deploy.rewritable import obstacle
from CaiT.deploy.simplify import from_model, raw_input, simplify
from CaiT.errors import InputError


def write(request: Request, graph: Path, client: str) -> Tuple[int, Dict[str, Any]]:
    """Write the graph, for raw uint8 images, and check it: (tokens before the patches, differences from the model).

    InputError for a model without ONNX graph, or when its logits are not the model's.
    """
    problem = obstacle(request.model)
    if problem:
        raise InputError(f'--client {client}: {request.metadata.model} has no ONNX graph ({problem}), expected a model '
                         'that --backend onnxruntime can export')
    engine = engine_class('onnxruntime', request.precision)
    import onnx

    from CaiT.deploy.engines.onnx_ops import onnx_model
    net, quantized = simplify(from_model(request.model), 'matmul', True), []
    if request.precision == 'int8':
        net = quantize.smooth(net, quantize.input_maxima(net, request.calibration.array('float')))
        quantized = quantize.quantized_layers(net)
    data = request.metadata.data
    onnx.save(onnx_model(raw_input(net, data.mean, data.std), quantized, attention=True), str(graph))
    check_space(graph.parent)
    reference = reference_logits(request.model, request.checks.array('float'))
    run = engine(graph, Options(request.precision, 'uint8')).run
    measured = parity.measure(reference, run, request.checks.array('uint8'))
    parity.check(measured, request.precision, f'--client {client}')
    return len(net.prefix), measured
