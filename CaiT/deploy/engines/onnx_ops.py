# SPDX-License-Identifier: Apache-2.0
"""The inference graph as ONNX (opset 20), for ONNX Runtime and OpenVINO.

Written directly rather than converted from Paddle's format: weights are initializers under their public names, which
quantizers match, and the engine gets exactly the graph of simplify.py.
"""
from __future__ import annotations

from typing import Any, Dict, Iterable, List, Optional, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from CaiT.deploy.attention_outputs import compute_outputs
from CaiT.deploy.network import EPS, Array, Network

OPSET, IR = 20, 10  # Gelu is an operator since opset 20; IR 10 is what ONNX 1.17 writes


class OnnxOps:
    """graph.Ops for ONNX: appends nodes; a tensor is represented by its name. The Linear layers named in ``quantized``
    compute in int8."""

    def __init__(self, quantized: Iterable[str] = ()) -> None:
        self.quantized = frozenset(quantized)
        self.quantized_inputs: Dict[str, List[str]] = {}
        self.nodes: List[Any] = []
        self.initializers: Dict[str, Array] = {}
        self.ranks: Dict[str, int] = {'x': 4}  # number of axes of each tensor

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, name: str = '', **attributes: Any) -> Any:
        """Append a node; returns the name of its output, or a list of names."""
        name = name or f'{kind}_{len(self.nodes)}'
        names = [f'{name}:{index}' for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        rank = max(self.ranks[one] for one in inputs)
        self.ranks.update(dict.fromkeys(names, rank))
        return names[0] if outputs == 1 else names

    def constant(self, name: str, value: Array) -> str:
        self.initializers[name], self.ranks[name] = value, value.ndim
        return name

    def array(self, name: str, value: Array) -> str:
        return self.constant(name, np.ascontiguousarray(value, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        return self.constant('shape:' + ','.join(map(str, values)), np.asarray(values, np.int64))

    def linear(self, x: str, name: str, weight: Array, bias: Optional[Array]) -> str:
        if name in self.quantized:
            y = self.linear_int8(x, name, weight)
        else:
            y = self.node('MatMul', [x, self.array(f'{name}.weight', weight)], name=name)
        return y if bias is None else self.add(y, self.array(f'{name}.bias', bias))

    def linear_int8(self, x: str, name: str, weight: Array) -> str:
        """x W with W quantized to int8, one scale per column, and x dynamically to uint8."""
        scale = np.abs(weight).max(0) / 127
        if x not in self.quantized_inputs:  # queries, keys and values have the same input
            self.quantized_inputs[x] = self.node('DynamicQuantizeLinear', [x], 3)
        values, x_scale, zero_point = self.quantized_inputs[x]
        levels = self.constant(f'{name}.weight_int8', np.round(weight / scale).astype(np.int8))
        y = self.node('MatMulInteger', [values, levels, zero_point], name=name)
        return self.multiply(self.to_float(y), self.multiply(x_scale, self.array(f'{name}.scale_int8', scale)))

    def matmul(self, x: str, y: str, transpose_y: bool = False) -> str:
        if transpose_y:
            rank = self.ranks[y]
            y = self.transpose(y, [*range(rank - 2), rank - 1, rank - 2])
        return self.node('MatMul', [x, y])

    def add(self, x: str, y: str) -> str:
        return self.node('Add', [x, y])

    def multiply(self, x: str, y: str) -> str:
        return self.node('Mul', [x, y])

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        y = self.node('Reshape', [x, self.integers(shape)])
        self.ranks[y] = len(shape)
        return y

    def transpose(self, x: str, axes: Sequence[int]) -> str:
        return self.node('Transpose', [x], perm=list(axes))

    def split(self, x: str, axis: int, sizes: Sequence[int]) -> List[str]:
        return self.node('Split', [x, self.integers(sizes)], len(sizes), axis=axis)

    def concat(self, parts: Sequence[str], axis: int) -> str:
        return self.node('Concat', parts, axis=axis)

    def softmax(self, x: str) -> str:
        return self.node('Softmax', [x], axis=-1)

    def gelu(self, x: str) -> str:
        return self.node('Gelu', [x])

    def layer_norm(self, x: str, name: str, weight: Optional[Array], bias: Optional[Array]) -> str:
        if weight is None:  # the operator requires a scale
            size = self.width
            inputs = [x, self.array(f'ones:{size}', np.ones(size))]
        else:
            inputs = [x, self.array(f'{name}.weight', weight)]
        if bias is not None:
            inputs.append(self.array(f'{name}.bias', bias))
        return self.node('LayerNormalization', inputs, axis=-1, epsilon=EPS)

    def conv(self, x: str, name: str, weight: Array, bias: Optional[Array]) -> str:
        self.width = weight.shape[0]  # the model's C, the width of all tokens
        inputs = [x, self.array(f'{name}.weight', weight)]
        if bias is not None:
            inputs.append(self.array(f'{name}.bias', bias))
        side = weight.shape[-1]
        return self.node('Conv', inputs, kernel_shape=[side, side], strides=[side, side])

    def to_float(self, x: str) -> str:
        return self.node('Cast', [x], to=TensorProto.FLOAT)

    def expand_batch(self, row: str, like: str) -> str:
        batch = self.node('Shape', [like], start=0, end=1)
        shape = self.concat([batch, self.integers(self.initializers[row].shape[1:])], 0)
        return self.node('Expand', [row, shape])


def onnx_model(net: Network, quantized: Iterable[str] = (), outputs: Sequence[str] = ('logits',)) -> ModelProto:
    """``net`` as a validated ONNX model: input 'x' with dynamic batch, ``outputs`` as compute_outputs has them.
    ``quantized``: see OnnxOps."""
    ops, size = OnnxOps(quantized), net.image_size
    raw = net.input == 'uint8'
    shape = ['batch', size, size, 3] if raw else ['batch', 3, size, size]
    images = helper.make_tensor_value_info('x', TensorProto.UINT8 if raw else TensorProto.FLOAT, shape)
    for name, last in zip(outputs, compute_outputs(net, ops, 'x', outputs)):
        ops.nodes.append(helper.make_node('Identity', [last], [name], name=name))
    head = 'heads.weight' if 'heads.weight' in net.arrays else 'head.weight'
    blocks, tokens = net.depth('blocks_token_only') or 1, len(net.prefix) + net.patches
    shapes = {'logits': [net.arrays[head].shape[1]], 'attention': [blocks, net.num_heads, tokens], 'rollout': [tokens]}
    described = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ['batch', *shapes[name]]) for name in outputs]
    graph = helper.make_graph(ops.nodes, 'CaiT', [images], described, [
        numpy_helper.from_array(value, name) for name, value in ops.initializers.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], producer_name='CaiT')
    model.ir_version = IR
    checker.check_model(model)
    return model
