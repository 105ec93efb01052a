# SPDX-License-Identifier: Apache-2.0
"""Paddle's ``.pdparams``: a pickle, read by an unpickler that admits arrays and containers only.

``paddle.load`` runs whatever code the file asks for. Here every name a pickle refers to is looked up in one table; a
name outside it ends the reading before anything of it is imported or called.
"""
from __future__ import annotations

import collections
import pickle
from typing import Any, Dict

import numpy as np

from CaiT.errors import InputError


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 writes the bytes of an array; other codecs have no business in weights."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes encoded as {encoding!r}')
    return text.encode('latin1')


def _admitted() -> Dict[tuple, Any]:
    """(module, name) as pickles spell it -> what it stands for here.

    NumPy 2 moved its internals from numpy.core to numpy._core; both spellings are read under either version, which is
    why the functions are taken from NumPy's own pickling and not imported.
    """
    array = np.zeros(1, np.float32)
    names = {('numpy', 'ndarray'): np.ndarray, ('numpy', 'dtype'): np.dtype, ('_codecs', 'encode'): _latin1,
             ('collections', 'OrderedDict'): collections.OrderedDict,
             # paddle.save writes a tensor inside a nested container as tuple((parameter name, array))
             ('builtins', 'tuple'): tuple, ('__builtin__', 'tuple'): tuple}
    for core in ('numpy.core', 'numpy._core'):
        names[f'{core}.multiarray', '_reconstruct'] = array.__reduce__()[0]
        names[f'{core}.multiarray', 'scalar'] = np.float32(0).__reduce__()[0]
        names[f'{core}.numeric', '_frombuffer'] = array.__reduce_ex__(5)[0]
    return names


class Unpickler(pickle.Unpickler):
    """Admits arrays, numbers, text, dict, list and tuple."""
    admitted = _admitted()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.admitted:
            return self.admitted[module, name]
        raise InputError(f'asks for {module}.{name} when it is read; refused: weights are arrays and containers only')


def read_pdparams(path: str) -> Dict[str, np.ndarray]:
    """The arrays of a ``.pdparams`` file by name. bfloat16, which Paddle stores as uint16, becomes float32."""
    with open(path, 'rb') as file:
        content = flatten(Unpickler(file).load())
    # paddle.save's own record of internal parameter names; no weight
    content.pop('StructuredToParameterName@@', None)
    arrays = {}
    for name, value in content.items():
        if isinstance(value, tuple) and len(value) == 2:
            value = value[1]
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise InputError(f'{name!r} holds a {type(value).__name__}, expected an array of numbers')
        arrays[name] = bfloat16(value) if value.dtype == np.uint16 else value
    return arrays


def flatten(content: Any) -> Dict[str, Any]:
    """The dict of weights itself, or the one a training script wrapped as {'model': …} or {'state_dict': …}."""
    while isinstance(content, dict):
        inner = [content[key] for key in ('state_dict', 'model') if isinstance(content.get(key), dict)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f'holds a {type(content).__name__}, expected a dict of names and arrays')
    return dict(content)


def bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 given as uint16, to float32: exact, they share their upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
