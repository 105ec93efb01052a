# SPDX-License-Identifier: Apache-2.0
"""The embedded dataset: its images, its split, the lists under txt/, and its determinism."""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from CaiT.data.datasets import build_dataset
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.tools import make_digits

pytest.importorskip('sklearn')

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """The dataset."""
    output = tmp_path_factory.mktemp('digits') / 'new' / 'digits'
    assert make_digits.main(['-output', str(output)]) == 0
    return output


def content_hash(folder: Path) -> str:
    """One hash over the names and pixels of all images (file bytes may differ between zlib versions)."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob('*.png')):
        digest.update(path.relative_to(folder).as_posix().encode() + np.asarray(Image.open(path)).tobytes())
    return digest.hexdigest()


def test_images_never_change(folder):
    assert len(list(folder.rglob('*.png'))) == 1797
    image = Image.open(folder / 'train/0/0000.png')
    assert image.size == (8, 8) and image.mode == 'L'
    # scikit-learn's first digit, a zero: its first two rows of ink are 0 0 5 13 9 1 0 0 and 0 0 13 15 10 15 5 0
    assert np.asarray(image)[:2].tolist() == [[0, 0, 80, 207, 143, 16, 0, 0], [0, 0, 207, 239, 159, 239, 80, 0]]
    assert content_hash(folder) == 'd28891578fb18ef13748f25cabc29741d52bc81ce8b7f0475ea54eb07f220d7f'


def test_the_split_is_balanced_and_disjoint(folder):
    counts = {}
    for split, total in (('train', 1442), ('valid', 355)):
        per_class = [len(list((folder / split / str(digit)).glob('*.png'))) for digit in range(10)]
        assert sum(per_class) == total
        counts[split] = np.array(per_class)
    fraction = counts['valid'] / (counts['train'] + counts['valid'])
    assert fraction.min() > 0.19 and fraction.max() <= 0.2
    names = [{path.relative_to(folder / split) for path in (folder / split).rglob('*.png')}
             for split in ('train', 'valid')]
    assert not names[0] & names[1]


@pytest.mark.parametrize('name', ['train_list.txt', 'val_list.txt', 'test_list.txt'])
def test_tracked_lists_are_the_written_ones(folder, name):
    assert (ROOT / 'txt' / name).read_bytes() == (folder / name).read_bytes()


def test_it_is_a_dataset(folder):
    data = DataConfig(32, 1.0, 'bicubic', (0.5,) * 3, (0.5,) * 3)
    for split, count in (('train', 1442), ('val', 355), ('test', 355)):
        dataset = build_dataset('digits', str(folder), split, eval_transform(data), 10)
        assert len(dataset) == count and dataset.class_names[3] == 'three'
        image, label = dataset[count - 1]
        assert image.shape == (3, 32, 32) and label == (-1 if split == 'test' else 9)


def test_running_it_again_changes_nothing_and_repairs_what_is_broken(folder):
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob('*.png')}
    broken = folder / 'valid/4/0004.png'
    whole = broken.read_bytes()
    broken.write_bytes(b'')
    make_digits.write_digits(folder)
    assert broken.read_bytes() == whole
    assert [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp] == [broken]
