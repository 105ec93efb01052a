# SPDX-License-Identifier: Apache-2.0
"""Which shards a path names, and of which split they are."""
from __future__ import annotations

import pytest

from CaiT.data.shard_files import expand, find_shards, has_shards
from CaiT.errors import InputError


@pytest.mark.parametrize('pattern,names', [
    ('a.tar', ['a.tar']), ('a-{0..2}', ['a-0', 'a-1', 'a-2']), ('a-{008..011}', ['a-008', 'a-009', 'a-010', 'a-011']),
    ('{x,y}-{0..1}.tar', ['x-0.tar', 'x-1.tar', 'y-0.tar', 'y-1.tar']), ('{9..10}', ['9', '10']),
])
def test_braces(pattern, names):
    assert expand(pattern) == names


@pytest.mark.parametrize('pattern', ['{5..2}', '{0..99999999}', '{0..999999}{0..9}'])
def test_impossible_ranges(pattern):
    with pytest.raises(InputError, match='-data_path .*(expected two increasing numbers|names more than)'):
        expand(pattern)


@pytest.fixture
def make(tmp_path):
    def files(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path
    return files


LAYOUTS = {
    'names': (['imagenet1k-train-0000.tar', 'imagenet1k-train-0001.tar', 'imagenet1k-validation-00.tar'], ['']),
    'names below': (['data/train-00000-of-2.tar', 'data/train-00001-of-2.tar', 'data/val-0.tar'], ['']),
    'folders': (['train/0.tar', 'train/1.tar', 'valid/0.tar', 'latest.tar', '.hidden/train.tar'], ['']),
    'list of folders': (['a/train/0.tar', 'a/train/1.tar', 'b/val/0.tar'], ['a/train', 'b/val']),
    'pattern': (['train_000.tar', 'train_001.tar', 'train_002.tar', 'val_000.tar'], ['train_{000..001}.tar']),
    'wildcard': (['train_000.tar', 'train_001.tar', 'val_000.tar'], ['train_*.tar']),
    'both patterns': (['train0.tar', 'train1.tar', 'val0.tar', 'val1.tar'], ['train{0..1}.tar', 'val{0..0}.tar']),
    'no words': (['0.tar', '1.tar', 'val.tar'], ['']),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_train_and_val(make, layout):
    names, paths = LAYOUTS[layout]
    root = make(*names)
    data_path = ','.join(f'{root}/{path}'.rstrip('/') for path in paths)
    train, note = find_shards(data_path, '.tar', 'train')
    assert len(train) == 2 and note == '' and all('val' not in path[len(str(root)):] for path in train)
    val, note = find_shards(data_path, '.tar', 'val')
    assert len(val) == 1 and note == '' and 'val' in val[0][len(str(root)):]


def test_val_and_test_stand_in_for_each_other(make):
    root = make('train.tar', 'test.tar')
    assert find_shards(str(root), '.tar', 'val') == ([f'{root}/test.tar'],
                                                     f'no val shards in {root}: those of test are used')
    assert find_shards(f'{root}/train.tar', '.tar', 'test')[1] == ''


def test_the_name_of_a_file_goes_before_those_of_folders(make):
    root = make('train/val-0.tar', 'train/0.tar')
    assert find_shards(str(root / 'train'), '.tar', 'val')[0] == [f'{root}/train/val-0.tar']
    assert find_shards(str(root / 'train'), '.tar', 'train')[0] == [f'{root}/train/0.tar']


@pytest.mark.parametrize('names,path,split,message', [
    (['train.tar'], '', 'val', r'found no val shards \(.tar files; found 1 train\), expected files or folders whose '
                               'names hold one of the words val, valid, validation'),
    (['0.tar'], '', 'val', 'found 1 of no split'), (['a.zip'], '', 'train', 'found none'),
    (['train-0.tar'], 'train-{0..2}.tar', 'train', r'train-1.tar \(and 1 more\): no such shard or folder'),
    (['train-0.zip'], 'train-0.zip', 'train', 'is no .tar file'),
    (['train_val.tar'], '', 'train', r'found the words of 2 splits in train_val.tar \(train, val\), expected one'),
    ([], 'none-*.tar', 'train', r'none-\*.tar: no such shard'),
])
def test_refused(make, names, path, split, message):
    with pytest.raises(InputError, match=message):
        find_shards(f'{make(*names)}/{path}'.rstrip('/'), '.tar', split)


def test_what_is_no_shard(make):
    root = make('train/0.tar', 'images/a.png')
    assert has_shards(str(root), '.tar') and has_shards(f'{root}/train/{{0..0}}.tar', '.tar')
    assert not any(has_shards(f'{root}/{name}', '.tar') for name in ('images', 'images/a.png', 'none'))


def test_folders_are_visited_once_and_in_order(make):
    folder = make('train-2.tar', 'b/train-0.tar', 'a/train-1.tar', 'a/c/train-3.tar', 'a/train-9.tar')
    (folder / 'a' / 'loop').symlink_to(folder)
    (folder / 'same').symlink_to(folder / 'b')
    found, _ = find_shards(str(folder), '.tar', 'train')
    assert found == [f'{folder}/{name}' for name in (
        'train-2.tar', 'a/train-1.tar', 'a/train-9.tar', 'a/c/train-3.tar', 'b/train-0.tar')]
