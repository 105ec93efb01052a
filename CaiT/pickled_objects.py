# SPDX-License-Identifier: Apache-2.0
"""What a pickle may name, and what this project makes of it: NumPy's arrays and scalars, tuples, dicts; and ``Inert``.

The makers take the unpickler, whose byte budget they draw on, and the arguments that the pickle gives. Nothing that the
pickle names is imported; ``ADMITTED`` and ``INERT`` are compared with its spelling.
"""
from __future__ import annotations

import math
import pickle
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np

from CaiT.errors import shown

# What training scripts leave beside the weights, read as Inert: whole packages, then single classes.
INERT_PACKAGES = ('pathlib', 'datetime', 'omegaconf', 'deepspeed', 'pytorch_lightning', 'lightning', 'lightning_fabric',
                  'lightning_utilities', 'mmengine', 'mmcv')
INERT = {
    'argparse': ('Namespace',), 'types': ('SimpleNamespace',), 'uuid': ('UUID',), 'decimal': ('Decimal',),
    'collections': ('defaultdict', 'Counter', 'deque'), 'fractions': ('Fraction',), 'copyreg': ('_reconstructor',),
    'copy_reg': ('_reconstructor',), 'numpy.dtypes': (), 'numpy.random._pickle': (), 'typing': (),
    'yacs.config': ('CfgNode',), 'easydict': ('EasyDict',), 'addict.addict': ('Dict',), 'munch': ('Munch',),
    'ml_collections.config_dict.config_dict': ('ConfigDict', 'FrozenConfigDict'),
    'builtins': ('set', 'frozenset', 'list', 'dict', 'bytearray', 'complex', 'range', 'slice', 'int', 'float', 'bool',
                 'str', 'object'),
    '__builtin__': ('set', 'frozenset', 'list', 'dict', 'bytearray', 'complex', 'xrange', 'slice', 'int', 'long',
                    'float', 'bool', 'str', 'unicode', 'object'),
    'numpy': ('bool', 'bool_', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64', 'float16',
              'float32', 'float64', 'complex64', 'complex128', 'str_', 'bytes_'),
}
MAX_KEY = 32      # parts of a tuple that is the key of a dict: each use of it costs as much
ITEM_BYTES = 100  # of a dict's item
_NUMBERS = re.compile(r'[<>=|]?([biufcSU]\d{1,6}|[?bBhHiIlLqQefdFD])')


class Inert:
    """Stands for an object that is not created; whatever the pickle puts into it is dropped."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f'<{self.name}, not created>'


class Dtype(Inert):
    """A NumPy dtype: ``value`` is None for those that hold no plain numbers or text."""

    def __init__(self, text: Any) -> None:
        super().__init__('numpy.dtype')
        text = text.decode('latin1') if isinstance(text, bytes) else text  # of Python 2
        self.value = np.dtype(text) if isinstance(text, str) and _NUMBERS.fullmatch(text) else None

    def set_order(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if self.value is not None and order in ('<', '>', b'<', b'>'):
            self.value = self.value.newbyteorder(order.decode() if isinstance(order, bytes) else order)


@dataclass(frozen=True)
class Global:
    """A name of the pickle. ``make`` is called with the unpickler and the pickle's arguments; None makes an Inert."""
    module: str
    name: str
    make: Optional[Callable[..., Any]] = None


def is_inert(module: str, name: str) -> bool:
    """Whether a name is read as Inert; () in the table means every name of the module."""
    return module.split('.')[0] in INERT_PACKAGES or module in INERT and (name in INERT[module] or not INERT[module])


def check_key(key: Any, depth: int = 3) -> Any:
    """A key that is hashed without recursion, which deep tuples would turn into a crash."""
    if isinstance(key, (str, bytes, int, float, type(None), Global, Inert, np.generic)):
        return key
    if isinstance(key, tuple) and depth and len(key) <= MAX_KEY:
        return tuple(check_key(part, depth - 1) for part in key)
    raise pickle.UnpicklingError(f'a {type(key).__name__} as the key of a dict')


