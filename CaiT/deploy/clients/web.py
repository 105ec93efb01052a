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

from CaiT.deploy import attention_graph
from CaiT.deploy.clients import Request, ort_web
from CaiT.deploy.export import reference_logits
from CaiT.deploy.folder import renamed_into

FOLDER, PAGE = 'web', 'index.html'
SOURCE = Path(__file__).resolve().parent / 'web_page'
# For hosts that read such a file (Cloudflare Pages, Netlify): browsers give threads to isolated pages only.
HEADERS = '/*\n  Cross-Origin-Opener-Policy: same-origin\n  Cross-Origin-Embedder-Policy: require-corp\n'


def write(request: Request) -> List[str]:
    """Write and check the folder; InputError, and nothing written, when its logits are not the model's."""
    folder, flag = Path(request.folder) / FOLDER, f'--client {FOLDER}'
    attention_graph.check(request.model, request.metadata.model, flag, request.precision)
    with renamed_into(folder, PAGE) as temporary:
        graph = temporary / 'model.onnx'
        reference = reference_logits(request.model, request.checks.array('float'))
        measured = attention_graph.write(request.model, graph, request.metadata.data, request.checks, reference, flag,
                                         request.precision, request.calibration)
        for file in sorted(SOURCE.iterdir()):
            shutil.copyfile(file, temporary / file.name)
        ort_web.copy(request.ort_web, temporary)
        (temporary / 'model.json').write_text(
            json.dumps(description(request, graph.stat().st_size, measured['prefix'])), encoding='utf-8')
        (temporary / '_headers').write_text(HEADERS, encoding='ascii')
    return [f'{folder}: {request.precision} page for any web server; largest difference to the dynamic model '
            f'{measured["relative"]:.1e} of max|logit|, same class on {measured["argmax_agreement"]} of '
            f'{measured["images"]} images; try it: python -m http.server -d {folder}']


def description(request: Request, size: int, prefix: int) -> Dict[str, Any]:
    """The content of ``model.json``. ``size``: bytes of the graph, ``prefix``: tokens before the patches."""
    metadata = request.metadata
    return {'name': metadata.model, 'num_classes': metadata.num_classes, 'classes': metadata.class_names or [],
            'activation': metadata.activation, 'data': metadata.data.as_dict(),
            'precision': request.precision, 'bytes': size, 'prefix': prefix,
            'ort_web': ort_web.VERSION, 'pillow': int(PIL.__version__.split('.')[0])}
