# SPDX-License-Identifier: Apache-2.0
"""PyTorch's ``.pth``, ``.pt``, ``.bin`` and ``.ckpt``, of torch.save before and since 1.6, without PyTorch.

Since 1.6 a file is a zip archive: ``data.pkl`` describes the tensors, ``data/<key>`` holds the numbers of a storage.
Before, it is five pickles (magic number, protocol, system, content, keys of the storages) and then the storages, each
as an int64 count and its numbers. Tensors are read when they are asked for: an optimizer's never.
"""
from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from typing import IO, Any, Callable, Dict, Optional

import numpy as np

from CaiT.errors import InputError, shown
from CaiT.pickled_objects import ADMITTED, Global, Inert, make_tuple
from CaiT.safe_pickle import Unpickler
from CaiT.weights.archives import open_zip, read_member
from CaiT.weights.bfloat16 import Bfloat16

MAGIC = b'\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'  # the number with which the old format begins, pickled
# torch's dtypes and the names of their storages; bfloat16 is read as its bits.
DTYPES = {'float32': '<f4', 'float64': '<f8', 'float16': '<f2', 'bfloat16': '<u2', 'int8': 'i1', 'uint8': 'u1',
          'int16': '<i2', 'int32': '<i4', 'int64': '<i8', 'bool': '?'}
STORAGES = {'FloatStorage': 'float32', 'DoubleStorage': 'float64', 'HalfStorage': 'float16',
            'BFloat16Storage': 'bfloat16', 'CharStorage': 'int8', 'ByteStorage': 'uint8', 'ShortStorage': 'int16',
            'IntStorage': 'int32', 'LongStorage': 'int64', 'BoolStorage': 'bool', 'UntypedStorage': 'uint8'}


@dataclass
class Storage:
    """``numel`` numbers of a dtype of DTYPES; ``read`` gives their bytes."""
    dtype: str
    numel: int
    read: Optional[Callable[[], bytes]] = None
    content: Optional[np.ndarray] = None

    def array(self, dtype: str) -> np.ndarray:
        """The numbers, flat; ``dtype`` is the storage's own unless that is untyped."""
        if self.content is None:
            data = self.read() if self.read else b''
            if len(data) != self.numel * np.dtype(DTYPES[self.dtype]).itemsize:
                raise InputError(f'a storage of {self.numel} {self.dtype} holds {len(data)} bytes')
            self.content = np.frombuffer(data, np.uint8)
        if self.content.nbytes % np.dtype(DTYPES[dtype]).itemsize:
            raise InputError(f'a storage of {self.content.nbytes} bytes holds no {dtype}')
        return self.content.view(DTYPES[dtype])


