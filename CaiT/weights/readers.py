# SPDX-License-Identifier: Apache-2.0
"""From a weight file of any format to named arrays. The file's first bytes decide its format, not its extension."""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import numpy as np

from CaiT import safe_json
from CaiT.errors import InputError, shown
from CaiT.files import PathLike
from CaiT.weights import sharded
from CaiT.weights.archives import open_zip, read_npz
from CaiT.weights.bfloat16 import Bfloat16
from CaiT.weights.containers import StateDict, select
from CaiT.weights.data_configs import DATA_CONFIG
from CaiT.weights.mindspore_ckpt import read_mindspore
from CaiT.weights.pdparams import read_pdparams, read_trailer
from CaiT.weights.sources import PADDLE, TORCH
from CaiT.weights.torch_pth import is_old_format, read_torch

# In the order in which ``resolve`` looks for them.
EXTENSIONS = ('.pdparams', '.safetensors', '.pth', '.pt', '.bin', '.ckpt', '.npz')
SPARE_BYTES = 64 << 20    # what the arrays of a file may take beyond four times its size
MAX_HEADER = 100_000_000  # bytes of a .safetensors header, as the format's own library has it


@dataclass
class Checkpoint:
    """What a file holds, before anyone asks who wrote it.

    ``format`` is for messages. ``layout`` (PADDLE or TORCH) is how a Linear's weight is laid out by this file's own
    framework; where the format does not tell which that is, ``says_layout`` is False and it is TORCH. ``bfloat16`` are
    the arrays that were in it, float32 here; ``key`` is where a nested file held them, ``notes`` is what a reader of
    the log should know, ``metadata`` what stands beside the arrays as text.
    """
    path: str
    format: str
    layout: str
    arrays: Dict[str, np.ndarray]
    says_layout: bool = True
    bfloat16: Set[str] = field(default_factory=set)
    key: str = ''
    notes: List[str] = field(default_factory=list)
    metadata: Dict[str, str] = field(default_factory=dict)


def read(path: PathLike, use_ema: bool = False, key: str = '') -> Dict[str, np.ndarray]:
    """The arrays of a weight file under the names they have there; InputError when it is not one."""
    return read_checkpoint(path, use_ema, key).arrays


def read_checkpoint(path: PathLike, use_ema: bool = False, key: str = '') -> Checkpoint:
    """The arrays of a weight file, its format and its layout. Every fault of the file is an InputError of one line.

    ``use_ema`` and ``key`` choose among several models in one file, see ``containers.select``.
    """
    file = resolve(path)
    parts: Dict[str, Any] = {}
    metadata: Dict[str, str] = {}
    for shard in sharded.shards(file):
        name, parts[shard], more = _read_file(shard)
        metadata.update(more)
    try:
        content, files = parts[file] if list(parts) == [file] else sharded.merge(parts), list(parts)
        chosen, notes = select(content, use_ema, key)
        del content, parts
        layout = _layout(name, metadata)
        checkpoint = Checkpoint(file, name, layout or TORCH, {}, layout is not None, key=chosen.key, notes=notes,
                                metadata=metadata)
        _take(chosen, checkpoint, 4 * sum(map(os.path.getsize, files)) + SPARE_BYTES)
    except InputError as error:
        raise InputError(f'{file}: {error}') from None
    except Exception as error:  # as below: some formats read their arrays only now
        raise _damaged(file, name, error) from None
    if not checkpoint.arrays:
        raise InputError(f'{file}: holds no arrays')
    return checkpoint


def _read_file(path: str) -> Tuple[str, Any, Dict[str, str]]:
    """(format, content, metadata) of one file; the content is a dict of arrays or holds one somewhere."""
    name = 'weight'
    try:
        name = _recognize(path)
        content = _READERS[name](path)
        metadata: Dict[str, str] = {}
        if name == 'safetensors':
            metadata = _safetensors_header(path).get('__metadata__', {})
        elif name == 'Paddle':
            metadata = read_trailer(path, DATA_CONFIG)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    except OSError as error:
        raise InputError(f'{path}: {error.strerror or error}') from None
    except Exception as error:  # each parser has exceptions of its own for a damaged file
        raise _damaged(path, name, error) from None
    return name, content, metadata


def _damaged(path: str, name: str, error: Exception) -> InputError:
    reason = ': '.join([type(error).__name__, *str(error).split('\n')[:1]]).rstrip(': ')
    return InputError(f'{path}: truncated or damaged {name} file ({shown(reason, 200)})')


def _take(chosen: StateDict, checkpoint: Checkpoint, spare: int) -> None:
    """Move the arrays of a state dict into a checkpoint, reading those that are still in the file: at most ``spare``
    bytes. InputError for more: a thousand names of one array in the file would be a thousand arrays in memory."""
    for name in list(chosen.arrays):
        value = chosen.arrays.pop(name)
        value = value[1] if isinstance(value, tuple) else value
        if checkpoint.format == 'Paddle' and value.dtype == np.uint16:  # Paddle keeps bfloat16 in it
            value = Bfloat16(value)
        if value.dtype == 'bfloat16':
            checkpoint.bfloat16.add(name)
        checkpoint.arrays[name] = value if isinstance(value, np.ndarray) else value.array()
        spare -= checkpoint.arrays[name].nbytes
        if spare < 0 and checkpoint.format != 'npz':  # whose members are compressed, and bounded in archives.py
            raise InputError(f'its arrays up to {shown(name)} take more than four times the size of the file: they '
                             'share numbers; refused')


