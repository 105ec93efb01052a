# SPDX-License-Identifier: Apache-2.0
"""A restricted unpickler for files from untrusted sources: CIFAR archives, ``.pdparams`` and ``.pdstate`` files.

A pickle can name any function and have it called while it is loaded. Here every global a pickle refers to is looked up
in one table; any other name raises InputError before anything is imported or called.
"""
from __future__ import annotations

import collections
import pickle
from typing import IO, Any, Dict, Tuple

import numpy as np

from CaiT.errors import InputError


def load(file: IO[bytes], encoding: str = 'ASCII') -> Any:
    """Unpickle arrays, numbers, text, dict, list and tuple; InputError for any other object.

    ``encoding`` is that of ``pickle.load``: 'bytes' for pickles of Python 2. A damaged pickle may raise any exception.
    """
    return _SafeUnpickler(file, encoding=encoding).load()


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, with which protocol 2 stores bytes as latin1 text; other codecs are refused."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes encoded as {encoding!r}')
    return text.encode('latin1')


def _allowed_globals() -> Dict[Tuple[str, str], Any]:
    """(module, name) as pickles spell it -> the object it stands for.

    NumPy 2 moved its internals from numpy.core to numpy._core; both spellings are accepted under either version, which
    is why the functions are taken from NumPy's own pickling and not imported.
    """
    array = np.zeros(1, np.float32)
    allowed = {('numpy', 'ndarray'): np.ndarray, ('numpy', 'dtype'): np.dtype, ('_codecs', 'encode'): _encode_latin1,
               ('collections', 'OrderedDict'): collections.OrderedDict,
               # paddle.save writes a tensor inside a nested container as tuple((parameter name, array))
               ('builtins', 'tuple'): tuple, ('__builtin__', 'tuple'): tuple}
    for core in ('numpy.core', 'numpy._core'):
        allowed[f'{core}.multiarray', '_reconstruct'] = array.__reduce__()[0]
        allowed[f'{core}.multiarray', 'scalar'] = np.float32(0).__reduce__()[0]
        allowed[f'{core}.numeric', '_frombuffer'] = array.__reduce_ex__(5)[0]
    return allowed


class _SafeUnpickler(pickle.Unpickler):
    allowed = _allowed_globals()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        raise InputError(f'the pickle refers to {module}.{name}; refused, only arrays, numbers, text and containers '
                         'are loaded')
