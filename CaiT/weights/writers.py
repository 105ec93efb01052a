# SPDX-License-Identifier: Apache-2.0
"""Writing weight files: ``.pdparams`` and ``.safetensors`` in Paddle's layout, ``.safetensors`` in PyTorch's.

Input arrays have public names and Paddle's layout, as returned by ``translate.rename``.
"""
from __future__ import annotations

import pickle
from pathlib import Path
from typing import IO, Dict

import numpy as np

from CaiT.errors import InputError
from CaiT.files import PathLike
from CaiT.weights.readers import PADDLE, TORCH
from CaiT.weights.translate import is_linear

# The header metadata that each framework writes into a .safetensors file; readers._layout reads it.
_HEADER = {PADDLE: {'format': 'pd'}, TORCH: {'format': 'pt'}}


def check_output(path: PathLike, layout: str) -> None:
    """Raise InputError when ``path`` cannot be written in ``layout``."""
    suffix = Path(path).suffix
    if suffix not in ('.pdparams', '.safetensors'):
        raise InputError(f'{path}: cannot be written, expected .pdparams or .safetensors')
    if suffix == '.pdparams' and layout != PADDLE:
        raise InputError(f'{path}: a .pdparams file has the layout {PADDLE}, expected .safetensors for {layout}')


def write(file: IO[bytes], suffix: str, arrays: Dict[str, np.ndarray], layout: str = PADDLE) -> None:
    """Write ``arrays`` to an open file in the format of ``suffix``, Linear weights in ``layout``."""
    if layout == TORCH:
        arrays = {name: array.T if is_linear(name, array) else array for name, array in arrays.items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    if suffix == '.pdparams':
        pickle.dump(arrays, file, protocol=4)  # the format of paddle.save, which paddle.load reads
    else:
        from safetensors.numpy import save
        file.write(save(arrays, _HEADER[layout]))
