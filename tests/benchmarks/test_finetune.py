# SPDX-License-Identifier: Apache-2.0
"""The comparison of the fine-tuning recipe with runs tuned by hand: its lists, its settings, its table."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from CaiT.config import get_config
from CaiT.errors import InputError
from tests.settings import leaves

sys.path.append(str(Path(__file__).resolve().parents[2] / 'benchmarks'))
import finetune


@pytest.fixture
def images(tmp_path):
    """Three classes of three training images and two validation images."""
    for split, count in (('train', 3), ('valid', 2)):
        for name in ('n1', 'n2', 'n3'):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new('RGB', (4, 4)).save(tmp_path / split / name / f'{index}.png')
    return tmp_path


@pytest.mark.parametrize('classes, count', [(2, 2), (3, 1)])
def test_lists_of_the_first_images_of_the_first_classes(images, classes, count):
    for _ in range(2):  # the second time the links are there
        finetune.write_lists(images / 'cell', images / 'train', images / 'valid', classes, count)
    train = (images / 'cell/train_list.txt').read_text().splitlines()
    val = (images / 'cell/val_list.txt').read_text().splitlines()
    assert train == [f'train/n{label + 1}/{index}.png {label}' for label in range(classes) for index in range(count)]
    assert val == [f'val/n{label + 1}/{index}.png {label}' for label in range(classes) for index in range(2)]
    assert all((images / 'cell' / line.split()[0]).is_file() for line in train + val)


def test_too_few_images(images):
    with pytest.raises(InputError, match='n1: found 3 images, expected 4'):
        finetune.write_lists(images / 'cell', images / 'train', images / 'valid', 2, 4)


def test_five_runs_tuned_by_hand_differ_from_the_recipe_and_each_other():
    found = {name: str(sorted(leaves(get_config(str(finetune.RECIPE), opts)), key=str))
             for name, opts in finetune.RUNS.items()}
    assert len(found) == 6 == len(set(found.values())) and finetune.RUNS['recipe'] == []


def test_table():
    runs = {'recipe': {'top1': 0.9126}, 'adamw-1e-4': {'top1': 0.5}}
    rows = finetune.table({'5 x 40, 224': {}, '10 x 40, 112': runs})
    assert len(rows) == 4 and rows[0].startswith('| classes x images, pixels | recipe | adamw-1e-4 |')
    assert rows[3] == '| 10 x 40, 112 | 91.3 | 50.0 |  |  |  |  |'
