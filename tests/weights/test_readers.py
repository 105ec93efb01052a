# SPDX-License-Identifier: Apache-2.0
"""Weight files of every format, valid and broken: arrays are read exactly, errors are one line."""
from __future__ import annotations

import collections
import json
import os
import pickle
import struct
import subprocess
import zipfile

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.weights.readers import EXTENSIONS, PADDLE, TORCH, read, read_checkpoint, resolve
from tests.weights.checkpoints import write_ckpt, write_npz, write_pdparams, write_safetensors

ARRAYS = {'a.weight': np.arange(12, dtype=np.float32).reshape(3, 4), 'b': np.array([0.1, -2.5], np.float16),
          'c': np.array([[[1e-300]]]), 'n': np.array([7, 8], np.int64)}
# 1.0, -3.140625, 2**-126 and infinity, which bfloat16 holds exactly
BITS = np.array([0x3F80, 0xC049, 0x0080, 0x7F80], np.uint16)
FROM_BITS = np.array([1.0, -3.140625, 2.0 ** -126, np.inf], np.float32)


def equal(found, expected=ARRAYS):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array)


def refused(path) -> str:
    """The one-line error of reading ``path``, without the path."""
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f'{path}: ') and '\n' not in text
    return text[len(f'{path}: '):]


WRITERS = {'.pdparams': write_pdparams, '.safetensors': write_safetensors, '.ckpt': write_ckpt, '.npz': write_npz}
LAYOUTS = {'.pdparams': PADDLE, '.safetensors': TORCH, '.ckpt': TORCH, '.npz': TORCH}


@pytest.mark.parametrize('extension', WRITERS)
def test_arrays_are_read_exactly(tmp_path, extension):
    path = WRITERS[extension](tmp_path / f'w{extension}', ARRAYS)
    checkpoint = read_checkpoint(path)
    equal(checkpoint.arrays)
    assert checkpoint.layout == LAYOUTS[extension] and checkpoint.path == str(path)


@pytest.mark.parametrize('extension', WRITERS)
def test_content_decides_not_the_extension(tmp_path, extension):
    path = WRITERS[extension](tmp_path / f'w{extension}', ARRAYS)
    for other in (*EXTENSIONS, '.bak', ''):
        renamed = tmp_path / f'x{other}'
        renamed.write_bytes(path.read_bytes())
        equal(read(renamed))


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_pdparams_of_every_pickle_protocol_and_numpy(tmp_path, protocol):
    path = write_pdparams(tmp_path / 'w.pdparams', collections.OrderedDict(ARRAYS), protocol)
    equal(read(path))
    content = path.read_bytes()
    here = b'numpy._core' if b'numpy._core' in content else b'numpy.core'
    there = b'numpy.core' if here == b'numpy._core' else b'numpy._core'
    if protocol < 4:  # names end in a newline there, so their length may change
        path.write_bytes(content.replace(here, there))
        equal(read(path))


def test_pdparams_as_paddle_saves_them(tmp_path):
    import paddle
    layer = paddle.nn.Linear(3, 2)
    state = layer.state_dict()
    expected = {name: value.numpy() for name, value in state.items()}
    for number, content in enumerate((state, {'model': state, 'epoch': 3}, {'state_dict': state}, {'model': {
            'state_dict': state}})):
        path = str(tmp_path / f'{number}.pdparams')
        paddle.save(content, path)
        equal(read(path), expected)
    layer.to(dtype='bfloat16')
    paddle.save(layer.state_dict(), str(tmp_path / 'b.pdparams'))
    equal(read(tmp_path / 'b.pdparams'), {name: value.astype('float32').numpy()
                                          for name, value in layer.state_dict().items()})


