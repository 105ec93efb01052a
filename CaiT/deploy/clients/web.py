# SPDX-License-Identifier: Apache-2.0
"""The folder ``web`` of an export: a page that classifies images in the browser, for any static web server.

Its graph takes raw uint8 images, one more output is the class token's attention. The page is in ``web_page``; what
differs between models is in ``model.json``. Nothing is loaded from another host.
"""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

import PIL

from CaiT.deploy import parity
from CaiT.deploy.clients import Request, ort_web
from CaiT.deploy.engines import Options, engine_class
from CaiT.deploy.export import reference_logits
from CaiT.deploy.folder import check_space, renamed_into
from CaiT.deploy.rewritable import obstacle
from CaiT.errors import InputError

FOLDER, PAGE = 'web', 'index.html'
SOURCE = Path(__file__).resolve().parent / 'web_page'
# For hosts that read such a file (Cloudflare Pages, Netlify): browsers give threads to isolated pages only.
HEADERS = '/*\n  Cross-Origin-Opener-Policy: same-origin\n  Cross-Origin-Embedder-Policy: require-corp\n'


def write(request: Request) -> List[str]:
    """Write and check the folder; InputError, and nothing written, when its logits are not the model's."""
    problem = obstacle(request.model)
    if problem:
        raise InputError(f'--client web: {request.metadata.model} has no ONNX graph ({problem}), expected a model that '
                         '--backend onnxruntime can export')
    engine = engine_class('onnxruntime', request.precision)
    folder = Path(request.folder) / FOLDER
    reference = reference_logits(request.model, request.checks.array('float'))
    with renamed_into(folder, PAGE) as temporary:
        graph = temporary / 'model.onnx'
        prefix = _save(request, graph)
        check_space(temporary)
        options = Options(request.precision, 'uint8')
        measured = parity.measure(reference, engine(graph, options).run, request.checks.array('uint8'))
        parity.check(measured, request.precision, '--client web')
        for file in sorted(SOURCE.iterdir()):
            shutil.copyfile(file, temporary / file.name)
        ort_web.copy(request.ort_web, temporary)
        (temporary / 'model.json').write_text(
            json.dumps(description(request, graph.stat().st_size, prefix)), encoding='utf-8')
        (temporary / '_headers').write_text(HEADERS, encoding='ascii')
    return [f'{folder}: {request.precision} page for any web server; largest difference to the dynamic model '
            f'{measured["relative"]:.1e} of max|logit|, same class on {measured["argmax_agreement"]} of '
            f'{measured["images"]} images; try it: python -m http.server -d {folder}']


def description(request: Request, size: int, prefix: int) -> Dict[str, Any]:
    """The content of ``model.json``. ``size``: bytes of the graph, ``prefix``: tokens before the patches."""
    metadata = request.metadata
    return {'name': metadata.model, 'num_classes': metadata.num_classes, 'classes': metadata.class_names or [],
            'data': metadata.data.as_dict(), 'precision': request.precision, 'bytes': size, 'prefix': prefix,
            'ort_web': ort_web.VERSION, 'pillow': int(PIL.__version__.split('.')[0])}


def _save(request: Request, graph: Path) -> int:
    """Write the graph; the number of its tokens before the patches."""
    import onnx

    from CaiT.deploy import quantize
    from CaiT.deploy.engines.onnx_ops import onnx_model
    from CaiT.deploy.simplify import from_model, raw_input, simplify
    net, quantized = simplify(from_model(request.model), 'matmul', True), []
    if request.precision == 'int8':
        net = quantize.smooth(net, quantize.input_maxima(net, request.calibration.array('float')))
        quantized = quantize.quantized_layers(net)
    data = request.metadata.data
    onnx.save(onnx_model(raw_input(net, data.mean, data.std), quantized, attention=True), str(graph))
    return len(net.prefix)
