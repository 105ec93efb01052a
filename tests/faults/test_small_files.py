# SPDX-License-Identifier: Apache-2.0
"""Small files that ask for much: seconds and bytes must follow from the size of a file, not from what it says."""
from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from CaiT import safe_json, safe_yaml
from CaiT.data import cifar, decode, shard_index
from CaiT.data.label_map import read_classes
from CaiT.data.tar_shards import TarShards
from CaiT.deploy import metadata
from CaiT.deploy.results import ResultFile
from CaiT.errors import InputError
from CaiT.report import predictions, runs
from CaiT.serve import open_inference
from CaiT.training import checkpoint
from CaiT.weights.mindspore_ckpt import checkpoint_message
from CaiT.weights.readers import read_checkpoint

SECONDS, MEGABYTES = 10, 300  # processor time and memory for one of these files


@pytest.fixture(autouse=True)
def bounded():
    tracemalloc.start()
    began = time.process_time()
    yield
    taken, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert taken < SECONDS and peak < MEGABYTES, (taken, peak)


def refused(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 1000
    return str(caught.value)


# --- text ---

@pytest.mark.parametrize('text', ['"' + '\\"' * 200_000, '{"a": "' + '\\"' * 150_000 + '\\', '[' + '"\\\\' * 100_000])
def test_quotes_that_do_not_end(text):
    assert refused(safe_json.loads, text).startswith('not JSON')


@pytest.mark.parametrize('text, value', [
    ('["\\"[[[", {"]": "\\\\"}]', ['"[[[', {']': '\\'}]), ('"\\\\\\""', '\\"'), ('[[], "{"]', [[], '{'])])
def test_brackets_in_texts_are_no_depth(text, value, monkeypatch):
    monkeypatch.setattr(safe_json, 'MAX_DEPTH', 2)
    assert safe_json.loads(text) == value


@pytest.mark.parametrize('line', ['x' + ' ' * 60_000 + 'y', '1' + '\t' * 30_000 + ' y', 'n01440764' + ':' * 60_000])
def test_a_long_line_of_a_label_map(tmp_path, line):
    path = tmp_path / 'labels.txt'
    path.write_text(f'{line}\n')
    assert f'found a line of {len(line):,} characters, expected at most 1,000' in refused(read_classes, path)


@pytest.mark.parametrize('part', ['[Train][Epoch 1/1][Iter: 0/1] lr: 1, loss: 1,', '----- Epoch[1/1], Train Loss'])
def test_a_long_line_of_a_log(tmp_path, part):
    (tmp_path / 'config.yaml').write_text('TRAIN: {EPOCHS: 1}')
    (tmp_path / 'log_train.txt').write_text(part * 20_000)
    assert runs.read_run(tmp_path).steps == []


@pytest.mark.parametrize('labels', [[('/'.join('a' * 60_000), 1)], [('/'.join('b' * 50_000) + '/x.png', 1)]])
def test_a_path_of_many_folders(tmp_path, labels):
    (tmp_path / 'p.csv').write_text('path,class_id,class_name,prob\nx.png,1,x,0.5\n')
    assert 'x.png' in refused(predictions.read, tmp_path / 'p.csv', labels)


def other_files(folder):
    """{what reads a file: its name} of files that stand beside others."""
    def results(path):
        (folder / 'a.csv').write_text('path,class_id,class_name,prob\na.png,1,x,0.5\n')
        ResultFile(str(folder / 'a.csv'), 1, True, {'model': 'x'})

    def run(path):
        (folder / 'config.yaml').write_text('TRAIN: {EPOCHS: 1}')
        runs.read_run(folder)
    return {'metadata.json': lambda path: metadata.read(folder), 'last.pdstate': checkpoint.read,
            'a.csv.run.json': results, 'log.jsonl': run, 'log_train.txt': run}


@pytest.mark.parametrize('name', ['metadata.json', 'last.pdstate', 'a.csv.run.json', 'log.jsonl', 'log_train.txt'])
@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, name, make):
    make(tmp_path / name)
    assert refused(other_files(tmp_path)[name], tmp_path / name) == f'{tmp_path / name}: is no regular file'