def test_bfloat16_is_exact_in_every_format(tmp_path):
    equal(read(write_pdparams(tmp_path / 'w.pdparams', {'a': BITS})), {'a': FROM_BITS})
    header = json.dumps({'a': {'dtype': 'BF16', 'shape': [2, 2], 'data_offsets': [4, 12]},
                         'b': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}).encode()
    (tmp_path / 'w.safetensors').write_bytes(struct.pack('<Q', len(header)) + header + np.float32(5).tobytes()
                                             + BITS.tobytes())
    equal(read(tmp_path / 'w.safetensors'), {'a': FROM_BITS.reshape(2, 2), 'b': np.array([5], np.float32)})
    path = write_ckpt(tmp_path / 'w.ckpt', {'aaa': BITS})
    path.write_bytes(path.read_bytes().replace(b'UInt16', b'BFlo16'))
    assert "'BFlo16'" in refused(path)  # an unknown type is named
    path = write_ckpt(tmp_path / 'v.ckpt', {'aaa': BITS[:1].view(np.float16)})
    content = path.read_bytes().replace(b'\x07Float16', b'\x08BFloat16')
    assert content[1] == len(content) - 3 and content[8] == len(content) - 10  # lengths of the value and its tensor
    path.write_bytes(b'\n' + bytes([content[1] + 1]) + content[2:8] + bytes([content[8] + 1]) + content[9:])
    equal(read(path), {'aaa': FROM_BITS[:1]})


def test_safetensors_header_decides_the_layout(tmp_path):
    for kind, layout in (('pd', PADDLE), ('pt', TORCH), ('np', TORCH)):
        assert read_checkpoint(write_safetensors(tmp_path / 'w.safetensors', ARRAYS, format=kind)).layout == layout


def test_mindspore_pieces_scalars_and_checksum(tmp_path):
    arrays = {**ARRAYS, 'epoch': np.array(3, np.int32), 'flag': np.array([True, False])}
    equal(read(write_ckpt(tmp_path / 'w.ckpt', arrays, end=b'crc_num' + (12345).to_bytes(10, 'big'))), arrays)
    whole = {name: array for name, array in arrays.items() if array.size > 1}
    equal(read(write_ckpt(tmp_path / 'w.ckpt', whole, pieces=2)), whole)


def test_extension_may_be_left_out(tmp_path):
    path = write_pdparams(tmp_path / 'best.v1.pdparams', ARRAYS)
    assert resolve(path) == resolve(tmp_path / 'best.v1') == str(path)
    write_npz(tmp_path / 'best.v1.npz', ARRAYS)
    assert resolve(tmp_path / 'best.v1') == str(path)  # in the order of EXTENSIONS


def test_a_missing_file_lists_what_was_looked_for(tmp_path):
    text = refused(tmp_path / 'nothing')
    assert all(extension in text for extension in EXTENSIONS)
    assert 'folder' in refused(tmp_path)


# --- invalid files ---

@pytest.mark.parametrize('extension', [*EXTENSIONS, ''])
def test_empty_and_foreign_files(tmp_path, extension):
    path = tmp_path / f'w{extension}'
    for content, reason in ((b'', 'empty'), (b'\x89PNG\r\n\x1a\n' + bytes(64), 'first bytes'),
                            (b'Not Found\n', 'first bytes'), (b'<!DOCTYPE html><html>' * 9, 'first bytes'),
                            (b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'first bytes'),
                            (b'\n\n\n\n\n\n\n\n\n\n\n', 'first bytes'), (b'\x0a', 'first bytes'),
                            (b'\x80', 'damaged'), (bytes(8) + b'{', 'damaged')):
        path.write_bytes(content)
        assert reason in refused(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('report.txt', 'hello')
    assert 'neither' in refused(path)


@pytest.mark.parametrize('extension', WRITERS)
def test_truncated_files(tmp_path, extension):
    content = WRITERS[extension](tmp_path / f'w{extension}', {'a.weight': ARRAYS['a.weight']}).read_bytes()
    path = tmp_path / f't{extension}'
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path)


