# SPDX-License-Identifier: Apache-2.0
"""Weights in several files and folders of them."""
from __future__ import annotations

import json
import os

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.weights.readers import read, resolve
from tests.weights.checkpoints import write_pdparams, write_safetensors
from tests.weights.test_readers import equal, refused

PARTS = ({'a.weight': np.arange(6, dtype='f4').reshape(2, 3)}, {'b': np.ones(2, 'f4'), 'c': np.zeros(1, 'f4')})
WHOLE = {**PARTS[0], **PARTS[1]}


def shards(folder, index=True, stem='model'):
    """Two shards in ``folder`` and their index, as Hugging Face writes them."""
    names = [f'{stem}-0000{number}-of-00002.safetensors' for number in (1, 2)]
    for name, part in zip(names, PARTS):
        write_safetensors(folder / name, part, format='pt')
    table = {key: name for name, part in zip(names, PARTS) for key in part}
    if index:
        write_index(folder, table)
    return names, table


def write_index(folder, table):
    content = json.dumps({'metadata': {'total_size': 1}, 'weight_map': table})
    (folder / 'model.safetensors.index.json').write_text(content)


@pytest.mark.parametrize('index', [True, False])
def test_by_folder_by_index_and_by_any_shard(tmp_path, index):
    names, _ = shards(tmp_path, index)
    for path in [tmp_path, *(tmp_path / name for name in names), tmp_path / 'model.safetensors.index.json'][:3 + index]:
        equal(read(path), WHOLE)


def test_a_folder_with_one_file(tmp_path):
    write_safetensors(tmp_path / 'model.safetensors', WHOLE)
    assert resolve(tmp_path) == str(tmp_path / 'model.safetensors')
    equal(read(str(tmp_path) + os.sep), WHOLE)


def test_a_folder_of_other_files_names_them(tmp_path):
    write_pdparams(tmp_path / 'best.pdparams', WHOLE)
    write_pdparams(tmp_path / 'last.pdparams', WHOLE)
    assert refused(tmp_path) == 'is a folder, expected a weight file: one of best.pdparams, last.pdparams'
    (tmp_path / 'empty').mkdir()
    assert 'is a folder' in refused(tmp_path / 'empty')


@pytest.mark.parametrize('number', [1, 2])
def test_a_missing_shard_is_named(tmp_path, number):
    names, _ = shards(tmp_path)
    (tmp_path / names[number - 1]).unlink()
    for path in (tmp_path, tmp_path / names[2 - number]):
        with pytest.raises(InputError, match=names[number - 1]):
            read(path)


@pytest.mark.parametrize('table', [
    {'a': '../model-00001-of-00002.safetensors'}, {'a': '/etc/passwd'}, {'a': '..'}, {'a': 'nothing.safetensors'},
    {'a': 5}, {}, [1], None, {'a': ['x']}, {'a': 'x' * 300}, {'a': '\u4e2d' * 90}])
def test_an_index_names_files_beside_it_only(tmp_path, table):
    (tmp_path / 'in').mkdir()
    shards(tmp_path / 'in')
    write_index(tmp_path / 'in', table)
    text = refused_index(tmp_path / 'in')
    assert 'beside it' in text or 'no index of shards' in text


def refused_index(folder):
    with pytest.raises(InputError) as caught:
        read(folder)
    assert str(caught.value).startswith(f'{folder / "model.safetensors.index.json"}: ')
    return str(caught.value)


@pytest.mark.parametrize('content', ['[' * 100_000, '{"weight_map": ' + '9' * 5000 + '}', '', '\0',
                                     '{"weight_map": {"a": NaN}}'])
def test_an_index_that_is_none(tmp_path, content):
    (tmp_path / 'model.safetensors.index.json').write_text(content)
    refused_index(tmp_path)


def test_a_name_in_two_shards(tmp_path):
    names, _ = shards(tmp_path)
    write_safetensors(tmp_path / names[1], {**PARTS[1], **PARTS[0]}, format='pt')
    with pytest.raises(InputError, match='a.weight, as another shard does'):
        read(tmp_path)


@pytest.mark.parametrize('name', ['model-00001-of-99999.safetensors', 'model-00001-of-00000.safetensors'])
def test_an_impossible_number_of_shards(tmp_path, name):
    write_safetensors(tmp_path / name, WHOLE)
    assert '1 to 1000' in refused(tmp_path / name)


def test_every_length_of_a_safetensors_header(tmp_path):
    """128 modulo 256 begins with the byte that begins a pickle; its second byte is then a protocol's number."""
    path, lengths = tmp_path / 'w.safetensors', set()
    for pad in range(0, 2300, 8):
        write_safetensors(path, WHOLE, note='x' * pad)
        lengths.add(int.from_bytes(path.read_bytes()[:8], 'little'))
        equal(read(path), WHOLE)
    assert len(lengths) == 288 and {length % 256 for length in lengths} == set(range(0, 256, 8))
