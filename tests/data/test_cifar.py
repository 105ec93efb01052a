# SPDX-License-Identifier: Apache-2.0
"""The official CIFAR archives, packed and unpacked, and invalid archives."""
from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from CaiT.data.cifar import ARCHIVES, read_cifar
from CaiT.data.datasets import build_dataset
from CaiT.errors import InputError


def files(name: str, rng: np.random.Generator) -> dict:
    """The members of a small archive, two images in each file, as Python 2 wrote them (bytes as keys)."""
    archive = ARCHIVES[name]
    parts = {}
    for file_name in (*archive.files['train'], *archive.files['test']):
        data = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
        parts[file_name] = {b'data': data, archive.labels: [1, len(parts) % 5]}
    parts[archive.meta] = {archive.class_names: [b'name %d' % i for i in range(10 if name == 'cifar10' else 100)]}
    return {file_name: pickle.dumps(part, protocol=2) for file_name, part in parts.items()}


def pack(path, folder: str, members: dict) -> None:
    with tarfile.open(path, 'w:gz') as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f'{folder}/{name}')
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_packed_and_unpacked_archives_are_the_same(tmp_path, rng, name):
    archive, members = ARCHIVES[name], files(name, rng)
    pack(tmp_path / archive.tar_file, archive.folder, members)
    packed = read_cifar(name, str(tmp_path), 'train')
    (tmp_path / 'other' / archive.folder).mkdir(parents=True)
    for file_name, content in members.items():
        (tmp_path / 'other' / archive.folder / file_name).write_bytes(content)
    for place in (tmp_path / 'other', tmp_path / 'other' / archive.folder, tmp_path / archive.tar_file):
        again = read_cifar(name, str(place), 'train')
        np.testing.assert_array_equal(again.pixels, packed.pixels)
        np.testing.assert_array_equal(again.labels, packed.labels)
    count = 2 * len(archive.files['train'])
    assert packed.pixels.shape == (count, 32, 32, 3) and packed.pixels.dtype == np.uint8
    first = pickle.loads(members[archive.files['train'][0]])[b'data'][1]
    assert packed.pixels[1, 4, 7].tolist() == first.reshape(3, 32, 32)[:, 4, 7].tolist()
    assert packed.class_names[3] == 'name 3' and packed.sources[1].endswith(f'{archive.files["train"][0]}#1')
    test = read_cifar(name, str(tmp_path), 'val')
    assert len(test.labels) == 2 and not np.array_equal(test.pixels, packed.pixels[:2])


@pytest.mark.parametrize('num_classes, has_names', [(10, True), (12, False)])
def test_names_of_classes_belong_to_a_head_of_as_many(tmp_path, rng, num_classes, has_names):
    pack(tmp_path / 'cifar-10-python.tar.gz', 'cifar-10-batches-py', files('cifar10', rng))
    found = build_dataset('cifar10', str(tmp_path), 'val', None, num_classes).class_names
    assert found == ([f'name {index}' for index in range(10)] if has_names else None)


ROW = np.zeros((1, 3072), np.uint8)


class Payload:
    """The content of a malicious archive."""

    def __reduce__(self):
        return os.mkdir, ('payload-was-here',)


def test_code_in_an_archive_is_refused(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    members = files('cifar10', rng)
    members['data_batch_3'] = pickle.dumps({b'data': Payload()})
    pack(tmp_path / 'cifar-10-python.tar.gz', 'cifar-10-batches-py', members)
    with pytest.raises(InputError, match=r'data_batch_3: cannot be read \(the pickle refers to .*mkdir'):
        read_cifar('cifar10', str(tmp_path), 'train')
    assert not (tmp_path / 'payload-was-here').exists()


@pytest.mark.parametrize('file_name, content, match', [
    ('data_batch_2', {b'data': ROW, b'labels': [2 ** 70]}, 'expected rows of 3072 bytes and as many labels'),
    ('data_batch_2', {b'data': ROW, b'labels': [-1]}, 'expected rows of 3072 bytes and as many labels'),
    ('data_batch_2', {b'data': ROW, b'labels': ['1']}, 'expected rows of 3072 bytes and as many labels'),
    ('batches.meta', {b'label_names': None}, 'expected a list of class names'),
    ('batches.meta', {b'label_names': [3]}, 'expected a list of class names')])
def test_labels_and_names_of_other_types(tmp_path, rng, file_name, content, match):
    members = {**files('cifar10', rng), file_name: pickle.dumps(content, protocol=2)}
    pack(tmp_path / 'cifar-10-python.tar.gz', 'cifar-10-batches-py', members)
    with pytest.raises(InputError, match=f'{file_name}: {match}'):
        read_cifar('cifar10', str(tmp_path), 'train')


def test_a_member_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, rng, monkeypatch):
    monkeypatch.setattr('CaiT.data.cifar.MAX_BYTES', 10_000)
    pack(tmp_path / 'cifar-10-python.tar.gz', 'cifar-10-batches-py',
         {**files('cifar10', rng), 'data_batch_4': bytes(10_001)})
    with pytest.raises(InputError, match='data_batch_4: found 10,001 bytes, expected at most 10,000'):
        read_cifar('cifar10', str(tmp_path), 'train')


def test_missing_incomplete_and_invalid_archives(tmp_path, rng):
    with pytest.raises(InputError, match='found neither cifar-10-python.tar.gz nor cifar-10-batches-py/'):
        read_cifar('cifar10', str(tmp_path), 'train')
    path, members = tmp_path / 'cifar-10-python.tar.gz', files('cifar10', rng)
    pack(path, 'cifar-10-batches-py', members)
    whole = path.read_bytes()
    for part in (whole[:len(whole) // 2], whole[:20], b'text'):
        path.write_bytes(part)
        with pytest.raises(InputError, match='cannot be read as a tar archive|is missing') as error:
            read_cifar('cifar10', str(tmp_path), 'train')
        assert '\n' not in str(error.value)
    for change, message in (({'data_batch_2': None}, 'data_batch_2 is missing'),
                            ({'data_batch_2': pickle.dumps([1])}, 'data_batch_2: found list'),
                            ({'data_batch_2': b'nonsense'}, 'data_batch_2: cannot be read'),
                            ({'data_batch_2': pickle.dumps({b'data': 3})}, 'data_batch_2: expected rows')):
        pack(path, 'cifar-10-batches-py', {k: v for k, v in {**members, **change}.items() if v is not None})
        with pytest.raises(InputError, match=message):
            read_cifar('cifar10', str(tmp_path), 'train')


def test_the_real_archive(real_data):
    train = read_cifar('cifar10', str(real_data / 'cifar10_lite'), 'train')
    assert train.pixels.shape == (5000, 32, 32, 3) and np.bincount(train.labels).tolist() == [500] * 10
    assert train.class_names[:3] == ['airplane', 'automobile', 'bird']
    blue_over_red = train.pixels[train.labels == 0].reshape(-1, 3).mean(0)
    assert blue_over_red[2] > blue_over_red[0] + 5  # airplanes fly in the sky: the channels are in order
