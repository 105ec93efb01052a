# SPDX-License-Identifier: Apache-2.0
"""Weights in several files: the index that names them, or a folder that holds them (Hugging Face's layout)."""
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Dict, List

from CaiT.errors import InputError, shown
from CaiT.safe_json import load_json

INDEX = '.index.json'
# What a folder is taken to mean, in this order.
FOLDER = ('model.safetensors', f'model.safetensors{INDEX}', 'pytorch_model.bin', f'pytorch_model.bin{INDEX}')
SHARD = re.compile(r'(.+)-(\d{5})-of-(\d{5})(\.\w+)')


def in_folder(folder: Path) -> Path:
    """The weight file, the index or the first shard in ``folder``; InputError that lists what is there instead."""
    for name in FOLDER:
        if (folder / name).is_file():
            return folder / name
    first = sorted(path for path in folder.glob('*-00001-of-*') if SHARD.fullmatch(path.name) and path.is_file())
    if len(first) == 1:
        return first[0]
    found = sorted(path.name for path in folder.iterdir()
                   if path.suffix in ('.pdparams', '.pdstate', '.safetensors', '.pth', '.pt', '.bin', '.ckpt', '.npz'))
    raise InputError(f'{folder}: is a folder, expected a weight file'
                     + (f': one of {", ".join(map(shown, found[:8]))}' if found else f' or a folder with {FOLDER[0]}'))


def shards(path: str) -> List[str]:
    """The files that ``path`` stands for: those an index names, the whole series of a shard, else itself."""
    file = Path(path)
    if file.name.endswith(INDEX):
        return [str(file.parent / name) for name in _indexed(file)]
    match = SHARD.fullmatch(file.name)
    if not match:
        return [path]
    stem, _, count, suffix = match.groups()
    if not 1 <= int(count) <= 1000:
        raise InputError(f'{path}: is one of {int(count)} shards, expected 1 to 1000')
    names = [f'{stem}-{number:05}-of-{count}{suffix}' for number in range(1, int(count) + 1)]
    missing = [name for name in names if not (file.parent / name).is_file()]
    if missing:
        raise InputError(f'{path}: is one of {int(count)} shards, and {missing[0]} is not beside it '
                         f'({len(missing)} missing)')
    return [str(file.parent / name) for name in names]


def _indexed(index: Path) -> List[str]:
    content = load_json(index)
    table = content.get('weight_map') if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise InputError(f'{index}: is no index of shards, expected {{"weight_map": {{array: file}}}}')
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name or name in ('.', '..') or not name.isprintable() or len(os.fsencode(name)) > 255:
            raise InputError(f'{index}: names {shown(name)!r}, expected the bare name of a file beside it')
        if not (index.parent / name).is_file():
            raise InputError(f'{index}: names {shown(name)}, which is not beside it')
    return names


def merge(parts: Dict[str, dict]) -> dict:
    """The arrays of all shards in one dict; a name in two of them is an InputError."""
    arrays: dict = {}
    for path, part in parts.items():
        twice = next((name for name in part if name in arrays), None)
        if twice is not None:
            raise InputError(f'{path}: holds {shown(twice)}, as another shard does')
        arrays.update(part)
    return arrays
