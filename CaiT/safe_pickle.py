# SPDX-License-Identifier: Apache-2.0
"""Pickles from strangers: arrays, numbers, text and containers are read, nothing is executed or imported.

Three rules. A name in the pickle is looked up in a table of this module and never imported; one that is not there ends
the reading. What is known but of no use for weights (paths, dates, argument namespaces) becomes an ``Inert`` that holds
nothing. And everything has a budget: no object is larger than the bytes of the file that describe it, the number of
steps, the depth and the size of the structure are bounded, and it contains no cycle.
"""
from __future__ import annotations

import os
import pickle
from typing import IO, Any, Callable, Dict, List, Tuple

import numpy as np

from CaiT.errors import InputError, shown
from CaiT.pickled_objects import ADMITTED, Dtype, Global, Inert, check_key, fill_array, is_inert

MAX_STEPS = 2_000_000      # opcodes of one pickle; a list of a million numbers has as many
MAX_HEIGHT = 100           # containers within containers
MAX_ITEMS = 20_000_000     # items of the structure, shared ones counted each time they are reached
SPARE_BYTES = 64 << 20     # what may be allocated beyond four times the file
MAX_DIGITS = 100           # of an integer; nobody's weights need more

def load(file: IO[bytes], encoding: str = 'latin1') -> Any:
    """The content of one pickle in a file opened for bytes: arrays, numbers, text, dict, list and tuple.

    ``encoding`` is that of ``pickle.load``: 'bytes' keeps the text of Python 2 as bytes. InputError for any other
    object and an exhausted budget; a damaged pickle may raise any exception.
    """
    return Unpickler(file, encoding).load()


