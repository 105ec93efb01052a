# SPDX-License-Identifier: Apache-2.0
"""Reading PyTorch's ``.pth``, ``.pt``, ``.bin``, zip and legacy format, by PyTorch (the optional extra ``torch``)."""
from __future__ import annotations

import argparse
import pickle
import re
from typing import Dict

import numpy as np

from CaiT.errors import InputError
from CaiT.weights.pdparams import flatten

INSTALL = 'pip install "torch>=2.6" --index-url https://download.pytorch.org/whl/cpu'


def read_torch(path: str) -> Dict[str, np.ndarray]:
    """The tensors of a PyTorch file by name; bfloat16 becomes float32. Nothing in the file is executed.

    PyTorch before 2.6 is refused: its weights_only loading can execute code (CVE-2025-32434).
    """
    try:
        import torch
    except ImportError:
        raise InputError(f'is a PyTorch file, and PyTorch is not installed: {INSTALL}') from None
    version = tuple(int(part) for part in re.findall(r'\d+', torch.__version__)[:2])
    if version < (2, 6):
        raise InputError(f'is a PyTorch file, and PyTorch {torch.__version__} cannot read it safely: {INSTALL}')
    try:
        # facebookresearch's checkpoints also contain the command line as a Namespace, which is harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = flatten(torch.load(path, map_location='cpu', weights_only=True))
    except pickle.UnpicklingError as error:
        # The first sentence of PyTorch's reason; the text before it advises to load the file unsafely.
        reason = str(error).split('WeightsUnpickler error:')[-1].strip().split('. ')[0].split('\n')[0]
        raise InputError(f'refused, nothing in it was run: {reason}; expected tensors and containers only') from None
    arrays = {}
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f'{name!r} holds a {type(value).__name__}, expected a tensor')
        value = value.detach()
        arrays[name] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return arrays
