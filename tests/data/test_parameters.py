# SPDX-License-Identifier: Apache-2.0
"""Each parameter of the data pipeline acts, at values that are not its default, and by numbers of its own."""
from __future__ import annotations

import io
import os
import pickle

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image, ImageEnhance, ImageOps

from CaiT.data import augment, operations, train_transforms
from CaiT.data.cifar import read_cifar
from CaiT.data.decode import to_8_bits
from CaiT.data.label_map import read_label_map
from CaiT.data.lists import list_images
from CaiT.data.loader import build_loader
from CaiT.data.mixing import Mixing
from CaiT.data.sampler import TrainSampler
from CaiT.data.train_transforms import TrainOptions, TrainTransform, pad_crop
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.errors import InputError

HALF = ((0.5,) * 3, (0.5,) * 3)
QUIET = dict(kind='pad_crop', shift=0.0, hflip=0.0, color_jitter=0.0, interpolation='')  # nothing random


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize('name, flag', [('nearest', 0), ('lanczos', 1), ('bilinear', 2), ('bicubic', 3)])
def test_evaluation_filter(pattern, name, flag):
    image = Image.fromarray(pattern(50, 50))
    found = eval_transform(DataConfig(24, 1.0, name, *HALF), normalize=False)(image)
    np.testing.assert_array_equal(found, np.asarray(image.resize((24, 24), flag)))


