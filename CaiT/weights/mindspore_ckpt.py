# SPDX-License-Identifier: Apache-2.0
"""MindSpore's ``.ckpt`` without MindSpore: its protobuf messages, declared here.

The messages are those of mindspore/ccsrc/utils/checkpoint.proto::

    Checkpoint { repeated Value value = 1; }
    Value      { required string tag = 1; TensorProto tensor = 2; }
    TensorProto{ repeated int64 dims = 1; required string tensor_type = 2; required bytes tensor_content = 3; }

A tensor above 512 MiB is written as several values in a row with one tag. With ``crc_check`` the file ends in
``crc_num`` and ten bytes, which belong to no message.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, Union

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from CaiT.errors import InputError, shown
from CaiT.weights.bfloat16 import Bfloat16

# MindSpore 1.x wrote 'Uint8', 2.x 'UInt8': compared in lower case.
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
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)  # protobuf 3.20, the oldest Paddle admits


def read_mindspore(path: str) -> Dict[str, Union[np.ndarray, Bfloat16]]:
    """The tensors of a MindSpore checkpoint by name."""
    with open(path, 'rb') as file:
        content = file.read()
    if content[-_TRAILER:].startswith(b'crc_num'):
        content = content[:-_TRAILER]
    message = checkpoint_message().FromString(content)
    del content  # as large as the message itself
    slices: Dict[str, List[Any]] = {}
    for value in message.value:
        if not value.HasField('tensor'):
            raise InputError(f'{shown(value.tag)!r} holds no tensor')
        slices.setdefault(value.tag, []).append(value.tensor)
    return {tag: _array(tag, slices.pop(tag)) for tag in list(slices)}


def _array(tag: str, slices: List[Any]) -> Union[np.ndarray, Bfloat16]:
    """One tensor from its consecutive pieces."""
    kind, dims = slices[0].tensor_type, list(slices[0].dims)
    dtype = DTYPES.get(kind.lower())
    if dtype is None:
        raise InputError(f'{shown(tag)!r} is of type {shown(kind)!r}, expected one of {", ".join(DTYPES)}')
    flat = np.frombuffer(b''.join(piece.tensor_content for piece in slices), dtype)
    if dims == [0] and flat.size == 1:  # how MindSpore writes a scalar
        dims = []
    if len(dims) > 32 or min(dims, default=0) < 0 or flat.size != math.prod(dims):
        raise InputError(f'{shown(tag)!r} holds {flat.size} numbers, expected {shown(str(dims))}')
    array = flat.reshape(dims)
    return Bfloat16(array) if kind.lower() == 'bfloat16' else array
