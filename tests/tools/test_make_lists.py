# SPDX-License-Identifier: Apache-2.0
"""Lists from class folders: ids, subsets, splits; existing lists are never lost."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from CaiT.data.lists import read_list
from CaiT.errors import InputError
from CaiT.tools import make_lists

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """Classes 'b', 'a c' and 'B' with 10, 4 and 7 training and 2 validation images each; other files between."""
    for name, count in (('b', 10), ('a c', 4), ('B', 7)):
        for split, number in (('train', count), ('valid', 2)):
            (tmp_path / split / name / 'deep').mkdir(parents=True)
            for index in range(number):
                (tmp_path / split / name / ('deep' if index == 0 else '') / f'{index}.JPEG').touch()
    (tmp_path / 'train' / 'b' / 'notes.txt').touch()
    (tmp_path / 'train' / 'readme.png').touch()
    return tmp_path


def read(path: Path) -> list:
    return path.read_text().splitlines()


def counts(path: Path) -> list:
    labels = [label for _, label in read_list(path, '', 3)]
    return [labels.count(index) for index in range(3)]


def test_every_image_with_ids_in_the_order_of_sorted_names(folder, capsys):
    assert make_lists.main([str(folder)]) == 0
    train = read(folder / 'train_list.txt')
    assert read(folder / 'classes.txt') == ['B', 'a c', 'b']
    assert counts(folder / 'train_list.txt') == [7, 4, 10] and counts(folder / 'val_list.txt') == [2, 2, 2]
    assert train[7:11] == [f'train/a c/{name}.JPEG 1' for name in ('1', '2', '3', 'deep/0')]
    assert read(folder / 'test_list.txt') == [line.rpartition(' ')[0] for line in read(folder / 'val_list.txt')]
    assert all((folder / path).is_file() for path, _ in read_list(folder / 'train_list.txt', '', 3))
    assert '-num_classes=3' in capsys.readouterr().out


@pytest.mark.parametrize('flags,train', [
    (['--fraction', '0.5'], [4, 2, 5]), (['-per_class=3'], [3, 3, 3]), (['--per-class', '8'], [7, 4, 8]),
    (['--fraction=0.01'], [1, 1, 1]),
])
def test_subsets(folder, flags, train):
    make_lists.main([str(folder), *flags, '--seed', '1'])
    assert counts(folder / 'train_list.txt') == train
    first = read(folder / 'train_list.txt')
    make_lists.main([str(folder), *flags, '--seed', '1', '--force'])
    assert read(folder / 'train_list.txt') == first
    if flags == ['--fraction', '0.5']:
        make_lists.main([str(folder), *flags, '--seed', '2', '--force'])
        assert read(folder / 'train_list.txt') != first


def test_val_split_takes_images_away_from_training(folder):
    for path in sorted((folder / 'valid').rglob('*'), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (folder / 'valid').rmdir()
    make_lists.main([str(folder)])
    assert not (folder / 'val_list.txt').exists()
    make_lists.main([str(folder), '--val-split', '0.2', '--force'])
    assert counts(folder / 'train_list.txt') == [6, 3, 8] and counts(folder / 'val_list.txt') == [1, 1, 2]
    assert not set(read(folder / 'train_list.txt')) & set(read(folder / 'val_list.txt'))


def test_broken_images_are_left_out_on_demand(folder, capsys):
    """Half a JPEG, text, an empty file; a class of which nothing is left is an error."""
    for path in folder.rglob('*.JPEG'):
        Image.effect_noise((16, 16), 90).save(path)
    whole = read_lists(folder)
    broken = [folder / line.rsplit(' ', 1)[0] for line in whole['train'][:3]]
    broken[0].write_bytes(broken[0].read_bytes()[:-20])
    broken[1].write_text('no image')
    broken[2].write_bytes(b'')
    assert make_lists.main([str(folder), '--force']) == 0 and read_lists(folder) == whole
    capsys.readouterr()
    assert make_lists.main([str(folder), '--force', '--check']) == 0
    assert read_lists(folder) == {**whole, 'train': whole['train'][3:]}
    output = capsys.readouterr().out
    assert output.count('left out: image ') == 3 and all(f'left out: image {path}: cannot' in output for path in broken)
    assert ', 3 that cannot be decoded\n' in output
    for line in whole['train'][3:7]:
        (folder / line.rsplit(' ', 1)[0]).write_bytes(b'')
    with pytest.raises(InputError, match='found no images in this class folder; remove the folder if it is none'):
        make_lists.main([str(folder), '--force', '--check'])


def read_lists(folder):
    """The lines of both lists, which are made when there are none."""
    if not (folder / 'train_list.txt').exists():
        make_lists.main([str(folder)])
    return {name: read(folder / f'{name}_list.txt') for name in ('train', 'val')}


def test_lists_that_are_there_survive(folder):
    for name in ('train_list.txt', 'classes.txt'):
        (folder / name).write_text('mine\n')
    with pytest.raises(InputError, match='train_list.txt: is there already'):
        make_lists.main([str(folder)])
    assert read(folder / 'train_list.txt') == ['mine'] and not (folder / 'val_list.txt').exists()
    for _ in range(3):  # more than once in a second
        make_lists.main([str(folder), '--force'])
    backups = sorted(path.read_text() for path in folder.glob('train_list.txt.bak-*'))
    assert len(backups) == 3 and backups.count('mine\n') == 1
    assert len(read(folder / 'train_list.txt')) == 21 and len(read(folder / 'classes.txt')) == 3
    assert [path.read_text() for path in folder.glob('classes.txt.bak-*')] == ['mine\n']


def test_bad_folders_and_flags(folder, tmp_path):
    (tmp_path / 'flat' / 'train').mkdir(parents=True)
    (tmp_path / 'hollow' / 'train' / 'x').mkdir(parents=True)
    for arguments, message in (
            ([str(tmp_path / 'none')], 'none/train: no such folder'), ([str(tmp_path / 'flat')], 'no class folders'),
            ([str(tmp_path / 'hollow')], 'found no images in this class folder'),
            ([str(folder), '--fraction', '0'], '--fraction: found 0.0'),
            ([str(folder), '--seed', '-1'], '--seed: found -1, expected at least 0'),
            ([str(folder), '--per-class', '0'], '--per-class: found 0'),
            ([str(folder), '--val-split', '1'], '--val-split: found 1.0'),
            ([str(folder), '--val-split', '0.2'], 'valid already')):
        with pytest.raises(InputError, match=message):
            make_lists.main(arguments)
    (folder / 'valid' / 'other').mkdir()
    (folder / 'valid' / 'other' / '1.png').touch()
    with pytest.raises(InputError, match='class folder other of the validation images'):
        make_lists.main([str(folder)])


def test_by_path_and_as_module(folder, tmp_path):
    result = subprocess.run([sys.executable, str(ROOT / 'CaiT/tools/make_lists.py'), str(folder)], cwd=tmp_path,
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0 and '21 images' in result.stdout, result.stderr
    result = subprocess.run([sys.executable, '-m', 'CaiT.tools.make_lists', str(folder)], cwd=ROOT,
                            capture_output=True, text=True, check=False)
    assert result.returncode == 2 and result.stderr.startswith('error: ') and result.stderr.count('\n') == 1


@pytest.mark.parametrize('words, train, val', [(['--val-split', '0.25'], 6, 2), ([], 8, 0)])
def test_a_folder_of_classes_without_train(tmp_path, capsys, words, train, val):
    for name in ('rose', 'aster'):
        (tmp_path / name).mkdir()
        for index in range(4):
            (tmp_path / name / f'{index}.jpg').write_bytes(b'x')
    assert make_lists.main([str(tmp_path), *words]) == 0
    listed = (tmp_path / 'train_list.txt').read_text(encoding='utf-8').splitlines()
    assert len(listed) == train and {line.split('/')[0] + line[-1] for line in listed} == {'aster0', 'rose1'}
    assert (tmp_path / 'val_list.txt').is_file() is bool(val)
    if val:
        chosen = (tmp_path / 'val_list.txt').read_text(encoding='utf-8').splitlines()
        assert len(chosen) == val and not set(chosen) & set(listed)
    else:
        assert f'(--val-split 0.2 takes a fifth of {tmp_path}/)' in capsys.readouterr().out


@pytest.mark.parametrize('folders, message', [
    (['valid/a'], '/train: no such folder, expected .*/train/<class>/<image>, or .*/<class>/<image>$'),
    ([], 'found no class folders, expected train/<class>/<image>, or <class>/<image>$')])
def test_neither_train_nor_classes(tmp_path, folders, message):
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        make_lists.main([str(tmp_path)])


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir])
def test_what_is_no_file_under_the_name_of_the_classes_is_not_read(folder, make):
    """Opening a FIFO waits for its writer."""
    make(folder / 'classes.txt')
    with pytest.raises(InputError, match='classes.txt: is there already, expected no list files'):
        make_lists.main([str(folder)])