class Tensor(Inert):
    """A tensor that is read when it is asked for; the offset and the strides count numbers."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: Optional[str] = None) -> None:
        super().__init__('tensor')
        if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise pickle.UnpicklingError('a tensor that is not as PyTorch writes it')
        self.dtype = dtype or storage.dtype
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > 32 or not all(type(n) is int and 0 <= n < 2 ** 62 for n in numbers):
            raise pickle.UnpicklingError('a tensor with an impossible shape')
        self.storage, self.offset, self.shape, self.stride = storage, offset, size, stride

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def array(self) -> np.ndarray:
        """The tensor; bfloat16 becomes float32."""
        flat = self.storage.array(self.dtype)
        last = self.offset + sum((count - 1) * step for count, step in zip(self.shape, self.stride))
        if math.prod(self.shape) == 0:
            result = np.zeros(self.shape, flat.dtype)
        elif last >= flat.size or math.prod(self.shape) > flat.size:
            raise InputError(f'a tensor of shape {shown(str(self.shape))} in a storage of {flat.size} numbers')
        else:
            result = np.lib.stride_tricks.as_strided(flat[self.offset:], self.shape,
                                                     [step * flat.itemsize for step in self.stride])
        return Bfloat16(result).array() if self.dtype == 'bfloat16' else result


def _v2(_: Unpickler, storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> Tensor:
    return Tensor(storage, offset, size, stride)


def _v3(_: Unpickler, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any,
        *_rest: Any) -> Tensor:
    if not isinstance(dtype, Global) or dtype.name not in DTYPES:
        raise pickle.UnpicklingError('a tensor of a type that is not read here')
    return Tensor(storage, offset, size, stride, dtype.name)


class TorchUnpickler(Unpickler):
    """``find`` gives the reader of a storage's bytes by its key; ``storages`` are those the pickle named."""
    admitted = {
        **ADMITTED, ('torch._utils', '_rebuild_tensor'): _v2, ('torch._utils', '_rebuild_tensor_v2'): _v2,
        ('torch._utils', '_rebuild_tensor_v3'): _v3,
        ('torch._utils', '_rebuild_parameter'): lambda unpickler, tensor, *_: tensor,
        ('torch._utils', '_rebuild_parameter_with_state'): lambda unpickler, tensor, *_: tensor,
        ('torch._tensor', '_rebuild_from_type_v2'): lambda unpickler, make, kind, arguments, *_: unpickler.call(
            make, arguments),
        ('torch', 'Size'): make_tuple,
    }
    inert = {'torch': (*DTYPES, *STORAGES, 'float', 'double', 'half', 'long', 'int', 'device', 'Tensor', 'Generator'),
             'torch.storage': ('UntypedStorage', 'TypedStorage'), 'torch.serialization': ('_get_layout',),
             'torch.nn.parameter': ('Parameter',), 'torch._tensor': ('Tensor',)}

    def __init__(self, file: IO[bytes], find: Optional[Callable[[str], Callable[[], bytes]]] = None) -> None:
        super().__init__(file)
        self.find, self.storages = find, {}

    def is_inert(self, module: str, name: str) -> bool:
        return name in self.inert.get(module, ()) or super().is_inert(module, name)

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != 'storage' or pid[5:] not in ((), (None,)):
            raise InputError('holds more than tensors (a pickled module?), expected the state dict of a model')
        _, kind, key, _, numel = pid[:5]
        if not isinstance(kind, Global) or kind.name not in STORAGES or not isinstance(key, str):
            raise InputError(f'holds numbers of type {shown(getattr(kind, "name", None))}, expected one of '
                             + ', '.join(DTYPES))
        if type(numel) is not int or not 0 <= numel < 2 ** 62:
            raise pickle.UnpicklingError('a storage of an impossible size')
        if key not in self.storages:
            self.storages[key] = Storage(STORAGES[kind.name], numel, self.find(key) if self.find else None)
        return self.storages[key]


def is_old_format(head: bytes) -> bool:
    """Whether the first bytes of a file are those of torch.save before 1.6: a pickle of the magic number."""
    return head[:1] == b'\x80' and MAGIC in head[2:2 + 9 + len(MAGIC)]  # from protocol 4 on behind a frame's 9 bytes


def read_torch(path: str) -> Any:
    """What a PyTorch file holds: nested dicts of Tensor and whatever stands beside them."""
    with open(path, 'rb') as file:
        old = is_old_format(file.read(64))
        file.seek(0)
        if old:
            return _read_old(file, path)
    archive = open_zip(path)
    record = min((name for name in archive.namelist() if name.endswith('/data.pkl')), key=len)
    folder = record[:-len('data.pkl')]
    if f'{folder}byteorder' in archive.namelist() and read_member(archive, f'{folder}byteorder') != b'little':
        raise InputError('was written on a big-endian machine, which is not read here')
    with archive.open(record) as file:
        return TorchUnpickler(file, lambda key: lambda: read_member(archive, f'{folder}data/{key}')).load()


def _read_old(file: IO[bytes], path: str) -> Any:
    Unpickler(file).load()  # the magic number
    version, system = Unpickler(file).load(), Unpickler(file).load()
    if version != 1001 or not isinstance(system, dict) or not system.get('little_endian', True):
        raise InputError('is of a PyTorch or a machine that is not read here')
    unpickler = TorchUnpickler(file)
    content, keys = unpickler.load(), Unpickler(file).load()
    place = file.tell()
    storages: Dict[str, Storage] = unpickler.storages
    for key in keys if isinstance(keys, list) else ():
        if key not in storages:
            raise InputError(f'lists a storage that no tensor uses ({shown(key)})')
        storage = storages[key]
        size = storage.numel * np.dtype(DTYPES[storage.dtype]).itemsize
        file.seek(place)
        if int.from_bytes(file.read(8), 'little') != storage.numel:
            raise InputError('truncated or damaged: a storage is not where it should be')
        storage.read = _span(path, place + 8, size)
        place += 8 + size
    if place > file.seek(0, 2):
        raise InputError(f'truncated: {place:,} bytes are described, {file.tell():,} are there')
    return content


def _span(path: str, start: int, size: int) -> Callable[[], bytes]:
    def read() -> bytes:
        with open(path, 'rb') as file:
            file.seek(start)
            return file.read(size)
    return read