@pytest.mark.parametrize('content, reason', [
    ([1, 2], 'a list'), ({}, 'no arrays'), ({'a': 'text'}, "'a' holds a str"), ({1: ARRAYS['b']}, 'names'),
    ({'a': np.array([{}, None], dtype=object)}, "'a' holds an array of object"),
    ({'model': [1]}, "'model' holds a list")])
def test_pickles_that_hold_no_weights(tmp_path, content, reason):
    assert reason in refused(write_pdparams(tmp_path / 'w.pdparams', content))


def test_npz_with_objects_is_refused(tmp_path):
    path = write_npz(tmp_path / 'w.npz', {'a': np.array([{}], dtype=object)})
    assert 'arrays of objects are refused' in refused(path)


# --- malicious files ---

class Malicious:
    """Creates ``path`` when it is loaded by an ordinary unpickler."""

    def __init__(self, path, how):
        self.path, self.how = str(path), how

    def __reduce__(self):
        if self.how == 'system':
            return os.system, (f'touch {self.path}',)
        if self.how == 'eval':
            return eval, (f'open({self.path!r}, "w")',)
        return subprocess.check_call, (['touch', self.path],)


@pytest.mark.parametrize('how', ['system', 'eval', 'check_call'])
@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_a_malicious_pdparams_is_refused_and_does_nothing(tmp_path, how, protocol):
    mark, path = tmp_path / 'mark', tmp_path / 'w.pdparams'
    write_pdparams(path, {**ARRAYS, 'model': {'x': Malicious(mark, how)}}, protocol)
    reason = refused(path)
    assert not mark.exists()
    assert 'refused' in reason or protocol == 0 and 'first bytes' in reason
    pickle.loads(path.read_bytes())  # the file is malicious
    assert mark.exists()


def test_a_codec_cannot_be_chosen(tmp_path):
    class Codec:
        def __reduce__(self):
            import _codecs
            return _codecs.encode, ('x', 'rot13')
    assert 'rot13' in refused(write_pdparams(tmp_path / 'w.pdparams', {'a': Codec()}))


# --- PyTorch ---

def torch_zip(path):
    """A minimal file in the format of torch.save, written without torch."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('w/data.pkl', b'\x80\x02}.')
    return path


@pytest.fixture
def torch():
    return pytest.importorskip('torch', reason='the extra "torch" is not installed')


@pytest.mark.parametrize('zipped', [True, False])
def test_torch_files(tmp_path, torch, zipped):
    import argparse
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    tensors['h'] = torch.from_numpy(FROM_BITS).bfloat16()
    expected = {**ARRAYS, 'h': FROM_BITS}
    for content in (tensors, {'model': tensors, 'args': argparse.Namespace(lr=1.0), 'epoch': 3},
                    {'state_dict': tensors}):
        torch.save(content, tmp_path / 'w.pth', _use_new_zipfile_serialization=zipped)
        checkpoint = read_checkpoint(tmp_path / 'w')
        equal(checkpoint.arrays, expected)
        assert checkpoint.layout == TORCH
    content = (tmp_path / 'w.pth').read_bytes()
    for length in (0, 1, 13, 14, 100, len(content) // 2, len(content) - 1):
        (tmp_path / 't.pth').write_bytes(content[:length])
        refused(tmp_path / 't.pth')


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('how', ['system', 'eval', 'check_call'])
def test_a_malicious_pth_is_refused_and_does_nothing(tmp_path, torch, zipped, how):
    mark, path = tmp_path / 'mark', tmp_path / 'w.pth'
    torch.save({'a': Malicious(mark, how)}, path, _use_new_zipfile_serialization=zipped)
    assert 'refused' in refused(path) and not mark.exists()
    torch.load(path, weights_only=False)  # the file is malicious
    assert mark.exists()


def test_torchscript_is_refused(tmp_path):
    path = torch_zip(tmp_path / 'w.pt')
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('w/constants.pkl', b'\x80\x02).')
    assert 'TorchScript' in refused(path)
