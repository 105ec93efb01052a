# SPDX-License-Identifier: Apache-2.0
"""Weight files of any format to named arrays. The format is detected from the file's first bytes, not its extension."""
from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Tuple

import numpy as np

from CaiT.errors import InputError
from CaiT.files import PathLike
from CaiT.weights.mindspore_ckpt import read_mindspore
from CaiT.weights.pdparams import bfloat16, read_pdparams
from CaiT.weights.torch_pth import read_torch

# In the order in which ``resolve`` tries them.
EXTENSIONS = ('.pdparams', '.safetensors', '.pth', '.pt', '.bin', '.ckpt', '.npz')
PADDLE, TORCH = '[in, out]', '[out, in]'  # the layouts of a Linear's weight


@dataclass
class Checkpoint:
    """The content of a weight file.

    ``format`` is for messages. ``layout`` (PADDLE or TORCH) is the layout of Linear weights in the framework of the
    format; a CheckpointSource with a layout of its own overrides it.
    """
    path: str
    format: str
    layout: str
    arrays: Dict[str, np.ndarray]


def read(path: PathLike) -> Dict[str, np.ndarray]:
    """The arrays of a weight file by the names in it; InputError when it is none."""
    return read_checkpoint(path).arrays


def read_checkpoint(path: PathLike) -> Checkpoint:
    """The arrays of a weight file, its format and its layout; InputError, one line, for any fault of the file."""
    file = resolve(path)
    try:
        name = _recognize(file)
        arrays = _READERS[name](file)
        layout = _layout(name, file)
    except InputError as error:
        raise InputError(f'{file}: {error}') from None
    except OSError as error:
        raise InputError(f'{file}: {error.strerror or error}') from None
    except Exception as error:  # each parser raises other exceptions for a damaged file
        reason = ': '.join([type(error).__name__, *str(error).split('\n')[:1]]).rstrip(': ')
        raise InputError(f'{file}: truncated or damaged {name} file ({reason})') from None
    if not arrays:
        raise InputError(f'{file}: holds no arrays')
    return Checkpoint(file, name, layout, arrays)


def resolve(path: PathLike) -> str:
    """``path`` if it is a file, else ``path`` with the first of EXTENSIONS for which a file exists."""
    path = Path(path).expanduser()
    for candidate in [path, *(Path(f'{path}{extension}') for extension in EXTENSIONS)]:
        if candidate.is_file():
            return str(candidate)
    if path.is_dir():
        raise InputError(f'{path}: is a folder, expected a weight file ({", ".join(EXTENSIONS)})')
    raise InputError(f'{path}: no such file; looked for it as given and with {", ".join(EXTENSIONS)} behind it')


def _recognize(path: str) -> str:
    """The format of a file by its first bytes: a key of _READERS."""
    with open(path, 'rb') as file:
        head = file.read(64)
    if not head:
        raise InputError('the file is empty')
    if head.startswith(b'PK\x03\x04'):
        return _recognize_zip(path)
    # torch.save before 1.6: a pickle stream that opens with the number 0x1950a86a20f9469cfc6c
    if head.startswith(b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'):
        return 'PyTorch'
    if head[0] == 0x80:  # a pickle of protocol 2 or later
        return 'Paddle'
    if head[8:9] == b'{':  # 8 bytes of header length, then the header in JSON
        return 'safetensors'
    if _opens_as_mindspore(head):
        return 'MindSpore'
    raise InputError(f'its first bytes match no known weight format ({", ".join(EXTENSIONS)})')


def _recognize_zip(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise InputError('truncated or damaged zip archive, expected a whole PyTorch or .npz file') from None
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


def _read_npz(path: str) -> Dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _safetensors_header(path: str) -> Tuple[Dict[str, dict], int]:
    """The JSON header of a .safetensors file and the offset of its data."""
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        return json.loads(file.read(length)), 8 + length


def _read_safetensors(path: str) -> Dict[str, np.ndarray]:
    from safetensors import safe_open
    with safe_open(path, framework='np') as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
        arrays = {name: file.get_tensor(name) for name, kind in kinds.items() if kind != 'BF16'}
    if len(arrays) < len(kinds):  # safetensors cannot return bfloat16, which NumPy does not have
        header, start = _safetensors_header(path)
        for name in set(kinds) - set(arrays):
            begin, end = header[name]['data_offsets']
            bits = np.fromfile(path, '<u2', (end - begin) // 2, offset=start + begin)
            arrays[name] = bfloat16(bits).reshape(header[name]['shape'])
    return arrays


_READERS: Dict[str, Callable[[str], Dict[str, np.ndarray]]] = {
    'Paddle': read_pdparams, 'PyTorch': read_torch, 'MindSpore': read_mindspore, 'safetensors': _read_safetensors,
    'npz': _read_npz}


def _layout(name: str, path: str) -> str:
    """PADDLE for Paddle's own format and for a .safetensors file with {"format": "pd"} in its header (other frameworks
    write 'pt', 'tf', 'ms'); else TORCH, since the public names are PyTorch's."""
    if name == 'safetensors':
        return PADDLE if _safetensors_header(path)[0].get('__metadata__', {}).get('format') == 'pd' else TORCH
    return PADDLE if name == 'Paddle' else TORCH
