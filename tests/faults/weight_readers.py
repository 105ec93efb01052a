# SPDX-License-Identifier: Apache-2.0
"""The readers of weights for tests/faults/readers.py: files of every format, with the arrays of a tiny model."""
from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

ARRAYS = {name: (np.arange(np.prod(shape)).reshape(shape) % 7).astype(np.float32) for name, shape in (
    ('cls_token', (1, 1, 4)), ('pos_embed', (1, 4, 4)), ('blocks.0.norm1.weight', (4,)),
    ('blocks.0.mlp.fc1.weight', (4, 4)), ('head.bias', (3,)))}


def read_weights(path: Path) -> Any:
    from CaiT.weights.data_configs import find
    from CaiT.weights.readers import read_checkpoint
    checkpoint = read_checkpoint(path)
    return find(str(path), 'timm', 'cait', 224, checkpoint.metadata)


def read_sharded(path: Path) -> None:
    from safetensors.numpy import save
    path.with_name('model-00001-of-00001.safetensors').write_bytes(save({'cls_token': ARRAYS['cls_token']}))
    read_weights(path)


def pdparams_files() -> List[bytes]:
    nested = {'model': {**ARRAYS, 'StructuredToParameterName@@': {'a': 'b'}}, 'ema': ARRAYS, 'epoch': 3, 'lr': [1e-3]}
    return [pickle.dumps(ARRAYS, 4), pickle.dumps(ARRAYS, 2), pickle.dumps(nested, 4), pickle.dumps(
        {'cls_token': ('name', ARRAYS['cls_token']), 'pos_embed': np.float32(3)}, 4)]


def torch_files(old: bool) -> List[bytes]:
    """Files of torch.save; without torch none, and the corpus has to do."""
    try:
        import torch
    except ImportError:
        return []
    tensors = OrderedDict((name, torch.from_numpy(array)) for name, array in ARRAYS.items())
    found = []
    half = tensors['pos_embed'].flatten()[:8].bfloat16()  # as many bytes as the first of the others
    for content in (tensors, {'state_dict': tensors, 'epoch': 3}, {'a': half}):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=not old)
        found.append(file.getvalue())
    return found


def torch_pickles() -> List[bytes]:
    """The pickles inside the zip archives of torch.save."""
    found = []
    for data in torch_files(old=False):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found += [archive.read(name) for name in archive.namelist() if name.endswith('data.pkl')]
    return found


def with_storages(pickled: bytes) -> bytes:
    """A zip archive of torch.save with this pickle and the numbers that ``torch_pickles`` refer to."""
    return zipped({'a/data.pkl': pickled,
                   **{f'a/data/{key}': bytes(array.nbytes) for key, array in enumerate(ARRAYS.values())}})


def zipped(members: Dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def npy_files() -> List[bytes]:
    return [npy(ARRAYS['pos_embed']), npy(np.asfortranarray(ARRAYS['blocks.0.mlp.fc1.weight']))]


def npz_files() -> List[bytes]:
    return [zipped({f'{name}.npy': npy(array) for name, array in ARRAYS.items()})]


def safetensors_files() -> List[bytes]:
    from safetensors.numpy import save
    half = {'pos_embed': {'dtype': 'BF16', 'shape': [2, 2], 'data_offsets': [0, 8]}}
    header = json.dumps(half).encode()
    data = json.dumps(dict(mean=[0.5] * 3, std=[0.5] * 3, crop_pct=0.9, interpolation='bicubic'))
    return [save(ARRAYS, {'format': 'pt'}), save(ARRAYS, {'format': 'pd', 'cait.data_config': data}),
            len(header).to_bytes(8, 'little') + header + bytes(8)]


def safetensors_headers() -> List[bytes]:
    return [data[8:8 + int.from_bytes(data[:8], 'little')] for data in safetensors_files()]


def with_numbers(header: bytes) -> bytes:
    """A safetensors file of this header, with as many bytes of numbers as it says, up to 100 kB."""
    try:
        ends = [int(one['data_offsets'][1]) for name, one in json.loads(header).items() if name != '__metadata__']
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError):
        ends = []
    return len(header).to_bytes(8, 'little') + header + bytes(max(0, min(max(ends, default=512), 100_000)))


def mindspore_files() -> List[bytes]:
    from CaiT.weights.mindspore_ckpt import checkpoint_message
    message = checkpoint_message()()
    for name, array in ARRAYS.items():
        value = message.value.add(tag=name)
        value.tensor.dims.extend(array.shape)
        value.tensor.tensor_type, value.tensor.tensor_content = 'Float32', array.tobytes()
    return [message.SerializeToString(), message.SerializeToString() + b'crc_num' + bytes(10)]