def fill_array(unpickler: Any, array: np.ndarray, state: Any) -> None:
    """The state of an array as NumPy pickles it: (version,) shape, dtype, Fortran order, bytes."""
    if array.shape != (0,) or array.dtype != np.int8 or not isinstance(state, tuple) or len(state) not in (4, 5):
        raise pickle.UnpicklingError('the state of an array is not as NumPy writes it')
    shape, dtype, fortran, data = state[-4:]
    if isinstance(dtype, Dtype) and dtype.value is None:
        np.ndarray.__setstate__(array, (1, (0,), np.dtype('O'), False, []))
        return
    if isinstance(data, str):  # Python 2
        unpickler.spend(len(data))
        data = data.encode('latin1')
    _check_array(shape, dtype, data)
    unpickler.spend(len(data))
    np.ndarray.__setstate__(array, (1, shape, dtype.value, bool(fortran), data))


def _check_array(shape: Any, dtype: Any, data: Any) -> None:
    if not isinstance(dtype, Dtype) or dtype.value is None or not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError('an array of what are no numbers')
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError('an array whose shape is none')
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise pickle.UnpicklingError(f'an array of shape {shown(str(shape))} in {len(data)} bytes')


def _reconstruct(unpickler: Any, *_: Any) -> np.ndarray:
    return np.empty(0, np.int8)  # whatever size the pickle asks for; its state brings the real one


def _from_buffer(unpickler: Any, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """Protocol 5. ``axes`` (NumPy 2.3): the array is one in C order, of this shape, transposed by them.

    The array is in the memory of a bytearray, which the unpickler keeps to its end anyway: a copy would double it.
    """
    _check_array(shape, dtype, data)
    unpickler.spend(len(data))
    array = np.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype.value)
    if axes is None:
        return array.reshape(shape, order='F' if order == 'F' else 'C')
    return array.reshape(shape).transpose(axes)


def _scalar(unpickler: Any, dtype: Any, data: Any = b'') -> Any:
    if isinstance(dtype, Dtype) and dtype.value is None:
        return Inert('numpy scalar')
    data = data.encode('latin1') if isinstance(data, str) else data
    _check_array((), dtype, data)
    unpickler.spend(len(data))
    return np.frombuffer(data, dtype.value)[0]


def _encode(unpickler: Any, text: Any, encoding: Any = 'latin1') -> bytes:
    """How protocol 2 writes the bytes of an array; other codecs have no business in weights."""
    if encoding != 'latin1' or not isinstance(text, str):
        raise pickle.UnpicklingError(f'bytes encoded as {shown(encoding)}')
    unpickler.spend(len(text))
    return text.encode('latin1')


def ordered_dict(unpickler: Any, items: Any = ()) -> Dict[Any, Any]:
    unpickler.spend(ITEM_BYTES * len(items))  # the pickle may ask for as many dicts of one list as it has steps
    return {check_key(key): value for key, value in items}


def make_tuple(unpickler: Any, items: Any = ()) -> tuple:
    """paddle.save writes a tensor inside a nested container as tuple((parameter name, array))."""
    unpickler.spend(8 * len(items))
    return tuple(items)


# NumPy 2 moved its internals from numpy.core to numpy._core; both spellings are read under either version.
ADMITTED: Dict[Tuple[str, str], Callable[..., Any]] = {
    ('numpy', 'ndarray'): _reconstruct, ('numpy', 'dtype'): lambda unpickler, text, *_: Dtype(text),
    ('_codecs', 'encode'): _encode, ('collections', 'OrderedDict'): ordered_dict,
    **{(module, 'tuple'): make_tuple for module in ('builtins', '__builtin__')},
    **{(module, 'bytes'): lambda unpickler: b'' for module in ('builtins', '__builtin__')},
    **{(f'{core}.{module}', name): make for core in ('numpy.core', 'numpy._core') for module, name, make in (
        ('multiarray', '_reconstruct', _reconstruct), ('multiarray', 'scalar', _scalar),
        ('numeric', '_frombuffer', _from_buffer))},
}
