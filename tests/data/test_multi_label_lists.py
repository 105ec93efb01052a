# SPDX-License-Identifier: Apache-2.0
"""Lists in which an image has any number of classes."""
from __future__ import annotations

import numpy as np
import pytest

from CaiT.config import get_config
from CaiT.data.datasets import build_dataset
from CaiT.data.multi_label import read_multi_label_list, read_unlabeled_list
from CaiT.errors import InputError


def write(path, text):
    path.write_text(text, encoding='utf-8')
    return path


def test_lines_by_value(tmp_path):
    path = write(tmp_path / 'l.txt', 'a b.jpg 3,0\n\nc.jpg -\nd 4\t12,2,7\ne.jpg 12\n')
    samples = read_multi_label_list(path, 'data', 13)
    assert list(samples) == [('data/a b.jpg', [3, 0]), ('data/c.jpg', []), ('data/d 4', [12, 2, 7]),
                             ('data/e.jpg', [12])]
    assert len(samples) == 4 and samples[-1] == ('data/e.jpg', [12]) and samples[1:3] == list(samples)[1:3]
    assert samples.labels.tolist() == [3, 0, 12, 2, 7, 12] and samples.lines.tolist() == [1, 3, 4, 5]


@pytest.mark.parametrize('line, found', [
    ('a.jpg 3,17', 'found class id 17, expected 0 to 9 (the head has 10 classes)'),
    ('a.jpg 10', 'found class id 10, expected 0 to 9 (the head has 10 classes)'),
    ('a.jpg 3,4,3', 'found class id 3 2 times, expected each once'),
    ('a.jpg 0,00', 'found class id 0 2 times, expected each once'),
    *((line, f'found {line!r}, expected "path 3,17,42" or, for an image of no class, "path -"') for line in (
        'a.jpg', 'a.jpg 3, 4', 'a.jpg 3,', 'a.jpg ,3', 'a.jpg 3,,4', 'a.jpg 3;4', 'a.jpg -1', 'a.jpg 3,-', '3,4'))])
def test_lines_that_are_refused(tmp_path, line, found):
    path = write(tmp_path / 'l.txt', f'x.jpg 1\n{line}\n')
    with pytest.raises(InputError) as error:
        read_multi_label_list(path, '', 10)
    assert str(error.value) == f'{path}, line 2: {found}'


@pytest.mark.parametrize('text, message', [
    ('', 'found no lines, expected "path 3,17,42" or, for an image of no class, "path -" lines'),
    ('a.jpg -\nb.jpg -\n', 'found no class id in 2 lines, expected at least one')])
def test_lists_without_labels_are_refused(tmp_path, text, message):
    path = write(tmp_path / 'l.txt', text)
    with pytest.raises(InputError) as error:
        read_multi_label_list(path, '', 10)
    assert str(error.value) == f'{path}: {message}'


def test_test_lists_may_have_no_class_ids(tmp_path):
    path = write(tmp_path / 'l.txt', 'a b.jpg\nc.jpg 3,99\nd.jpg -\n')
    assert list(read_unlabeled_list(path, 'x')) == [('x/a b.jpg', -1), ('x/c.jpg', -1), ('x/d.jpg', -1)]


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_several_ids_without_the_setting_say_which_it_is(tmp_path, split):
    write(tmp_path / f'{split}_list.txt', 'a.jpg 3,4\n')
    with pytest.raises(InputError, match=r"found 'a.jpg 3,4', .* \(several class ids: -opts DATA.MULTI_LABEL True\)$"):
        build_dataset('imagenet2012', tmp_path, split, None, 5)


def test_targets_by_value(stripes_of_several):
    data = build_dataset('imagenet2012', stripes_of_several, 'val', lambda path: np.zeros(1), 4, multi_label=True)
    assert data[0][1].dtype == np.float32
    assert [data[i][1].tolist() for i in range(3)] == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]]


@pytest.fixture
def stripes_of_several(tmp_path):
    write(tmp_path / 'val_list.txt', 'a.jpg 3,0\nb.jpg -\nc.jpg 1,2,3\n')
    return tmp_path


@pytest.mark.parametrize('key, found, expected', [
    ('AUG.MIXUP', '0.8', '0.0: a class of a mixed image is neither there nor not there'),
    ('AUG.CUTMIX', '1.0', '0.0: a class may lie outside of the part that is pasted'),
    ('TRAIN.LOSS', 'CE', 'BCE: softmax cross entropy is for one class per image'),
    ('TRAIN.LABEL_SMOOTHING', '0.1', '0.0: smoothing is over the classes of one label'),
    ('TRAIN.DISTILL.TYPE', 'hard', "none: the teacher's softmax is for one class per image"),
    ('DATA.DATASET', 'tar', 'imagenet2012 or digits: list files hold several class ids, archives and shards one'),
    ('DATA.SHUFFLE', 'balanced', 'full or block:N: an image of several classes belongs to none of them alone '
     '(TRAIN.CLASS_WEIGHTS weights classes)')])
def test_settings_that_do_not_go_with_it(key, found, expected):
    with pytest.raises(InputError) as error:
        get_config(opts=['DATA.MULTI_LABEL', 'True', key, found])
    assert str(error.value) == f'{key}: found {found} beside DATA.MULTI_LABEL True, expected {expected}'


def test_the_loss_is_bce_unless_said_otherwise():
    assert get_config(opts=['DATA.MULTI_LABEL', 'True']).TRAIN.LOSS == 'BCE' != get_config().TRAIN.LOSS
    with pytest.raises(InputError, match='^DATA.THRESHOLDS: found t.txt beside DATA.MULTI_LABEL False, expected it '):
        get_config(opts=['DATA.THRESHOLDS', 't.txt'])
