# SPDX-License-Identifier: Apache-2.0
"""The unpickler for strangers' files: what it reads, what it leaves inert, what it refuses, and at what cost."""
from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import io
import pathlib
import pickle
import struct
import tracemalloc
import types
import uuid

import numpy as np
import pytest

from CaiT.errors import InputError, shown
from CaiT.pickled_objects import Inert
from CaiT.safe_pickle import Unpickler

HEAD = b'\x80\x04'
FIVE_GB = b'\x8a\x05' + (5 * 10 ** 9).to_bytes(5, 'little')


def load(content: bytes):
    return Unpickler(io.BytesIO(content)).load()


def text(word: str) -> bytes:
    return b'\x8c' + bytes([len(word)]) + word.encode()


def name(module: str, word: str) -> bytes:
    return text(module) + text(word) + b'\x93'


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('array', [
    np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)), np.zeros((0, 3), 'f4'),
    np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2), np.array(True), np.float32(2.5), np.array(['ab', 'c']),
    np.array([1, 2], '>i4'), np.array([1 + 2j])], ids=lambda array: f'{array.dtype}{array.shape}')
def test_arrays_and_scalars_are_those_of_numpys_own_pickle(array, protocol):
    content = pickle.dumps({'a': array, 'again': [array]}, protocol)
    found, expected = load(content), pickle.loads(content)
    for one, other in ((found['a'], expected['a']), (found['again'][0], expected['again'][0])):
        assert one.dtype == other.dtype and one.shape == other.shape and type(one) is type(other)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('protocol', [2, 4, 5])
@pytest.mark.parametrize('order', ['C', 'F'])
def test_arrays_are_in_memory_once(protocol, order):
    """Of a checkpoint, which is as large as the memory of some machines; all of them can be written to."""
    arrays = [np.asarray(np.full((1000, 250), number, np.float32), order=order) for number in range(20)]
    file = io.BytesIO(pickle.dumps(arrays, protocol))
    del arrays
    tracemalloc.start()
    found = Unpickler(file).load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 20e6 < peak < {2: 46e6, 4: 22e6, 5: 23e6}[protocol]
    for number, array in enumerate(found):
        array[3] += 1
        assert array[3, 7] == number + 1 and array[4, 7] == number and array.flags.f_contiguous == (order == 'F')


@pytest.mark.parametrize('protocol', range(6))
def test_plain_values(protocol):
    values = {'n': None, 'f': [True, False, 2.5, -3, 10 ** 20], 't': (1, ('x', b'y')), 3: {'é\n': 'z'}, ('a', 1): 0,
              'o': collections.OrderedDict(b=1, a=2)}
    assert load(pickle.dumps(values, protocol)) == values


INERT = [argparse.Namespace(lr=1e-3, path=pathlib.Path('/x')), pathlib.PurePosixPath('a/b'),
         datetime.datetime(2026, 1, 2), datetime.timedelta(1), types.SimpleNamespace(a=[1]), {1, 2}, frozenset('a'),
         collections.Counter('aab'),
         collections.defaultdict(list, {1: [2]}), collections.deque([1, 2]), uuid.UUID(int=5), decimal.Decimal('1.5'),
         np.dtype('f4'), np.dtype([('a', 'f4')]), slice(1, 2), complex(1, 2), range(3)]


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
@pytest.mark.parametrize('value', INERT, ids=lambda value: type(value).__name__)
def test_what_training_scripts_leave_beside_the_weights_is_inert(value, protocol):
    found = load(pickle.dumps({'extra': value, 'w': np.ones(2)}, protocol))
    assert isinstance(found['extra'], Inert) and found['w'].tolist() == [1, 1]


def test_classes_that_are_not_installed_stay_inert():
    """A package that wrote a configuration need not exist here, and is not looked for."""
    for module, word in (('omegaconf.dictconfig', 'DictConfig'), ('yacs.config', 'CfgNode'),
                         ('deepspeed.runtime.fp16.loss_scaler', 'LossScaler'), ('pathlib._local', 'PosixPath')):
        content = HEAD + name(module, word) + b')\x81}' + text('a') + b'K\x01sb.'
        assert isinstance(load(content), Inert)


@pytest.mark.parametrize('module, word', [
    ('os', 'system'), ('posix', 'system'), ('builtins', 'eval'), ('builtins', 'getattr'), ('builtins', '__import__'),
    ('subprocess', 'Popen'), ('numpy', 'load'), ('numpy', 'fromfile'), ('torch', 'load'), ('CaiT.files', 'write_json'),
    ('operator', 'attrgetter'), ('functools', 'partial'), ('pathlib2', 'Path'), ('builtins', 'tuple.__new__')])