@pytest.mark.parametrize('mode', ['pixel', 'rand', 'const'])
def test_erasing_mode_reaches_the_transform(mode):
    transform = TrainTransform(DataConfig(32, 1.0, 'bilinear', (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
                               TrainOptions(**QUIET, erase_prob=1.0, erase_mode=mode))
    image = transform(np.full((32, 32, 3), 255, np.uint8), generator())
    erased = image[:, (image != 1).any(0)]  # [3, pixels]
    assert erased.shape[1] > 10
    levels = [len(np.unique(channel)) for channel in erased]
    assert levels == [1, 1, 1] if mode != 'pixel' else min(levels) > 10
    assert (not erased.any()) == (mode == 'const') and (mode != 'rand' or len(np.unique(erased)) == 3)


def test_zoom_is_in_both_directions():
    pixels = np.zeros((33, 33, 3), np.uint8)
    pixels[8:25, 8:25] = 255
    data = DataConfig(33, 1.0, 'bilinear', *HALF)
    options = TrainOptions(**{**QUIET, 'zoom': 0.5})
    areas = [pad_crop(pixels, data, options, 'bilinear', generator(seed)).mean() / pixels.mean() for seed in range(60)]
    assert 0.25 < min(areas) < 0.5 and 1.5 < max(areas) < 2.26 and len(np.unique(areas)) > 30


@pytest.mark.parametrize('option, config, expected', [
    ('', 'lanczos', {'lanczos'}), ('', 'nearest', {'nearest'}), ('bicubic', 'nearest', {'bicubic'}),
    ('random', 'nearest', {'bilinear', 'bicubic'})])
def test_training_filter(monkeypatch, option, config, expected):
    found, resize = set(), train_transforms.resize
    monkeypatch.setattr(train_transforms, 'resize', lambda pixels, width, height, name: (
        found.add(name), resize(pixels, width, height, name))[1])
    transform = TrainTransform(DataConfig(8, 1.0, config, *HALF), TrainOptions(**{**QUIET, 'interpolation': option}))
    for seed in range(20):
        transform(np.zeros((16, 16, 3), np.uint8), generator(seed))
    assert found == expected


@pytest.mark.parametrize('alphas, spread', [((0.1, 0.0), 0.458), ((1.0, 0.0), 0.297), ((50.0, 0.0), 0.049),
                                            ((0.0, 0.1), 0.289), ((0.0, 1.0), 0.189), ((0.0, 50.0), 0.104)])
def test_alpha_shapes_the_coefficients(alphas, spread):
    """Beta(0.1, 0.1) is nearly 0 or 1, Beta(50, 50) nearly 0.5; boxes are cut at the border. Standard deviations."""
    images, labels, rng = np.zeros((2, 3, 64, 64), np.float32), np.array([0, 1]), generator()
    mixing = Mixing(*alphas, 2, 2, label_smoothing=0.0)
    lams = np.array([mixing(images, labels, rng)[1][0, 0] for _ in range(300)])
    assert lams.std() == pytest.approx(spread, abs=0.02)


@pytest.mark.parametrize('length, repeats, batch', [(10, 3, 5), (10, 3, 10), (7, 2, 7), (9, 3, 9), (11, 4, 4)])
def test_repeats_of_a_length_that_they_do_not_divide(length, repeats, batch):
    """All batches are full, and the last image comes less often."""
    assert [len(part) for part in TrainSampler(length, batch, 0, repeats=repeats)] == [batch] * (length // batch)
    whole = [index for part in TrainSampler(length, length, 0, repeats=repeats) for index, _ in part]
    assert len(whole) == length and len(set(whole)) == -(-length // repeats)


@pytest.mark.parametrize('length, batch, world_size, drop, left', [
    (10, 4, 1, True, 2), (10, 2, 2, True, 2), (12, 4, 1, True, 0), (10, 4, 1, False, 0), (11, 4, 2, False, 1),
    (3, 8, 1, True, 0), (5, 4, 2, True, 1)])
def test_samples_in_no_batch(length, batch, world_size, drop, left):
    assert TrainSampler(length, batch, 0, world_size=world_size, drop_last=drop).left_out == left


@pytest.mark.parametrize('workers, shared, expected', [(0, True, False), (2, True, True), (2, False, False)])
def test_loader_settings_arrive(monkeypatch, workers, shared, expected):
    calls = []

    def record(dataset, **options):
        calls.append(options)
        raise InterruptedError
    monkeypatch.setattr(paddle.io, 'DataLoader', record)
    with pytest.raises(InterruptedError):
        next(iter(build_loader([], [], workers, shared)))
    assert (calls[0]['num_workers'], calls[0]['use_shared_memory']) == (workers, expected)


def test_blur_is_from_a_tenth_to_two(monkeypatch):
    found = []
    monkeypatch.setattr(augment.ops, 'gaussian_blur', lambda pixels, sigma: found.append(sigma) or pixels)
    rng = generator()
    for _ in range(3000):
        augment.three_augment(np.zeros((2, 2, 3), np.uint8), rng)
    assert 0.1 <= min(found) < 0.11 and 1.99 < max(found) <= 2 and abs(np.mean(found) - 1.05) < 0.06


def test_color_jitter_is_in_every_order(monkeypatch):
    calls = []
    for name in ('brightness', 'contrast', 'color'):
        monkeypatch.setattr(augment.ops, name, lambda pixels, factor, name=name: calls.append(name) or pixels)
    rng = generator()
    for _ in range(60):
        augment.color_jitter(np.zeros((2, 2, 3), np.uint8), 0.3, rng)
    orders = {tuple(calls[start:start + 3]) for start in range(0, 180, 3)}
    assert len(orders) == 6 and all(len(set(order)) == 3 for order in orders)


@pytest.mark.parametrize('bright', range(1, 10))
def test_contrast_rounds_the_mean_as_pillow_does(bright):
    pixels = np.full((10, 10, 3), 100, np.uint8)
    pixels[:bright] = 101  # a mean of 100.1 to 100.9
    for factor in (0.0, 0.5, 1.7):
        expected = np.asarray(ImageEnhance.Contrast(Image.fromarray(pixels)).enhance(factor))
        np.testing.assert_array_equal(operations.contrast(pixels, factor), expected)


def test_cifar10_has_five_training_files(tmp_path):
    """Names of members and keys as the official archive has them; the order is that of the files."""
    for name, label in [(f'data_batch_{number}', number) for number in range(1, 6)] + [('test_batch', 9)]:
        part = {b'data': np.full((1, 3072), label, np.uint8), b'labels': [label]}
        (tmp_path / name).write_bytes(pickle.dumps(part, 2))
    (tmp_path / 'batches.meta').write_bytes(pickle.dumps({b'label_names': [b'n%d' % i for i in range(10)]}, 2))
    found = read_cifar('cifar10', tmp_path, 'train')
    assert found.labels.tolist() == found.pixels[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert found.class_names[9] == 'n9' and found.sources[2].endswith('data_batch_3#0')
    assert read_cifar('cifar10', tmp_path, 'val').labels.tolist() == [9]
    (tmp_path / 'data_batch_1').unlink()
    with pytest.raises(InputError, match='data_batch_1 is missing, expected the official cifar10 archive'):
        read_cifar('cifar10', tmp_path, 'train')


def test_cifar100_has_fine_and_coarse_labels(tmp_path):
    """Names of members and keys as the official archive has them."""
    part = {b'data': np.zeros((2, 3072), np.uint8), b'fine_labels': [42, 7], b'coarse_labels': [3, 19]}
    part[b'data'][0, [0, 1, 32, 1024, 2048]] = [9, 8, 7, 6, 5]  # red at (0, 0), (0, 1), (1, 0); green and blue
    meta = {b'fine_label_names': [b'f%d' % i for i in range(100)],
            b'coarse_label_names': [b'c%d' % i for i in range(20)]}
    for name, content in (('train', part), ('test', part), ('meta', meta)):
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    found = read_cifar('cifar100', tmp_path, 'train')
    assert found.labels.tolist() == [42, 7] and found.class_names[42] == 'f42'
    assert found.pixels[0, 0, 0].tolist() == [9, 6, 5]
    assert (found.pixels[0, 0, 1, 0], found.pixels[0, 1, 0, 0]) == (8, 7)


@pytest.mark.parametrize('dtype, top', [(np.uint16, 255), (np.uint16, 4095), (np.uint16, 65535), (np.int32, 65535),
                                        (np.float32, 1), (np.float32, 255), (np.float32, 65535)])
def test_white_is_white(dtype, top):
    """The largest value of each range is still of this range."""
    values = np.array([[0, top // 2 if top > 1 else 0.5, top]], dtype)
    assert to_8_bits(values).tolist() == [[0, 128 if dtype == np.float32 and top == 1 else 127, 255]]


@pytest.mark.parametrize('lines', [['n00000002 b', 'n00000001 a'], ['n00000001 a', 'n00000001 b'],
                                   ['n00000001 a', 'n00000003 c', 'n00000002 b']])
def test_wordnet_ids_that_do_not_rise(tmp_path, lines):
    path = tmp_path / 'names.txt'
    path.write_text('\n'.join(lines))
    with pytest.raises(InputError, match='found n0000000[12] after n0000000[123], expected rising WordNet ids'):
        read_label_map(path, None)


def test_images_of_nested_folders_are_sorted_by_their_whole_path(tmp_path):
    names = ['a/b/1.png', 'a/b/0.png', 'a/2.png', 'b.png', 'c/0.png', 'a.png', 'a-b/0.png', 'c/b/a/0.png']
    buffer = io.BytesIO()
    Image.new('RGB', (2, 2)).save(buffer, 'png')
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(buffer.getvalue())
    assert list_images(tmp_path) == sorted(os.path.join(tmp_path, name) for name in names)


def test_crops_use_all_positions_and_only_them():
    """Boxes of the whole range of the scale lie inside, and reach every border."""
    rng, options = generator(), TrainOptions(scale=(0.25, 0.25), ratio=(1.0, 1.0))
    boxes = np.array([train_transforms.crop_box(20, 10, options, rng) for _ in range(2000)])
    assert (boxes[:, 2:] == 7).all()  # the root of a quarter of 200 pixels
    assert boxes[:, 0].min() == 0 and boxes[:, 0].max() == 13 and boxes[:, 1].min() == 0 and boxes[:, 1].max() == 3
    assert cv2.countNonZero(np.bincount(boxes[:, 0]).astype(np.float32)) == 14


def test_operations_at_their_ends_are_pillows():
    """Saturation 0 is gray, 1 the identity, and equalizing counts a level that one pixel alone has."""
    pixels = generator().integers(0, 200, (40, 50, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    image = Image.fromarray(pixels)
    gray = np.asarray(image.convert('L').convert('RGB'))
    assert (operations.color(pixels, 0) != gray).mean() < 0.02  # where luma is just between two levels
    np.testing.assert_array_equal(operations.color(pixels, 1), pixels)
    np.testing.assert_array_equal(operations.equalize(pixels), np.asarray(ImageOps.equalize(image)))
    for few in (1, 2, 255, 256, 510, 511):  # pixels below the brightest level: a step of 0, 1 and 2 of 255
        line = np.zeros((1, few + 1, 3), np.uint8)
        line[0, :, :] = np.linspace(0, 250, few + 1).astype(np.uint8)[:, None]
        np.testing.assert_array_equal(operations.equalize(line), np.asarray(ImageOps.equalize(Image.fromarray(line))))