@pytest.mark.parametrize('read, limit', [(safe_json.load_json, safe_json.MAX_BYTES),
                                         (safe_yaml.load_yaml, safe_yaml.MAX_BYTES)])
def test_a_text_without_an_end(read, limit):
    assert f'/dev/zero: found {limit + 1:,} bytes of ' in refused(read, '/dev/zero')


# --- weights ---

def lying_zip(path, method, count):
    """An archive whose list says that its member is of 100 bytes; it is of ``count``."""
    with zipfile.ZipFile(path, 'w', method) as archive, archive.open('a.npy', 'w') as file:
        for _ in range(count >> 20):
            file.write(bytes(1 << 20))
    content = bytearray(path.read_bytes())
    place = content.find(b'PK\x01\x02')
    content[place + 24:place + 28] = struct.pack('<I', 100)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('method, message', [
    (zipfile.ZIP_DEFLATED, 'Bad CRC-32'),
    pytest.param(zipfile.ZIP_BZIP2, 'neither NumPy nor PyTorch uses, expected deflate', marks=pytest.mark.slow),
    pytest.param(zipfile.ZIP_LZMA, 'neither NumPy nor PyTorch uses, expected deflate', marks=pytest.mark.slow)])
def test_zip_members_larger_than_they_say(tmp_path, method, message):
    assert message in refused(read_checkpoint, lying_zip(tmp_path / 'w.npz', method, 400 << 20))


def text(word):
    return b'X' + struct.pack('<I', len(word)) + word.encode()


def glob(module, name):
    return f'c{module}\n{name}\n'.encode()


def dicts_of_one_list():
    items = b'](' + b''.join(text(f'k{number}') + b'K\x01\x86' for number in range(2000)) + b'e\x940'
    return items + glob('collections', 'OrderedDict') + b'\x940](' + b'h\x01h\x00\x85R' * 100_000 + b'e'


def scalars_of_one_text():
    data = b'B' + struct.pack('<I', 999_999) + bytes(999_999) + b'\x94'
    dtype = glob('numpy', 'dtype') + text('S999999') + b'\x85R\x94'
    return data + dtype + glob('numpy.core.multiarray', 'scalar') + b'\x94000](' + b'h\x02h\x01h\x00\x86R' * 5000 + b'e'


def dicts_of_one_key():
    return b'(' + b'N' * 500_000 + b't\x940}(' + b'h\x00N' * 100_000 + b'u'


def tuples_of_one_list():
    items = b'](' + b'N' * 100_000 + b'e\x940'
    return items + glob('builtins', 'tuple') + b'\x940](' + b'h\x01h\x00\x85R' * 20_000 + b'e'


@pytest.mark.parametrize('content, message', [
    (dicts_of_one_list, 'more memory than its size'), (scalars_of_one_text, 'more memory than its size'),
    (tuples_of_one_list, 'more memory than its size'), (dicts_of_one_key, 'a tuple as the key of a dict')])
def test_pickles_that_use_one_object_often(tmp_path, content, message):
    path = tmp_path / 'w.pdparams'
    path.write_bytes(b'\x80\x04' + content() + b'.')
    assert message in refused(read_checkpoint, path)


@pytest.mark.parametrize('dtype', [np.uint16, np.float32])
def test_one_array_under_many_names(tmp_path, dtype):
    """Of bfloat16 (Paddle's uint16) each name would be an array of its own."""
    path, array = tmp_path / 'w.pdparams', np.ones(1 << 19, dtype)
    path.write_bytes(pickle.dumps({f'blocks.{number}.x': array for number in range(1000)}, 4))
    assert 'take more than four times the size of the file: they share numbers; refused' in refused(
        read_checkpoint, path)


def test_tied_weights_are_read(tmp_path):
    path, array = tmp_path / 'w.pdparams', np.arange(10_000, dtype=np.uint16)
    path.write_bytes(pickle.dumps({'a': array, 'b': array, 'c': array}, 4))
    arrays = read_checkpoint(path).arrays
    assert all(np.array_equal(arrays[name], arrays['a']) for name in 'bc') and arrays['a'].dtype == np.float32


