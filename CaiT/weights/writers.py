# SPDX-License-Identifier: Apache-2.0
"""Named arrays to a weight file: ``.pdparams`` and ``.safetensors`` in Paddle's layout, ``.safetensors`` in PyTorch's.

Arrays come in under public names in Paddle's layout, as ``translate.rename`` gives them.
"""
from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import IO, Any, Dict, Mapping, Optional

import numpy as np

from CaiT.errors import InputError
from CaiT.files import PathLike
from CaiT.weights.data_configs import DATA_CONFIG, dump
from CaiT.weights.fit import is_linear
from CaiT.weights.sources import PADDLE, TORCH

# What each framework's own tools write into the header of a .safetensors file, and readers._layout looks at.
_HEADER = {PADDLE: {'format': 'pd'}, TORCH: {'format': 'pt'}}


def check_output(path: PathLike, layout: str) -> None:
    """Raise InputError when ``path`` cannot be written in ``layout``."""
    suffix = Path(path).suffix
    if suffix not in ('.pdparams', '.safetensors'):
        raise InputError(f'{path}: cannot be written, expected .pdparams or .safetensors')
    if suffix == '.pdparams' and layout != PADDLE:
        raise InputError(f'{path}: a .pdparams file has the layout {PADDLE}, expected .safetensors for {layout}')


def check_replaced(target: PathLike, source: PathLike, force: bool) -> None:
    """Raise InputError when ``target`` exists, unless ``force`` allows to replace this file; never the input itself."""
    if not os.path.lexists(target):
        return
    if os.path.exists(target) and os.path.samefile(source, target):
        raise InputError(f'{target}: is the input itself, expected another file to write')
    if not force or not os.path.isfile(target):
        raise InputError(f'{target}: exists already; name another file' + (
            ', or add --force to replace it' if os.path.isfile(target) else ''))


def write(file: IO[bytes], suffix: str, arrays: Dict[str, np.ndarray], layout: str = PADDLE,
          data: Optional[Mapping[str, Any]] = None) -> None:
    """Write ``arrays`` to an open file in the format of ``suffix``, Linears laid out as ``layout``.

    ``data`` is how images must reach these weights (``LoadReport.data``): in a ``.safetensors`` it goes into the
    header, in a ``.pdparams`` behind the pickle, where ``paddle.load`` does not look.
    """
    beside = {DATA_CONFIG: dump(data)} if data else {}
    if layout == TORCH:
        arrays = {name: array.T if is_linear(name, array) else array for name, array in arrays.items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    wide = next((name for name, array in arrays.items() if array.dtype.itemsize > 8), None)
    if wide is not None:  # long double, complex128: neither PyTorch nor safetensors has them, or not on every machine
        raise InputError(f'{wide}: holds {arrays[wide].dtype}, expected numbers of at most 64 bits')
    if suffix == '.pdparams':
        pickle.dump(arrays, file, protocol=4)  # what paddle.save writes, and paddle.load reads
        for name, text in beside.items():
            file.write(f'\n{name} {text}'.encode())
    else:
        from safetensors.numpy import save
        file.write(save(arrays, {**_HEADER[layout], **beside}))
