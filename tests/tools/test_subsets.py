# SPDX-License-Identifier: Apache-2.0
"""Subsets and splits of make_lists at their limits: at least one image each, both splits, chosen by the seed alone."""
from __future__ import annotations

import pytest

from CaiT.errors import InputError
from CaiT.tools import make_lists


@pytest.fixture
def made(tmp_path):
    """made(train, valid, *flags): {list: its paths}; of each class that many images."""
    def run(train, valid, *flags):
        for split, sizes in (('train', train), ('valid', valid)):
            for name, count in enumerate(sizes):
                (tmp_path / split / f'c{name}').mkdir(parents=True, exist_ok=True)
                for index in range(count):
                    (tmp_path / split / f'c{name}' / f'{index:03d}.png').touch()
        make_lists.main([str(tmp_path), '--force', *flags])
        return {split: [line.rpartition(' ')[0] for line in (tmp_path / f'{split}_list.txt').read_text().splitlines()]
                for split in ('train', 'val') if (tmp_path / f'{split}_list.txt').is_file()}
    return run


def sizes(paths, classes):
    return [sum(f'/c{name}/' in path for path in paths) for name in range(classes)]


@pytest.mark.parametrize('fraction, validation', [('0.01', [1, 1, 1]), ('0.2', [2, 1, 1]), ('0.5', [5, 2, 1]),
                                                  ('0.99', [9, 3, 1])])
def test_a_split_leaves_each_class_an_image_on_either_side(made, fraction, validation):
    found = made([10, 4, 2], [], '--val-split', fraction)
    assert sizes(found['val'], 3) == validation
    assert sizes(found['train'], 3) == [10 - validation[0], 4 - validation[1], 2 - validation[2]]
    assert len({*found['train'], *found['val']}) == 16


def test_a_class_of_one_image_cannot_be_split(made):
    with pytest.raises(InputError, match='--val-split: class c1 has a single image, expected at least 2'):
        made([3, 1], [], '--val-split', '0.5')


@pytest.mark.parametrize('flags, train, val', [
    (['--fraction', '0.1'], [2, 1], [1, 1]), (['--fraction', '0.5'], [10, 2], [4, 3]),
    (['--per-class', '3'], [3, 3], [3, 3]), (['--fraction', '0.5', '--per-class', '3'], [3, 2], [3, 3])])
def test_both_lists_are_subsets(made, flags, train, val):
    found = made([20, 4], [8, 6], *flags)
    assert (sizes(found['train'], 2), sizes(found['val'], 2)) == (train, val)
    assert all(path.startswith('valid/') for path in found['val'])


@pytest.mark.parametrize('flags', [['--val-split', '0.3'], ['--fraction', '0.3']])
def test_the_seed_chooses(made, flags):
    found = [made([40], [], *flags, '--seed', seed) for seed in ('1', '1', '2')]
    assert found[0] == found[1] != found[2]
    assert all(paths == sorted(paths) for paths in found[0].values())


@pytest.mark.parametrize('flag, good, bad', [('--fraction', ['0.001', '1'], ['0', '1.01', '-1']),
                                             ('--val-split', ['0', '0.99'], ['1', '-0.1']),
                                             ('--per-class', ['1'], ['0', '-1'])])
def test_limits(made, flag, good, bad):
    for value in good:
        assert made([3], [], flag, value)['train']
    for value in bad:
        with pytest.raises(InputError, match=f'^{flag}: found '):
            made([3], [], flag, value)