def test_any_other_name_ends_the_reading(module, word):
    with pytest.raises(InputError, match=f'the pickle refers to {module}.{word}; refused'):
        load(HEAD + name(module, word) + b')R.')


def _diamond(levels: int) -> bytes:
    content = HEAD + text('x') + b'\x94'
    for level in range(levels):
        content += b'h' + bytes([level]) + b'h' + bytes([level]) + b'\x86\x94'
    return content + b'.'


def _amplified() -> bytes:
    word = b'X' + struct.pack('<I', 500_000) + b'a' * 500_000
    return (HEAD + name('_codecs', 'encode') + b'\x94' + word + b'\x94' + text('latin1') + b'\x94('
            + b'h\x00h\x01h\x02\x86R' * 10_000 + b'l.')


HOSTILE = {
    'dict in itself': HEAD + b'}\x94' + text('state_dict') + b'h\x00s.',
    'list in itself': HEAD + b']\x94h\x00a.',
    'tuple around itself': HEAD + b']\x94h\x00\x85ah\x00.',
    'shape without bytes': HEAD + name('numpy.core.multiarray', '_reconstruct') + name('numpy', 'ndarray')
    + b'K\x00\x85C\x01b\x87R(K\x01' + FIVE_GB + b'\x85' + name('numpy', 'dtype') + text('f4') + b'\x85R\x89C\x00tb.',
    'buffer of a large shape': HEAD + name('numpy.core.numeric', '_frombuffer') + b'(C\x04abcd' + name('numpy', 'dtype')
    + text('f4') + b'\x85R' + FIVE_GB + b'\x85' + text('C') + b'tR.',
    'length of a bytearray': HEAD + b'\x96' + (5 * 10 ** 9).to_bytes(8, 'little') + b'.',
    'length of bytes': HEAD + b'\x8e' + (5 * 10 ** 9).to_bytes(8, 'little') + b'.',
    'length of a frame': HEAD + b'\x95' + (5 * 10 ** 9).to_bytes(8, 'little') + b'.',
    'depth of lists': HEAD + b']' * 5000 + b'a' * 4999 + b'.',
    'depth of a key': HEAD + b'})' + b'\x85' * 200_000 + b'Ns.',
    'diamond': _diamond(60),
    'digits': HEAD + b'I' + b'9' * 5000 + b'\n.',
    'digits of a long': HEAD + b'L' + b'9' * 5000 + b'L\n.',
    'digits of an index': HEAD + b'g' + b'9' * 5000 + b'\n.',
    'bytes of a long': HEAD + b'\x8b' + (10 ** 4).to_bytes(4, 'little') + b'\x7f' * 10 ** 4 + b'.',
    'one text encoded often': _amplified(),
    'steps': HEAD + b'N0' * 1_100_000 + b'N.',
    'state of a function': HEAD + name('_codecs', 'encode') + b'}' + text('__defaults__') + b'Nsb.',
    'state of a class': HEAD + name('collections', 'OrderedDict') + b'}' + text('x') + b'Nsb.',
    'call of a text': HEAD + text('x') + b')R.',
    'extension': HEAD + b'\x82\x01.',
    'persistent id': HEAD + b'Px\n.',
}


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_pickles_end_soon_and_small(case):
    tracemalloc.start()
    try:
        with pytest.raises((InputError, pickle.UnpicklingError, EOFError)) as caught:
            load(HOSTILE[case])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 250e6 and '\n' not in str(caught.value) and len(str(caught.value)) < 300


def test_the_index_of_a_memo_is_no_size():
    """C's unpickler allocates 4 GB for these 12 bytes."""
    tracemalloc.start()
    assert load(b'\x80\x02}r' + (2 ** 28).to_bytes(4, 'little') + b'.') == {}
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.parametrize('call', [b'R', b'\x81'])
def test_an_array_that_is_called_is_empty(call):
    """numpy.ndarray((5000000000,)) would be five gigabytes of whatever was in memory."""
    assert load(HEAD + name('numpy', 'ndarray') + FIVE_GB + b'\x85' + call + b'.').size == 0


@pytest.mark.parametrize('word, expected', [
    ('blocks.0', 'blocks.0'), ('a\nb\0', 'a?b?'), ('x' * 90, 'x' * 80 + '…'), (5, '(int)'), (('a',), '(tuple)')])
def test_names_in_messages_are_short_and_printable(word, expected):
    assert shown(word) == expected
