# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph for raw uint8 images with more outputs than logits: what the class token attends to.

``--attention`` writes it beside the export, as ``attention.onnx``; the page of ``--client web`` computes with one.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import paddle
from paddle import nn

from CaiT.data.transforms import DataConfig
from CaiT.deploy import parity, quantize
from CaiT.deploy.attention import EXPORT_NEEDS
from CaiT.deploy.engines import Options, check_installed, engine_class
from CaiT.deploy.folder import check_space
from CaiT.deploy.rewritable import obstacle
from CaiT.deploy.simplify import from_model, raw_input, simplify
from CaiT.errors import InputError

TOLERANCE = 1e-5  # of fp32 maps, whose rows sum to 1
COMPARED = 3  # check images whose maps are compared: all blocks' matrices of one image can take a gigabyte


def check(model: nn.Layer, name: str, flag: str, precision: str = 'fp32') -> None:
    """InputError for a model that has no ONNX graph, or when a library is missing."""
    problem = obstacle(model)
    if problem:
        raise InputError(f'{flag}: {name} has no ONNX graph ({problem}), expected a model that --backend onnxruntime '
                         'can export')
    check_installed(flag, EXPORT_NEEDS)
    engine_class('onnxruntime', precision)


def outputs_of(model: nn.Layer) -> List[str]:
    """The graph's outputs: rollout is of models whose class token is in all blocks."""
    return ['logits', 'attention', *([] if is_cait(model) else ['rollout'])]


def is_cait(model: nn.Layer) -> bool:
    return model.to_network()['family'] == 'cait'


def write(model: nn.Layer, graph: Path, data: DataConfig, checks: parity.CheckSet, reference: np.ndarray, flag: str,
          precision: str = 'fp32', calibration: Optional[parity.CheckSet] = None) -> Dict[str, Any]:
    """Write the graph and check it: differences from the model's logits ``reference`` and, in fp32, from its maps.

    ``prefix`` in what is returned is the number of tokens before the patches. InputError when a difference is too
    large.
    """
    import onnx

    from CaiT.deploy.engines.onnx_ops import onnx_model
    net, quantized = simplify(from_model(model), 'matmul', True), []
    if precision == 'int8':
        net = quantize.smooth(net, quantize.input_maxima(net, calibration.array('float')))
        quantized = quantize.quantized_layers(net)
    names = outputs_of(model)
    onnx.save(onnx_model(raw_input(net, data.mean, data.std), quantized, names), str(graph))
    check_space(graph.parent)
    engine = engine_class('onnxruntime', precision)(graph, Options(precision, 'uint8'))
    measured = parity.measure(reference, engine.run, checks.array('uint8'))
    parity.check(measured, precision, flag)
    if precision == 'fp32':
        measured['max_map_difference'] = _map_difference(model, engine, checks, names[1:], flag)
    return {**measured, 'prefix': len(net.prefix)}


def _map_difference(model: nn.Layer, engine: Any, checks: parity.CheckSet, names: List[str], flag: str) -> float:
    """The largest difference of a map's value over the first check images."""
    worst = 0.0
    for pixels, image in zip(checks.array('uint8')[:COMPARED], checks.array('float')[:COMPARED]):
        expected = reference_maps(model, image)
        for name, found in zip(names, engine.session.run(names, {engine.input: pixels[None]})):
            worst = max(worst, float(np.nan_to_num(np.abs(found[0] - expected[name]), nan=np.inf).max()))
    if not worst <= TOLERANCE:
        raise InputError(f'{flag}: its attention differs from the dynamic model by {worst:.1e}, allowed is '
                         f'{TOLERANCE:.0e}; nothing was written')
    return worst


def reference_maps(model: nn.Layer, image: np.ndarray) -> Dict[str, np.ndarray]:
    """``attention`` [blocks, H, N] of the dynamic model for a normalized image [3, S, S], and for ViT and DeiT
    ``rollout`` [N]."""
    rows, means = [], []

    def keep(layer: nn.Layer, inputs: Any, output: paddle.Tensor) -> None:
        rows.append(inputs[0][0, :, 0].numpy())
        means.append(inputs[0][0].mean(0).numpy())
    cait = is_cait(model)
    blocks = model.blocks_token_only if cait else model.blocks
    hooks = [block.attn.attn_drop.register_forward_post_hook(keep) for block in blocks]
    try:
        with paddle.no_grad():
            model(paddle.to_tensor(image[None]))
    finally:
        for hook in hooks:
            hook.remove()
    if cait:
        return {'attention': np.stack(rows)}
    product = np.eye(len(means[0]))
    for mean in means:
        product = (0.5 * mean + 0.5 * np.eye(len(mean))) @ product
    return {'attention': rows[-1][None], 'rollout': product[0]}
