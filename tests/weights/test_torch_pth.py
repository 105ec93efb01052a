# SPDX-License-Identifier: Apache-2.0
"""PyTorch's files without PyTorch: what torch.save writes comes out as it went in; what nobody writes is refused."""
from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.weights.readers import read, read_checkpoint
from tests.weights.test_readers import FROM_BITS, refused


@pytest.fixture
def torch():
    return pytest.importorskip('torch', reason='the extra "torch" is not installed')


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('dtype', ['float32', 'float64', 'float16', 'bfloat16', 'int8', 'uint8', 'int16', 'int32',
                                   'int64', 'bool'])
def test_every_dtype_shape_and_stride(tmp_path, torch, zipped, dtype):
    base = torch.arange(48).reshape(4, 12).to(getattr(torch, dtype))
    content = {'whole': base, 'part': base[1:3, 2:8], 'turned': base.t(), 'step': base[::2, ::3], 'row': base[2],
               'scalar': base[1, 1], 'none': base[:0], 'parameter': torch.nn.Parameter(base, requires_grad=False),
               'channels': base.reshape(2, 2, 3, 4).contiguous(memory_format=torch.channels_last)}
    torch.save(content, tmp_path / 'w.pth', _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / 'w.pth')
    for name, tensor in content.items():
        expected = (tensor.float() if dtype == 'bfloat16' else tensor).detach().numpy()
        found = checkpoint.arrays[name]
        assert found.shape == expected.shape and found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected)
    assert checkpoint.bfloat16 == (set(content) if dtype == 'bfloat16' else set())


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_a_whole_training_file(tmp_path, torch, zipped, protocol):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {'model': net.state_dict(), 'optimizer': optimizer.state_dict(), 'rng': torch.get_rng_state(),
               'args': argparse.Namespace(lr=0.1, device=torch.device('cpu'), out=Path('/x'), dtype=torch.float16),
               'scheduler': torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(), 'best': np.float64(0.5),
               'size': torch.Size([2, 3]), 'names': {'a', 'b'}, 'np_rng': np.random.get_state()}
    torch.save(content, tmp_path / 'w.pth', pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / 'w.pth')
    assert set(found) == {'weight', 'bias'}
    np.testing.assert_array_equal(found['weight'], net.weight.detach().numpy())


def test_torch_is_not_imported(tmp_path, torch):
    torch.save({'a': torch.ones(3)}, tmp_path / 'w.pth')
    code = f'import sys; from CaiT.weights.readers import read; read({str(tmp_path / "w.pth")!r}); ' \
           'assert "torch" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parents[2], check=True, timeout=60)


def test_a_tensor_of_another_kind_is_named(tmp_path, torch):
    for tensor, reason in ((torch.ones(2, dtype=torch.complex64), 'ComplexFloatStorage'),
                           (torch.ones(2, 2).to_sparse(), '_rebuild_sparse_tensor'),
                           (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), 'refers to torch')):
        torch.save({'a': tensor}, tmp_path / 'w.pth')
        assert reason in refused(tmp_path / 'w.pth')
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'm.pth')
    assert 'refers to torch.nn.modules.linear.Linear' in refused(tmp_path / 'm.pth')


# --- files that torch.save would not write ---

HEAD = b'\x80\x02'


def text(word: str) -> bytes:
    return b'X' + len(word).to_bytes(4, 'little') + word.encode()


def number(value: int) -> bytes:
    return b'\x8a\x08' + value.to_bytes(8, 'little')


def tensor(numel=4, size=(2, 2), stride=(2, 1), offset=0, key='0', kind='FloatStorage', pid='storage') -> bytes:
    storage = (b'(' + text(pid) + f'ctorch\n{kind}\n'.encode() + text(key) + text('cpu') + number(numel) + b'tQ')
    return (b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + number(offset) + b'('
            + b''.join(map(number, size)) + b't(' + b''.join(map(number, stride)) + b't\x89}tR')


def archive(path, content: bytes, **members: bytes):
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('w/data.pkl', HEAD + b'}' + text('a') + content + b's.')
        file.writestr('w/data/0', np.arange(4, dtype='<f4').tobytes())
        for name, member in members.items():
            file.writestr(f'w/{name}', member)
    return path


