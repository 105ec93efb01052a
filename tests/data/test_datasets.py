# SPDX-License-Identifier: Apache-2.0
"""Samples, class names, and errors that name list file and line."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from CaiT.data.datasets import build_dataset
from CaiT.data.train_transforms import TrainOptions, train_transform
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.errors import InputError

DATA = DataConfig(16, 1.0, 'bicubic', (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def folder(tmp_path):
    """Three images of one level each in ImageNet layout, and their lists."""
    for index, level in enumerate((0, 255, 51)):
        path = tmp_path / 'train' / f'class {index}' / 'a b.png'
        path.parent.mkdir(parents=True)
        Image.new('RGB', (24, 20), (level,) * 3).save(path)
    lines = [f'train/class {index}/a b.png {index}' for index in range(3)]
    (tmp_path / 'train_list.txt').write_text('\n'.join(lines))
    (tmp_path / 'val_list.txt').write_text(lines[2])
    (tmp_path / 'test_list.txt').write_text('train/class 1/a b.png\n')
    return tmp_path


def test_samples(folder):
    data = build_dataset('imagenet2012', str(folder), 'train', eval_transform(DATA), 3)
    assert len(data) == 3 and data.samples[1] == (str(folder / 'train/class 1/a b.png'), 1)
    values = [data[index] for index in range(3)]
    assert [float(image[2, 8, 8]) for image, _ in values] == pytest.approx([-1, 1, -0.6])
    assert all(image.shape == (3, 16, 16) and image.dtype == np.float32 for image, _ in values)
    assert [label for _, label in values] == [0, 1, 2] and values[0][1].dtype == np.int64
    test = build_dataset('imagenet2012', str(folder), 'test', eval_transform(DATA), 3)
    assert list(test.samples) == [(str(folder / 'train/class 1/a b.png'), -1)] and test[0][1] == -1


def test_the_sample_seed_determines_the_sample(folder):
    transform = train_transform(DATA, TrainOptions(erase_prob=1))
    data = build_dataset('imagenet2012', str(folder), 'train', transform, 3)
    first, again, other = data[(1, 2**62 + 5)][0], data[(1, 2**62 + 5)][0], data[(1, 7)][0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_class_names(folder):
    def names(label_map: str = '', classes: int = 3):
        return build_dataset('imagenet2012', str(folder), 'val', eval_transform(DATA), classes, label_map).class_names
    assert names() is None
    (folder / 'classes.txt').write_text('a\nb\nc\n')
    assert names() == ['a', 'b', 'c']
    assert names(classes=1000) is None  # lists with another dataset's ids: these are not its names
    (folder / 'named.json').write_text('["x", "y", "z"]')
    assert names(str(folder / 'named.json')) == ['x', 'y', 'z']
    with pytest.raises(InputError, match='found 3 names, expected 4'):
        names(str(folder / 'named.json'), 4)


def test_bad_images_name_list_and_line(folder):
    (folder / 'train' / 'broken.png').write_bytes(b'no image')
    (folder / 'train_list.txt').write_text('train/class 0/a b.png 0\n\ntrain/broken.png 1\ntrain/none.png 1\n')
    data = build_dataset('imagenet2012', str(folder), 'train', eval_transform(DATA), 3)
    for index, message in ((1, 'train_list.txt, line 3: image .*broken.png: cannot be decoded'),
                           (2, 'train_list.txt, line 4: image .*none.png: no such file')):
        with pytest.raises(InputError, match=message):
            data[index]


def test_bad_lists_and_names(folder, tmp_path):
    with pytest.raises(InputError, match='val_list.txt, line 1: found class id 2, expected 0 to 1'):
        build_dataset('imagenet2012', str(folder), 'val', eval_transform(DATA), 2)
    (folder / 'val_list.txt').unlink()
    with pytest.raises(InputError, match='val_list.txt: no such file.*CaiT.tools.make_lists'):
        build_dataset('imagenet2012', str(folder), 'val', eval_transform(DATA), 3)
    with pytest.raises(InputError, match='none/train_list.txt: no such file.*make_digits --output'):
        build_dataset('digits', str(tmp_path / 'none'), 'train', eval_transform(DATA), 10)
    with pytest.raises(InputError, match="dataset: found 'imagenet', expected one of imagenet2012, digits"):
        build_dataset('imagenet', str(folder), 'train', eval_transform(DATA), 3)
    with pytest.raises(InputError, match="split: found 'valid'"):
        build_dataset('imagenet2012', str(folder), 'valid', eval_transform(DATA), 3)


def test_cifar(real_data):
    path = str(real_data / 'cifar10_lite')
    data = build_dataset('cifar10', path, 'test', eval_transform(DATA), 10)
    image, label = data[999]
    assert len(data) == 1000 and image.shape == (3, 16, 16) and label == data.samples[999][1]
    assert data.class_names[9] == 'truck' and data.samples[999][0].endswith('test_batch#999')
    with pytest.raises(InputError, match='class ids up to 9, found a head with 9 classes'):
        build_dataset('cifar10', path, 'test', eval_transform(DATA), 9)
    train = build_dataset('cifar10', path, 'train', train_transform(DATA, TrainOptions(kind='pad_crop')), 1000)
    assert train.class_names is None and train[(0, 1)][0].shape == (3, 16, 16)


def test_real_imagenet_layout(real_data):
    data = build_dataset('imagenet2012', str(real_data / 'imagenette_lite'), 'train', eval_transform(DATA), 1000,
                         str(real_data / 'meta/synset_words.txt'))
    assert len(data) == 1000 and data.class_names[data[0][1]] == 'tench, Tinca tinca'