def resolve(path: PathLike) -> str:
    """``path`` itself when it is a file, else ``path`` with the first of EXTENSIONS that makes it one."""
    path = Path(path).expanduser()
    for candidate in [path, *(Path(f'{path}{extension}') for extension in EXTENSIONS)]:
        if candidate.is_file():
            return str(candidate)
    if path.is_dir():
        return str(sharded.in_folder(path))
    raise InputError(f'{path}: no such file; looked for it as given and with {", ".join(EXTENSIONS)} behind it')


def _recognize(path: str) -> str:
    """Name of the format that the file's first bytes show: a key of _READERS."""
    with open(path, 'rb') as file:
        head = file.read(64)
    if not head:
        raise InputError('the file is empty')
    if head.startswith(b'PK\x03\x04'):
        return _recognize_zip(path)
    if is_old_format(head):
        return 'PyTorch'
    length = int.from_bytes(head[:8], 'little')
    if head[8:9] == b'{' and 8 + length <= os.path.getsize(path):  # header length, then the header in JSON
        return 'safetensors'
    if head[0] == 0x80 and head[1:2] <= b'\x05':  # a pickle of protocol 2 or later
        return 'Paddle'
    if head[8:9] == b'{' and length <= MAX_HEADER:
        return 'safetensors'  # a truncated one
    if _opens_as_mindspore(head):
        return 'MindSpore'
    raise InputError(f'its first bytes match no known weight format ({", ".join(EXTENSIONS)})')


def _recognize_zip(path: str) -> str:
    with open_zip(path) as archive:
        names = archive.namelist()
    if any(name.endswith('/constants.pkl') for name in names):
        raise InputError('is a TorchScript program, expected the state dict of a model')
    if any(name.endswith('/data.pkl') for name in names):
        return 'PyTorch'
    if names and all(name.endswith('.npy') for name in names):
        return 'npz'
    raise InputError('is a zip archive, but neither a PyTorch nor an .npz file')


def _opens_as_mindspore(head: bytes) -> bool:
    """A first message ``value`` whose first field is its ``tag``: 0x0a, a length, 0x0a, a length, printable text."""
    if head[0] != 0x0a:
        return False
    position = 1
    while position < 6 and position < len(head) and head[position] & 0x80:  # a length is a varint
        position += 1
    tag = head[position + 1:position + 2]
    text = head[position + 3:position + 3 + (head[position + 2] if len(head) > position + 2 else 0)]
    return tag == b'\x0a' and text.isascii() and text.decode('ascii').isprintable() and bool(text)


def _safetensors_header(path: str) -> Dict[str, Any]:
    """The header of a .safetensors file, which is JSON."""
    with open(path, 'rb') as file:
        return safe_json.loads(file.read(int.from_bytes(file.read(8), 'little')).decode('utf-8'))


def _read_safetensors(path: str) -> Dict[str, np.ndarray]:
    from safetensors import safe_open
    with safe_open(path, framework='np') as file:  # checks the header and every offset
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
        other = next((name for name, kind in kinds.items() if kind.startswith('F8') or kind == 'F4'), None)
        if other:
            raise InputError(f'{shown(other)!r} holds {kinds[other]}, expected BF16, F16, F32 or F64')
        arrays = {name: file.get_tensor(name) for name, kind in kinds.items() if kind != 'BF16'}
    if len(arrays) < len(kinds):  # NumPy has no bfloat16, so safetensors cannot give it
        header = _safetensors_header(path)
        with open(path, 'rb') as file:
            start = 8 + int.from_bytes(file.read(8), 'little')
        for name in set(kinds) - set(arrays):
            begin, end = header[name]['data_offsets']
            bits = np.fromfile(path, '<u2', (end - begin) // 2, offset=start + begin)
            arrays[name] = Bfloat16(bits.reshape(header[name]['shape']))
    return arrays


_READERS: Dict[str, Callable[[str], Any]] = {
    'Paddle': read_pdparams, 'PyTorch': read_torch, 'MindSpore': read_mindspore, 'safetensors': _read_safetensors,
    'npz': read_npz}


def _layout(name: str, metadata: Dict[str, str]) -> Optional[str]:
    """The layout of the framework that a format belongs to; in a .safetensors it is the header that says so:
    {"format": "pd"}, 'pt' or 'ms'. None where nothing says it."""
    if name == 'safetensors':
        return {'pd': PADDLE, 'pt': TORCH, 'ms': TORCH}.get(metadata.get('format', ''))
    return {'Paddle': PADDLE, 'PyTorch': TORCH, 'MindSpore': TORCH}.get(name)