def test_the_file_built_here_is_read(tmp_path):
    assert read(archive(tmp_path / 'w.pth', tensor(), byteorder=b'little'))['a'].tolist() == [[0, 1], [2, 3]]
    assert read(archive(tmp_path / 'w.pth', tensor(stride=(1, 2))))['a'].tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize('content, reason', [
    (tensor(size=(1000,), stride=(1,)), 'in a storage of 4 numbers'),
    (tensor(size=(2, 2), stride=(2 ** 40, 1)), 'in a storage of 4 numbers'),
    (tensor(size=(10 ** 10,), stride=(0,)), 'in a storage of 4 numbers'),
    (tensor(offset=3), 'in a storage of 4 numbers'), (tensor(numel=10 ** 10), 'holds 16 bytes'),
    (tensor(numel=2 ** 62), 'impossible size'), (tensor(size=(2,), stride=(1, 1)), 'impossible shape'),
    (tensor(key='../../secret'), 'damaged'), (tensor(key='7'), 'damaged'), (tensor(kind='Tensor'), 'numbers of type'),
    (tensor(kind='QInt8Storage'), 'refers to torch.QInt8Storage'), (tensor(pid='module'), 'holds more than tensors'),
    (b'ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR', 'damaged'),
    (b'ctorch.hub\nload\n)R', 'refers to torch.hub.load')])
def test_tensors_that_are_none(tmp_path, content, reason):
    assert reason in refused(archive(tmp_path / 'w.pth', content))


def test_archives_that_are_none(tmp_path):
    assert 'big-endian' in refused(archive(tmp_path / 'w.pth', tensor(), byteorder=b'big'))
    path = tmp_path / 'bomb.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('w/data.pkl', bytes(200_000_000))
    assert 'unpacks to 200,000,000; refused' in refused(path)
    with pytest.warns(UserWarning, match='Duplicate'), zipfile.ZipFile(path, 'w') as file:
        file.writestr('w/data.pkl', b'')
        file.writestr('w/data.pkl', b'')
    assert 'two members of one name' in refused(path)
    content = archive(tmp_path / 'full.pth', tensor()).read_bytes()
    for length in range(4, len(content) - 1, 7):
        path.write_bytes(content[:length])
        assert 'truncated' in refused(path)
    for place in range(0, len(content), 3):  # damage anywhere: another array or one line, never anything else
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1:])
        try:
            read(path)
        except InputError as error:
            assert '\n' not in str(error)


def test_npz_that_are_none(tmp_path):
    def npz(header: str, data: bytes = b''):
        with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as file:
            file.writestr('a.npy', b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header.encode() + data)
        return tmp_path / 'w.npz'
    good = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}\n"
    assert read(npz(good.format('(1,)'), bytes(4)))['a'].tolist() == [0]
    for header, reason in ((good.format('(1250000000,)'), 'holds 0 bytes of numbers'),
                           (good.format('(-1,)'), 'impossible'), ('', 'header'),
                           (good.format('(' + '9' * 5000 + ',)'), 'header'), ('(' * 4000 + ')' * 4000, 'header'),
                           ('-' * 9000 + '1', 'header'), (good.replace('<f4', '|O').format('(1,)'), 'objects'),
                           (good.replace("'<f4'", "[('a', '<f4')]").format('(1,)'), 'expected numbers')):
        assert reason in refused(npz(header))
    np.savez_compressed(tmp_path / 'b.npz', a=np.zeros(50_000_000, 'f4'))
    assert 'unpacks to 200,000,1' in refused(tmp_path / 'b.npz')


def test_an_old_file_whose_storages_are_elsewhere(tmp_path, torch):
    torch.save({'a': torch.from_numpy(FROM_BITS)}, tmp_path / 'w.pth', _use_new_zipfile_serialization=False)
    content = (tmp_path / 'w.pth').read_bytes()
    start = content.rindex(FROM_BITS.tobytes())
    moved = content[:start - 8] + bytes(8) + content[start:]
    for changed, reason in ((content[:-4], 'truncated'), (moved, 'should be'),
                            (content[:20], 'damaged'), (content.replace(b'\xe9\x03', b'\xe8\x03', 1), 'not read here')):
        (tmp_path / 'v.pth').write_bytes(changed)
        assert reason in refused(tmp_path / 'v.pth')
    assert pickle.loads(content) == 0x1950a86a20f9469cfc6c  # the number that begins the file
