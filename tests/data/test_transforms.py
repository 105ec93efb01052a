# SPDX-License-Identifier: Apache-2.0
"""Evaluation pixels against timm's, geometry of the training crops, determinism, errors."""
from __future__ import annotations

import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from CaiT.data import train_transforms
from CaiT.data.train_transforms import TrainOptions, train_transform
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# timm 1.0.31 with Pillow 13: (width, height, size, crop_pct, filter), sum of all levels, pixels at the first corner,
# the center and the last corner, and the normalized green at the center as the exact float32
TIMM = [
    ((97, 61, 32, 0.875, 'bicubic'), 385668, [157, 78, 127], [173, 184, 18], [172, 131, 163], '0x1.2f81ccp+0'),
    ((61, 97, 32, 0.9, 'bicubic'), 393552, [92, 83, 236], [115, 66, 252], [122, 127, 225], '-0x1.c2b064p-1'),
    ((500, 375, 224, 1.0, 'bicubic'), 19087831, [182, 22, 22], [0, 134, 170], [81, 161, 113], '0x1.3dab6ap-2'),
    ((375, 501, 224, 0.9, 'bilinear'), 19101110, [119, 117, 201], [22, 53, 91], [164, 81, 66], '-0x1.1b9b9ap+0'),
    ((20, 30, 32, 1.0, 'bicubic'), 357423, [13, 0, 53], [113, 145, 182], [207, 206, 83], '0x1.016f2ap-1'),
    ((33, 33, 32, 0.96, 'lanczos'), 364768, [0, 0, 0], [160, 0, 227], [54, 193, 21], '-0x1.049248p+1'),
    ((40, 32, 32, 1.0, 'bicubic'), 382688, [28, 0, 3], [188, 64, 0], [82, 61, 74], '-0x1.d49dc0p-1'),
]


def config(size: int = 32, crop_pct: float = 1.0, interpolation: str = 'bicubic') -> DataConfig:
    return DataConfig(size, crop_pct, interpolation, MEAN, STD)


@pytest.mark.parametrize('case,total,first,center,last,green', TIMM)
def test_evaluation_pixels_are_timms(pattern, case, total, first, center, last, green):
    width, height, size, crop_pct, interpolation = case
    data = config(size, crop_pct, interpolation)
    pixels = Image.fromarray(pattern(width, height))
    levels = eval_transform(data, normalize=False)(pixels)
    assert levels.shape == (size, size, 3) and levels.dtype == np.uint8
    assert int(levels.sum(dtype=np.int64)) == total
    middle = size // 2
    assert [levels[0, 0].tolist(), levels[middle, middle].tolist(), levels[-1, -1].tolist()] == [first, center, last]
    image = eval_transform(data)(pixels)
    assert image.shape == (3, size, size) and image.dtype == np.float32 and image.flags.c_contiguous
    assert float(image[1, middle, middle]) == float.fromhex(green)
    expected = (levels.transpose(2, 0, 1) / np.float32(255) - np.float32(MEAN).reshape(3, 1, 1)) \
        / np.float32(STD).reshape(3, 1, 1)
    np.testing.assert_array_equal(image, expected)


def test_evaluation_takes_path_image_and_array_alike(pattern, tmp_path):
    array = pattern(50, 40)
    Image.fromarray(array).save(tmp_path / 'image.png')
    transform = pickle.loads(pickle.dumps(eval_transform(config())))
    for pixels in (tmp_path / 'image.png', str(tmp_path / 'image.png'), Image.fromarray(array)):
        np.testing.assert_array_equal(transform(pixels), transform(array))


def test_real_photographs_are_timms(real_data):
    """Sum of all levels of the first 20 images, by timm: 150528 values each, bicubic, crop 0.9."""
    names = [line.split()[0] for line in (real_data / 'imagenet_ccby/val_list.txt').read_text().splitlines()[:20]]
    transform = eval_transform(config(224, 0.9), normalize=False)
    assert sum(int(transform(real_data / 'imagenet_ccby' / name).sum(dtype=np.int64)) for name in names) == 316077085


def test_data_config_round_trip_and_invalid_values():
    data = config(384, 0.95, 'bilinear')
    assert DataConfig.from_dict(data.as_dict()) == data
    assert data.as_dict() == {'image_size': 384, 'crop_pct': 0.95, 'interpolation': 'bilinear', 'mean': list(MEAN),
                              'std': list(STD)}
    for change in ({'crop_pct': 1.2}, {'crop_pct': 0}, {'crop_pct': 1e-5}, {'crop_pct': 1e-320},
                   {'image_size': 0}, {'interpolation': 'cubic'}, {'mean': (0.5,)}, {'std': (0.2, 0, 0.2)}, {'sdt': 1}):
        with pytest.raises(InputError, match=list(change)[0]):
            DataConfig.from_dict({**data.as_dict(), **change})