@pytest.mark.slow
def test_torch_tensors_that_share_a_storage(tmp_path):
    torch = pytest.importorskip('torch', reason='the extra "torch" is not installed')
    storage = torch.zeros(1 << 19, dtype=torch.bfloat16)
    torch.save({f'blocks.{number}.x': storage for number in range(300)}, tmp_path / 'w.pth')
    assert 'they share numbers; refused' in refused(read_checkpoint, tmp_path / 'w.pth')


@pytest.mark.parametrize('dims', [[2 ** 62] * 50_000, [1] * 33])
def test_mindspore_tensors_of_many_dimensions(tmp_path, dims):
    message = checkpoint_message()()
    tensor = message.value.add(tag='a').tensor
    tensor.dims.extend(dims)
    tensor.tensor_type, tensor.tensor_content = 'Float32', bytes(4)
    (tmp_path / 'w.ckpt').write_bytes(message.SerializeToString())
    assert "'a' holds 1 numbers, expected" in refused(read_checkpoint, tmp_path / 'w.ckpt')


# --- datasets ---

def tar_header(size, kind):
    block = bytearray(tarfile.TarInfo('a.jpg').tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (size % 256 ** 12 | (0 if size < 0 else 1 << 95)).to_bytes(12, 'big')
    block[148:156], block[156:157] = b' ' * 8, kind
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)


@pytest.mark.parametrize('kind', [b'0', b'L', b'x', b'Q'])
@pytest.mark.parametrize('size', [-1, -512, -1024])
def test_tar_members_of_negative_size(tmp_path, size, kind):
    path = tmp_path / 'train.tar'
    path.write_bytes(tar_header(size, kind) + bytes(1024))
    assert refused(TarShards().scan, str(path)) == f'{path}: damaged: a.jpg at byte 0 has a size below 0'


