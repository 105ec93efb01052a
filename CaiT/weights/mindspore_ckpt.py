# SPDX-License-Identifier: Apache-2.0
"""Reading MindSpore's ``.ckpt`` without MindSpore: its protobuf messages are declared here.

The messages are those of mindspore/ccsrc/utils/checkpoint.proto::

    Checkpoint { repeated Value value = 1; }
    Value      { required string tag = 1; TensorProto tensor = 2; }
    TensorProto{ repeated int64 dims = 1; required string tensor_type = 2; required bytes tensor_content = 3; }

A tensor above 512 MiB is written as several consecutive values with the same tag. With ``crc_check`` the file ends in
``crc_num`` and ten bytes, which belong to no message.
"""
from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from CaiT.errors import InputError
from CaiT.weights.pdparams import bfloat16

# MindSpore 1.x wrote 'Uint8', 2.x writes 'UInt8': compared in lower case.
DTYPES = {name: np.dtype(name) for name in ('float16', 'float32', 'float64', 'int8', 'int16', 'int32', 'int64',
                                            'uint8', 'uint16', 'uint32', 'uint64', 'bool')}
DTYPES['bfloat16'] = np.dtype('uint16')
_TRAILER = 17  # len('crc_num') + 10


def checkpoint_message() -> Any:
    """The class of the message ``Checkpoint``."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name='cait_mindspore_checkpoint.proto', package='cait_mindspore')
    for message, fields in (
            ('TensorProto', [('dims', field.LABEL_REPEATED, field.TYPE_INT64),
                             ('tensor_type', field.LABEL_REQUIRED, field.TYPE_STRING),
                             ('tensor_content', field.LABEL_REQUIRED, field.TYPE_BYTES)]),
            ('Value', [('tag', field.LABEL_REQUIRED, field.TYPE_STRING),
                       ('tensor', field.LABEL_OPTIONAL, 'TensorProto')]),
            ('Checkpoint', [('value', field.LABEL_REPEATED, 'Value')])):
        declared = file.message_type.add(name=message)
        for number, (name, label, kind) in enumerate(fields, 1):
            if isinstance(kind, str):
                declared.field.add(name=name, number=number, label=label, type=field.TYPE_MESSAGE,
                                   type_name=f'.{file.package}.{kind}')
            else:
                declared.field.add(name=name, number=number, label=label, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName(f'{file.package}.Checkpoint')
    if hasattr(message_factory, 'GetMessageClass'):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)  # protobuf 3.20, the oldest that Paddle allows


def read_mindspore(path: str) -> Dict[str, np.ndarray]:
    """The tensors of a MindSpore checkpoint by name; bfloat16 becomes float32."""
    with open(path, 'rb') as file:
        content = file.read()
    if content[-_TRAILER:].startswith(b'crc_num'):
        content = content[:-_TRAILER]
    message = checkpoint_message().FromString(content)
    del content  # as large as the message itself
    slices: Dict[str, List[Any]] = {}
    for value in message.value:
        if not value.HasField('tensor'):
            raise InputError(f'{value.tag!r} holds no tensor')
        slices.setdefault(value.tag, []).append(value.tensor)
    return {tag: _array(tag, slices.pop(tag)) for tag in list(slices)}


def _array(tag: str, slices: List[Any]) -> np.ndarray:
    """One tensor from its consecutive slices."""
    kind, dims = slices[0].tensor_type, list(slices[0].dims)
    dtype = DTYPES.get(kind.lower())
    if dtype is None:
        raise InputError(f'{tag!r} is of type {kind!r}, expected one of {", ".join(DTYPES)}')
    flat = np.frombuffer(b''.join(piece.tensor_content for piece in slices), dtype)
    if dims == [0] and flat.size == 1:  # how MindSpore writes a scalar
        dims = []
    if flat.size != int(np.prod(dims)):
        raise InputError(f'{tag!r} holds {flat.size} numbers, expected {dims}')
    array = flat.reshape(dims)
    return bfloat16(array) if kind.lower() == 'bfloat16' else array