@pytest.mark.parametrize('name, size', [('deit_tiny_patch16_224', 224), ('vit_tiny_patch16_224', 96)])
def test_data_config_of_a_model(name, size):
    from CaiT.models.registry import create_model, get_variant
    model = create_model(name, depth=1, img_size=size, num_classes=3)
    assert DataConfig.of(model) == DataConfig(**{**get_variant(name).data, 'image_size': size})
    model.default_cfg['mean'] = MEAN[::-1]  # as weights that want other images set it
    assert DataConfig.of(model).mean == MEAN[::-1]
    with pytest.raises(InputError, match='data config: found Linear without default_cfg of image_size, crop_pct, .*, '
                                         'expected a model of create_model'):
        DataConfig.of(model.head)


@pytest.mark.parametrize('change', [
    {'kind': 'crop'}, {'interpolation': 'cubic'}, {'scale': (0.9, 0.1)}, {'scale': (0.1, 1.5)}, {'ratio': (0, 1)},
    {'hflip': 1.5}, {'erase_prob': -0.1}, {'zoom': 0.95}, {'erase_mode': 'white'}, {'auto_augment': 'rand-x9'},
])
def test_impossible_training_options_are_one_line(change):
    with pytest.raises(InputError) as error:
        train_transform(config(), TrainOptions(**change))
    assert '\n' not in str(error.value) and 'expected' in str(error.value)


def test_areas_and_ratios_of_crop_boxes(rng):
    options = TrainOptions(scale=(0.08, 1.0))
    boxes = np.array([train_transforms.crop_box(500, 375, options, rng) for _ in range(4000)], float)
    left, top, width, height = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (left + width <= 500).all() and (top + height <= 375).all()
    area, ratio = width * height / (500 * 375), width / height
    assert 0.078 < area.min() < 0.09 and area.max() > 0.95
    assert 0.74 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.35
    assert abs(np.log(ratio[area < 0.4]).mean()) < 0.01  # log ratio uniform about 0
    # timm, 60,000 boxes: the large ones often do not fit and are drawn again
    np.testing.assert_allclose(np.percentile(area, [25, 50, 75]), [0.2505, 0.4217, 0.5923], atol=0.02)
    np.testing.assert_allclose([left.mean(), top.mean()], [109.1, 52.3], atol=4)


@pytest.mark.parametrize('size,expected', [
    ((1000, 100), (433, 0, 133, 100)),  # too wide: ratio 4/3 in the middle
    ((100, 1000), (0, 433, 100, 133)),  # too high: ratio 3/4
    ((100, 100), (0, 0, 100, 100)),
])
def test_an_image_without_a_fitting_box_gives_its_center(size, expected, rng):
    assert train_transforms.crop_box(*size, TrainOptions(scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3)), _Never()) == expected


class _Never:
    """A generator whose boxes never fit: area 1 and an extreme ratio."""

    def random(self) -> float:
        return 0.0


def test_shrinking_averages_and_enlarging_interpolates():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200  # finer than the result can show: aliasing would give 0 or 200
    for name in ('bicubic', 'bilinear'):
        assert (train_transforms.resize(stripes, 16, 16, name) == 100).all()
    noise = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for name, kind in (('bicubic', Image.BICUBIC), ('bilinear', Image.BILINEAR)):
        reference = np.asarray(Image.fromarray(noise).resize((32, 32), kind)).astype(int)
        assert np.abs(train_transforms.resize(noise, 32, 32, name) - reference).mean() < 12  # OpenCV's own filters: 58
    ramp = np.repeat(np.arange(8, dtype=np.uint8)[None, :, None] * 30, 3, 2).repeat(8, 0)
    reference = np.asarray(Image.fromarray(ramp).resize((32, 32), Image.BILINEAR)).astype(int)
    assert np.abs(train_transforms.resize(ramp, 32, 32, 'bilinear').astype(int) - reference).max() <= 1


def test_training_is_a_function_of_the_sample_seed(pattern):
    pixels = pattern(120, 90)
    options = TrainOptions(auto_augment='rand-m9-mstd0.5-inc1', erase_prob=0.25)
    transform = pickle.loads(pickle.dumps(train_transform(config(), options)))
    first, second, other = (transform(pixels, np.random.Generator(np.random.PCG64(seed))) for seed in (5, 5, 6))
    assert first.shape == (3, 32, 32) and first.dtype == np.float32 and first.flags.c_contiguous
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.1


