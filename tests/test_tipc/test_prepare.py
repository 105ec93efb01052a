# SPDX-License-Identifier: Apache-2.0
"""prepare.sh creates the embedded data and changes nothing else."""
from __future__ import annotations

import shutil
import sys

import pytest
from trees import CONFIG, LITE, ROOT

pytest.importorskip('sklearn')


@pytest.fixture
def bare(tree):
    """Without data, and with the real interpreter."""
    shutil.rmtree(tree.root / 'dataset')
    return tree


def prepare(tree, mode=LITE, config=CONFIG):
    return tree.run('prepare.sh', config, mode, PYTHON=sys.executable)


def files(folder):
    """{path: time of its last change} of everything in a folder."""
    found = (path for path in folder.rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
def test_lite_data(bare):
    assert prepare(bare).status == 0
    folder = bare.root / 'dataset/lite_data'
    lists = {name: (folder / f'{name}_list.txt').read_text(encoding='utf-8').splitlines()
             for name in ('train', 'val', 'test')}
    assert [len(lines) for lines in lists.values()] == [16, 16, 16]
    assert lists['test'] == [line.rpartition(' ')[0] for line in lists['val']]
    names = [line.split()[0] for split in ('train', 'val') for line in lists[split]]
    assert len({name.rpartition('/')[2] for name in names}) == 32
    for name in ('train', 'val'):
        assert {line.split()[1] for line in lists[name]} == set('0123456789')
    assert all((folder / name).is_file() for name in names)
    assert sum(path.stat().st_size for path in folder.rglob('*')) < 1e6
    whole = (ROOT / 'txt/val_list.txt').read_text(encoding='utf-8')
    for line in lists['val']:  # valid/3/3_0024.png 3 is valid/3/0024.png 3 of the whole set
        assert line.replace(f'/{line[-1]}_', '/') in whole
    assert [path.name for path in (bare.root / 'dataset').iterdir()] == ['lite_data']

    before = files(folder)
    assert prepare(bare).status == 0
    assert files(folder) == before


@pytest.mark.slow
def test_whole_data_are_made_only_where_they_are_the_embedded_set(bare):
    assert prepare(bare, 'whole_train_whole_infer').status == 0
    assert len((bare.root / 'dataset/digits/train_list.txt').read_text(encoding='utf-8').splitlines()) == 1442
    result = prepare(bare, 'whole_train_whole_infer', 'test_tipc/configs/DeiT/train_infer_python.txt')
    assert result.status == 2 and './dataset/LSVRC2012: not there' in result.error


def test_users_lists_are_kept(bare):
    bare.write('dataset/lite_data/train_list.txt', 'mine.png 0\n')
    result = prepare(bare)
    assert result.status == 2 and './dataset/lite_data/val_list.txt: missing; write it with' in result.error
    assert list(files(bare.root / 'dataset')) == ['lite_data/train_list.txt']


@pytest.mark.slow
def test_weights_that_are_not_there(bare):
    bare.write_data('dataset/digits')
    bare.edit(CONFIG, 24, 'train_model:./weights/mine')
    result = prepare(bare, 'whole_infer')
    assert result.status == 2 and 'line 24: ./weights/mine: not there' in result.error