@pytest.mark.parametrize('kind', [b'x', b'L', b'0'])
def test_archives_of_cifar_that_unpack_to_much(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(cifar, 'MAX_UNPACKED', 30 << 20)
    monkeypatch.setattr(cifar, 'MAX_BYTES', 20 << 20)
    packed = zlib.compressobj(1, wbits=31)
    content = packed.compress(tar_header(100 << 20, kind))
    for _ in range(101):
        content += packed.compress(bytes(1 << 20))
    (tmp_path / 'cifar-10-python.tar.gz').write_bytes(content + packed.flush())
    assert 'unpacks to more than 31,457,280 bytes' in refused(cifar.read_cifar, 'cifar10', tmp_path, 'val')


@pytest.mark.parametrize('labels', [True, False])
def test_parquet_files_of_more_rows_than_bytes(tmp_path, labels):
    pyarrow = pytest.importorskip('pyarrow')
    from pyarrow import parquet

    from CaiT.data.parquet_shards import ParquetShards
    kind, count = pyarrow.struct([('bytes', pyarrow.binary()), ('path', pyarrow.string())]), 2_000_000
    columns = {'image': pyarrow.nulls(count, kind)}
    if labels:
        columns['label'] = pyarrow.nulls(count, pyarrow.int64())
    parquet.write_table(pyarrow.table(columns), tmp_path / 'train.parquet', compression='zstd')
    size = (tmp_path / 'train.parquet').stat().st_size
    assert f'2,000,000 rows in {size:,} bytes' in refused(ParquetShards().scan, str(tmp_path / 'train.parquet'))


@pytest.mark.parametrize('header', [
    {'shards': [[1]], 'crc32': 0}, {'shards': [[]], 'crc32': 0}, {'shards': ['abc'], 'crc32': 0}, [], 5,
    {'shards': [['a', 1, 1, 1e300]], 'crc32': 0}, {'shards': [{'3': 1}]}, {'shards': [['a', 1, 1, 0]], 'crc32': 0}])
def test_a_damaged_index_of_shards_is_made_anew(tmp_path, monkeypatch, header):
    monkeypatch.setenv('CAIT_HOME', str(tmp_path / 'home'))
    file = io.BytesIO()
    Image.new('RGB', (8, 8)).save(file, 'PNG')
    with tarfile.open(tmp_path / 'train.tar', 'w') as archive:
        for name, content in (('0.png', file.getvalue()), ('0.cls', b'1')):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    shard, reader = str(tmp_path / 'train.tar'), TarShards()
    place = shard_index._places([shard], '.tar')[0][0]
    place.write_bytes(shard_index.MAGIC + json.dumps(header).encode() + b'\n')
    assert shard_index.open_index([shard], reader).labels.tolist() == [1]


def png(width, height, levels):
    """Gray levels of 16 bits, every row the same."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    row, packed = b'\0' + levels.to_bytes(2, 'big') * width, zlib.compressobj(1)
    data = b''.join(packed.compress(row) for _ in range(height)) + packed.flush()
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 16, 0, 0, 0, 0))
            + chunk(b'IDAT', data) + chunk(b'IEND', b''))


@pytest.mark.parametrize('width, height, levels', [(4000, 4000, 60_000), (16_000_000, 1, 40_000)])
def test_sixteen_bits_are_converted_in_little_memory(tmp_path, width, height, levels):
    path = tmp_path / 'a.png'
    path.write_bytes(png(width, height, levels))
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    image = decode.load_image(path)
    assert image.getextrema() == ((levels >> 8,) * 2,) * 3
    assert tracemalloc.get_traced_memory()[1] - before < 5.5 * width * height  # the levels, the result, copies of it


@pytest.mark.parametrize('read', [decode.load_image, decode.decode_fast])
@pytest.mark.parametrize('mode, scans', [('L', 400), ('RGB', 2000)])
def test_jpegs_of_many_scans(tmp_path, read, mode, scans):
    """Each takes a few bytes and a pass over all pixels."""
    path, file = tmp_path / 'a.jpg', io.BytesIO()
    Image.new(mode, (400, 400)).save(file, 'JPEG', progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b'\xff\xda'):-2]
    path.write_bytes(content[:-2] + last * scans + content[-2:])
    assert 'a JPEG of more than 200 scans' in refused(read, path)


@pytest.mark.parametrize('read', [decode.load_image, decode.decode_fast])
@pytest.mark.parametrize('progressive', [False, True])
def test_scans_of_metadata_and_of_what_follows_the_image(tmp_path, read, progressive):
    """A preview in a comment; the video behind a motion photo."""
    path, file, noise = tmp_path / 'a.jpg', io.BytesIO(), b'\xff\xda\x00\x02' * 1000
    Image.new('RGB', (40, 40), (200, 10, 10)).save(file, 'JPEG', progressive=progressive, comment=noise)
    path.write_bytes(file.getvalue() + noise)
    assert np.asarray(read(path)).shape == (40, 40, 3)


@pytest.mark.parametrize('read', [decode.load_image, decode.decode_fast])
def test_a_file_of_gigabytes_is_no_image(tmp_path, read):
    path = tmp_path / 'a.jpg'
    Image.new('RGB', (8, 8)).save(path)
    with open(path, 'ab') as file:
        file.truncate(5 << 30)  # a hole: it takes no place on the disk
    assert 'a.jpg: cannot be read (found 5,368,709,120 bytes, expected at most 2,147,483,648)' in refused(read, path)


# --- requests ---

@pytest.mark.parametrize('data', [[0] * 50_000 + ['a' * 50_000], [[0.5] * 3] * 20_000 + [['b' * 50_000] * 3],
                                  [1, True], [[1], 2], [2, [1]], [[]]])
def test_numbers_of_a_request_beside_other_values(data):
    body = {'inputs': [{'name': 'x', 'datatype': 'FP32', 'shape': [1, 3, 2, 2], 'data': data}]}
    message = refused(open_inference.parse, json.dumps(body).encode(), None, 'FP32', (3, 2, 2))
    assert message.startswith('x: found ') and ('no numbers' in message or 'lengths' in message or '0 val' in message)


@pytest.mark.parametrize('length', ['9' * 5000, '\u0663', '1_0', ' 2', ''])
def test_the_length_of_the_json_of_a_request(length):
    assert refused(open_inference.parse, b'{}xx', length, 'FP32', (3, 2, 2)).startswith(
        'inference-header-content-length: found ')
