# SPDX-License-Identifier: Apache-2.0
"""``predictor.run()`` without Python's lock, so that clones compute side by side.

Paddle's Python interface holds the lock for the whole run (3.3): threads would take turns. The function behind it is
exported by Paddle's library and is called here directly. That is done only where the library's version was tested and
where the object is found to be what it is taken for; elsewhere Paddle's own ``run`` is used, which is as right.
"""
from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any, Callable, Optional, Tuple

TESTED = ('3.3',)
_OBJECT = 16  # bytes of a Python object's head: pybind11 keeps the pointer to the C++ object behind it
_VTABLE = 2 * ctypes.sizeof(ctypes.c_void_p)  # where objects point into their class's table


def runner(predictor: Any) -> Callable[[], Any]:
    """What runs ``predictor``, with Python's lock released where that is possible.

    An error in it ends the process (C++ exceptions do not pass through ctypes): run a shape by ``predictor.run`` first.
    """
    library = _library()
    if library is None:
        return predictor.run
    function, table = library
    this = ctypes.c_void_p.from_address(id(predictor) + _OBJECT).value
    implementation = ctypes.c_void_p.from_address(this).value
    if ctypes.c_void_p.from_address(implementation).value != table:
        return predictor.run
    return functools.partial(function, this)


@functools.lru_cache(maxsize=None)
def _library() -> Optional[Tuple[Any, int]]:
    """(paddle_infer::Predictor::Run, address that every paddle::AnalysisPredictor begins with)."""
    import paddle
    if paddle.__version__.rsplit('.', 1)[0] not in TESTED or sys.implementation.name != 'cpython' \
            or not sys.platform.startswith('linux'):
        return None
    try:
        library = ctypes.CDLL(paddle.base.libpaddle.__file__)
        function = library._ZN12paddle_infer9Predictor3RunEv
        table = ctypes.c_char.in_dll(library, '_ZTVN6paddle17AnalysisPredictorE')
    except (OSError, AttributeError, ValueError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_bool
    return function, ctypes.addressof(table) + _VTABLE