class _Bounded:
    """A file that never allocates more than it holds, whatever length is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        start = file.tell()
        self.size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        self.left = self.size

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise EOFError(f'{self.left} bytes are left, {count} are asked for')
        self.left -= count
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline(min(self.left, 1 << 20))
        self.left -= len(line)
        return line

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[:len(data)] = data
        return len(data)


class Unpickler(pickle._Unpickler):
    """Reads one pickle from a file opened for bytes: ``Unpickler(file).load()``.

    The implementation in Python, not in C: its memo is a dict, where C allocates whatever index the pickle names.
    Raises InputError for a name that is not admitted and for an exhausted budget; pickle.UnpicklingError, EOFError,
    ValueError and others for damaged bytes.
    """
    admitted = ADMITTED

    def __init__(self, file: IO[bytes], encoding: str = 'latin1') -> None:
        bounded = _Bounded(file)
        super().__init__(bounded, encoding=encoding)
        self.steps, self.spare = 0, 4 * bounded.size + SPARE_BYTES

    def load(self) -> Any:
        content = super().load()
        check_structure(content)
        return content

    def spend(self, count: int) -> None:
        """Take ``count`` bytes from the budget before they are allocated."""
        self.spare -= count
        if self.spare < 0:
            raise InputError('asks for more memory than its size explains; refused')

    def find_class(self, module: str, name: str) -> Global:
        if (module, name) in self.admitted:
            return Global(module, name, self.admitted[module, name])
        if self.is_inert(module, name):
            return Global(module, name)
        raise InputError(f'the pickle refers to {shown(module)}.{shown(name)}; refused, nothing of it was run: only '
                         'arrays, numbers, text and containers are loaded')

    def is_inert(self, module: str, name: str) -> bool:
        return is_inert(module, name)

    def get_extension(self, code: int) -> Any:
        raise pickle.UnpicklingError('names an extension registered elsewhere')

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError('calls what is no name')
        if function.make is None:
            return Inert(f'{function.module}.{function.name}')
        return function.make(self, *arguments)

    # What follows replaces pickle's own opcodes, where those would call or change arbitrary objects.

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def _new_with_keywords(self) -> None:
        keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if keywords and getattr(function, 'make', None):
            raise pickle.UnpicklingError('keywords where none belong')
        self.append(self.call(function, arguments))

    def _inst(self) -> None:
        module, name = (self.readline()[:-1].decode('ascii') for _ in range(2))
        self.append(self.call(self.find_class(module, name), tuple(self.pop_mark())))

    def _obj(self) -> None:
        function, *arguments = self.pop_mark()
        self.append(self.call(function, tuple(arguments)))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Dtype):
            target.set_order(state)
        elif isinstance(target, np.ndarray):
            fill_array(self, target, state)
        elif not isinstance(target, (Inert, dict)):  # a state dict's own attributes are no weights
            raise pickle.UnpicklingError(f'sets the state of a {type(target).__name__}')

    def _put(self, target: Any, items: List[Any]) -> None:
        if type(target) is dict:
            for key, value in zip(items[::2], items[1::2]):
                target[check_key(key)] = value
        elif not isinstance(target, Inert):
            raise pickle.UnpicklingError(f'sets items of a {type(target).__name__}')

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._put(self.stack[-1], items)

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(self.stack[-1], items)

    def _extend(self, items: List[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Inert):
            raise pickle.UnpicklingError(f'appends to a {type(target).__name__}')

    def _text_int(self) -> None:
        line = self.readline()
        if len(line) > MAX_DIGITS:
            raise InputError(f'holds an integer of {len(line)} digits, expected at most {MAX_DIGITS}')
        text = line.strip().rstrip(b'L')
        self.append(text == b'01' if text in (b'00', b'01') else int(text))

    def _text_put(self) -> None:
        self.memo[self._text_index()] = self.stack[-1]

    def _text_get(self) -> None:
        self.append(self.memo[self._text_index()])

    def _text_index(self) -> int:
        line = self.readline()
        if len(line) > MAX_DIGITS:
            raise pickle.UnpicklingError('an index of many digits')
        return int(line)

    def _long4(self) -> None:
        count = int.from_bytes(self.read(4), 'little', signed=True)
        if not 0 <= count <= MAX_DIGITS:
            raise InputError(f'holds an integer of {count} bytes, expected at most {MAX_DIGITS}')
        self.append(pickle.decode_long(self.read(count)))

    def _bytearray(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), 'little'))))


def _counted(handler: Callable[[Unpickler], None]) -> Callable[[Unpickler], None]:
    def step(unpickler: Unpickler) -> None:
        unpickler.steps += 1
        if unpickler.steps > MAX_STEPS:
            raise InputError(f'takes more than {MAX_STEPS:,} steps to read; refused')
        handler(unpickler)
    return step


Unpickler.dispatch = {code: handler if code == pickle.STOP[0] else _counted(handler) for code, handler in {
    **pickle._Unpickler.dispatch,
    pickle.REDUCE[0]: Unpickler._reduce, pickle.NEWOBJ[0]: Unpickler._reduce,
    pickle.NEWOBJ_EX[0]: Unpickler._new_with_keywords, pickle.INST[0]: Unpickler._inst, pickle.OBJ[0]: Unpickler._obj,
    pickle.BUILD[0]: Unpickler._build, pickle.SETITEM[0]: Unpickler._set_item,
    pickle.SETITEMS[0]: Unpickler._set_items, pickle.DICT[0]: Unpickler._dict,
    pickle.APPEND[0]: lambda self: self._extend([self.stack.pop()]),
    pickle.APPENDS[0]: lambda self: self._extend(self.pop_mark()),
    pickle.EMPTY_SET[0]: lambda self: self.append(Inert('set')),
    pickle.FROZENSET[0]: lambda self: (self.pop_mark(), self.append(Inert('frozenset'))),
    pickle.ADDITEMS[0]: lambda self: self._extend(self.pop_mark()),
    pickle.PUT[0]: Unpickler._text_put, pickle.GET[0]: Unpickler._text_get,
    pickle.INT[0]: Unpickler._text_int, pickle.LONG[0]: Unpickler._text_int, pickle.LONG4[0]: Unpickler._long4,
    pickle.BYTEARRAY8[0]: Unpickler._bytearray,
}.items()}


def check_structure(root: Any) -> None:
    """InputError for cycles, containers nested too deep, and shared ones that would be walked for ever."""
    known: Dict[int, Tuple[int, int]] = {}  # id of a finished container: (items, height)
    path: set = set()
    stack: List[Tuple[Any, bool]] = [(root, False)]
    while stack:
        node, finished = stack.pop()
        if type(node) not in (dict, list, tuple) or id(node) in known:
            continue
        children = node.values() if type(node) is dict else node
        if finished:
            path.discard(id(node))
            sizes = [known.get(id(child), (1, 0)) for child in children]
            items, height = 1 + sum(size for size, _ in sizes), 1 + max((tall for _, tall in sizes), default=0)
            if height > MAX_HEIGHT or items > MAX_ITEMS:
                raise InputError(f'holds containers nested more than {MAX_HEIGHT} deep or of more than {MAX_ITEMS:,} '
                                 'items; refused')
            known[id(node)] = items, height
        elif id(node) in path:
            raise InputError('holds a container that contains itself; refused')
        elif len(path) >= MAX_HEIGHT:
            raise InputError(f'holds containers nested more than {MAX_HEIGHT} deep; refused')
        else:
            path.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in children)
