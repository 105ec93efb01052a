# SPDX-License-Identifier: Apache-2.0
"""The folder ``paddlex`` of an export: what ``paddlex.create_model`` (3.7) loads.

It takes the graph from ``inference.json`` and everything else from ``inference.yml``. Its post-processing sorts the
graph's output and prints it, so this graph ends in a softmax (sigmoid for images of several classes).
"""
from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Dict, List

import paddle
import yaml
from paddle import nn

from CaiT.deploy import parity
from CaiT.deploy.clients import Request
from CaiT.deploy.engines import Options, engine_class
from CaiT.deploy.export import reference_logits
from CaiT.deploy.folder import check_space, renamed_into
from CaiT.deploy.metadata import Metadata
from CaiT.deploy.rewritable import obstacle
from CaiT.errors import InputError

FOLDER, FILE = 'paddlex', 'inference.yml'
FILTERS = {'nearest': 'NEAREST', 'bilinear': 'BILINEAR', 'bicubic': 'BICUBIC', 'lanczos': 'LANCZOS4'}  # its names
TOPK = 5
REGISTER = 'register.py'  # in the folder, made of paddlex_register.py beside this file


class WithProbabilities(nn.Layer):
    """Probabilities [B, classes] of a layer that gives logits; ``activation`` is 'softmax' or 'sigmoid'."""

    def __init__(self, layer: nn.Layer, activation: str) -> None:
        super().__init__()
        self.layer, self.activation = layer, getattr(nn.functional, activation)
        self.eval()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.activation(self.layer(x))


def config(metadata: Metadata) -> Dict[str, Any]:
    """The content of ``inference.yml``: name, preprocessing and class names."""
    data = metadata.data
    topk: Dict[str, Any] = {'topk': min(TOPK, metadata.num_classes)}
    if metadata.class_names:
        topk['label_list'] = list(metadata.class_names)
    return {
        'Global': {'model_name': metadata.model},
        'PreProcess': {'transform_ops': [
            {'ResizeImage': {'resize_short': math.floor(data.image_size / data.crop_pct), 'backend': 'pil',
                             'interpolation': FILTERS[data.interpolation]}},
            {'CropImage': {'size': data.image_size}},
            {'NormalizeImage': {'mean': list(data.mean), 'std': list(data.std), 'scale': 1 / 255, 'order': '',
                                'channel_num': 3}},
            {'ToCHWImage': None}]},
        'PostProcess': {'Topk': topk}}


def write(request: Request) -> List[str]:
    """Write and check the folder; InputError, and nothing written, when its probabilities are not the model's."""
    metadata, folder = request.metadata, Path(request.folder) / FOLDER
    logits = paddle.to_tensor(reference_logits(request.model, request.checks.array('float')))
    probabilities = getattr(nn.functional, metadata.activation)(logits).numpy()
    with renamed_into(folder, FILE) as temporary:
        graph = temporary / 'inference.json'
        _save(request.model, metadata, graph)
        check_space(temporary)
        run = engine_class('paddle')(graph, Options()).run
        measured = parity.measure(probabilities, run, request.checks.array('float'))
        parity.check(measured, 'fp32', '--client paddlex')
        text = yaml.safe_dump(config(metadata), sort_keys=False)  # ASCII: names in any script survive any locale
        (temporary / FILE).write_text(text, encoding='ascii')
        source = Path(__file__).with_name('paddlex_register.py').read_text(encoding='utf-8')
        (temporary / REGISTER).write_text(source.replace('@NAME@', metadata.model), encoding='utf-8')
    return [f'{folder}: probabilities within {measured["max_abs_difference"]:.1e} of the dynamic model; in PaddleX:',
            f'    import runpy; runpy.run_path({str(folder / REGISTER)!r})  # makes the name known',
            f'    paddlex.create_model({metadata.model!r}, model_dir={str(folder)!r})']


def _save(model: nn.Layer, metadata: Metadata, graph: Path) -> None:
    from CaiT.deploy.engines.paddle_ops import InferenceLayer, PlainLayer
    from CaiT.deploy.simplify import from_model, simplify
    if obstacle(model):
        layer: Any = PlainLayer(model, metadata.data.image_size, None)
    else:
        layer = InferenceLayer(simplify(from_model(model), 'folded', True))
    spec = [paddle.static.InputSpec(layer.shape(None), layer.dtype, 'x')]
    try:
        paddle.jit.save(WithProbabilities(layer, metadata.activation), str(graph.with_suffix('')), input_spec=spec)
    except Exception as error:  # of the library; what it raises on a full disk blames something else
        check_space(graph.parent)
        raise InputError(f'--client paddlex: cannot write this model ({error})') from error