def test_everything_off_is_the_evaluation_geometry(pattern, rng):
    options = TrainOptions(kind='pad_crop', shift=0, interpolation='bicubic', hflip=0, color_jitter=0)
    pixels = np.ascontiguousarray(np.full((64, 96, 3), (10, 100, 250), np.uint8))
    pixels[:, :32] = 0
    data = config(64, 1.0)
    np.testing.assert_array_equal(train_transform(data, options)(pixels, rng), eval_transform(data)(pixels))


def test_flip_probability(pattern, rng):
    pixels = pattern(32, 32)
    plain = TrainOptions(kind='pad_crop', shift=0, interpolation='bilinear', color_jitter=0, hflip=0.25)
    transform = train_transform(config(), plain)
    straight = eval_transform(config())(pixels)
    flipped = 0
    for _ in range(400):
        image = transform(pixels, rng)
        if np.array_equal(image, straight):
            continue
        np.testing.assert_array_equal(image, straight[:, :, ::-1])
        flipped += 1
    assert 75 <= flipped <= 125  # 100 +- 3 sigma


def test_small_images_are_shifted_over_black(rng):
    pixels = np.full((8, 8, 3), 255, np.uint8)
    options = TrainOptions(kind='pad_crop', shift=0.25, interpolation='bilinear', hflip=0, color_jitter=0)
    black = (0 - MEAN[0]) / STD[0]
    fractions = [float(np.isclose(train_transform(config(16), options)(pixels, rng)[0], black, atol=1e-5).mean())
              for _ in range(300)]
    assert min(fractions) == 0.0 and 0.37 <= max(fractions) <= 1 - 0.75**2  # 4 of 16 pixels in both directions at most


def test_rotation_and_zoom_stay_within_bounds(rng):
    pixels = np.zeros((33, 33, 3), np.uint8)
    pixels[:, 16] = 255  # a vertical line through the center
    options = TrainOptions(kind='pad_crop', shift=0, rotate=15, zoom=0.1, interpolation='bilinear', hflip=0,
                           color_jitter=0)
    transform = train_transform(config(33), options)
    angles = []
    for _ in range(100):
        rows = transform(pixels, rng)[0][[4, 28]]
        top, bottom = (((row - row.min()) @ np.arange(33)) / (row - row.min()).sum() for row in rows)
        angles.append(np.degrees(np.arctan2(top - bottom, 24)))
    assert 12 < max(angles) < 16 and -16 < min(angles) < -12


@pytest.mark.parametrize('change,fraction', [({'color_jitter': 0.4}, 1.0), ({'auto_augment': '3augment'}, 1.0),
                                          ({'auto_augment': 'rand-m9-mstd0.5-inc1'}, 0.75),
                                          ({'auto_augment': 'autoaugment'}, 0.85), ({'erase_prob': 0.5}, 0.5)])
def test_every_option_changes_its_fraction_of_the_images(pixels, change, fraction):
    def image(seed: int, **options) -> np.ndarray:
        options = {'color_jitter': 0, **options}
        return train_transform(config(), TrainOptions(**options))(pixels, np.random.Generator(np.random.PCG64(seed)))
    changed = sum(not np.array_equal(image(seed), image(seed, **change)) for seed in range(200))
    assert abs(changed / 200 - fraction) < 0.11


def test_border_color_of_geometric_operations_is_the_mean():
    transform = train_transform(config(), TrainOptions(auto_augment='rand-m9-inc1', interpolation='bicubic'))
    assert transform.augment.applier.fill == (124, 116, 104)  # 255 * mean, rounded
    assert transform.augment.applier.filters == ('bicubic',)


def test_color_jitter_is_left_out_beside_randaugment():
    for auto, expected in (('', 0.3), ('3augment', 0.3), ('rand-m9-mstd0.5-inc1', 0.0), ('autoaugment', 0.0)):
        assert train_transform(config(), TrainOptions(auto_augment=auto, color_jitter=0.3)).jitter == expected


def test_training_decodes_jpeg_to_pillows_pixels(pattern, tmp_path):
    path = tmp_path / 'image.jpg'
    Image.fromarray(cv2.GaussianBlur(pattern(90, 70), (0, 0), 2)).save(path, quality=90)
    np.testing.assert_array_equal(train_transforms.as_array(path), np.asarray(Image.open(path)))


def test_inference_needs_neither_paddle_nor_opencv():
    code = ('import sys; import CaiT.data.transforms, CaiT.data.lists, CaiT.deploy.predictor; '
            'sys.exit("paddle" in sys.modules or "cv2" in sys.modules)')
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
