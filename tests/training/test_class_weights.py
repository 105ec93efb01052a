# SPDX-License-Identifier: Apache-2.0
"""Class weights by value, from counts and from a file, and classes that come equally often: resumed, over processes."""
from __future__ import annotations

import numpy as np
import paddle
import pytest
from sklearn.utils.class_weight import compute_class_weight

from CaiT.errors import InputError
from CaiT.training import jobs
from CaiT.training.class_weights import balanced_weights, class_weights
from CaiT.training.data import build_train_loader
from CaiT.training.losses import build_loss
from tests.training.conftest import assert_same_end, make_stripes, train_until

LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0], [-1.0, 4.0, 0.25]])


@pytest.fixture
def imbalanced(tmp_path):
    """The stripes, with eleven, three and two training images of the classes."""
    root = make_stripes(tmp_path / 'imbalanced', (16, 5))
    names = [line.split()[0] for line in (root / 'train_list.txt').read_text().splitlines()]
    ids = [0] * 11 + [1] * 3 + [2] * 2
    (root / 'train_list.txt').write_text(''.join(f'{name} {label}\n' for name, label in zip(names, ids)))
    return root


@pytest.mark.parametrize('labels', [[0, 0, 0, 1, 2, 2], [2, 2, 2, 0], [1]])
def test_balanced_weights_are_those_of_scikit_learn(labels):
    found, labels = balanced_weights(np.array(labels), 4), np.array(labels)
    present = np.unique(labels)
    assert found[present] == pytest.approx(compute_class_weight('balanced', classes=present, y=labels))
    assert found[labels].mean() == pytest.approx(1) and set(np.delete(found, present)) <= {1}


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
@pytest.mark.parametrize('weights', [[1, 2, 0.25], [0, 0.5, 3]])
@pytest.mark.parametrize('targets', [[0, 1, 1], [[0.3, 0.7, 0.0], [0.0, 0.0, 1.0], [0.5, 0.25, 0.25]]])
def test_losses_by_value(smoothing, weights, targets):
    """The mean is over images: a loss of halves is the mean of theirs, as accumulation and processes need it."""
    target = np.array(targets) if np.ndim(targets) == 2 else np.eye(3)[targets] * (1 - smoothing) + smoothing / 3
    log_softmax = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    ce = -(np.array(weights) * target * log_softmax).sum(1)
    positive, negative = np.log1p(np.exp(-LOGITS)), np.log1p(np.exp(LOGITS))
    bce = (np.array(weights) * target * positive + (1 - target) * negative).mean(1)
    logits = paddle.to_tensor(LOGITS, 'float32')
    given = paddle.to_tensor(targets, 'float32' if np.ndim(targets) == 2 else 'int64')
    for name, expected in (('CE', ce), ('BCE', bce)):
        loss = build_loss(name, smoothing, class_weights=np.array(weights, float))
        assert loss(logits, given).item() == pytest.approx(expected.mean(), rel=1e-5)
        assert loss(logits[:1], given[:1]).item() == pytest.approx(expected[0], rel=1e-5)


def test_the_line_and_the_loss_of_a_run(config, imbalanced, tmp_path):
    file = tmp_path / 'weights.txt'
    file.write_text('0.5\n2\n\n4e0\n')
    settings = ['TRAIN.LOSS', 'CE', 'DATA.DATA_PATH', imbalanced]
    labels = np.repeat([0, 1, 2], [11, 3, 2])
    for setting, expected, words in (
            ('balanced', 16 / 3 / np.array([11, 3, 2]), '0.4848 (class 0) to 2.667 (class 2), mean over the training '
             'set 1'), (str(file), [0.5, 2, 4], '0.5 (class 0) to 4 (class 2), mean over the training set 1.219')):
        weights, line = class_weights(config(*settings, 'TRAIN.CLASS_WEIGHTS', setting), labels)
        assert weights == pytest.approx(np.array(expected)) and line == f'class weights ({setting}): {words}'
    run = config(*settings, 'TRAIN.CLASS_WEIGHTS', 'balanced', 'DATA.SHUFFLE', 'balanced', epochs=1,
                 output_dir=str(tmp_path / 'run'))
    jobs.train(run)
    log = (tmp_path / 'run/log_train.txt').read_text()
    assert 'class weights (balanced): 0.4848' in log and 'warning: TRAIN.CLASS_WEIGHTS beside DATA.SHUFFLE' in log


@pytest.mark.parametrize('text, message', [
    ('1\n2\n', 'found 2 numbers, expected 3, one per line for each class of the head'),
    ('1\n2\n3\n4\n', 'found 4 numbers, expected 3, one per line for each class of the head'),
    ('1\n-2\n3\n', "line 2: found '-2', expected a finite number of at least 0"),
    ('1\n\nnan\n3\n', "line 3: found 'nan', expected a finite number of at least 0"),
    ('1\n2\n1e999', "line 3: found '1e999', expected a finite number of at least 0"),
    ('0 1.5\n1 2\n2 3', "line 1: found '0 1.5', expected a finite number of at least 0"),
    ('0\n0\n0\n', 'found weight 0 for every class of the training set, expected one above 0')])
def test_files_that_are_refused(config, tmp_path, text, message):
    (tmp_path / 'w.txt').write_text(text)
    with pytest.raises(InputError) as error:
        jobs.train(config('TRAIN.CLASS_WEIGHTS', tmp_path / 'w.txt', output_dir=str(tmp_path / 'run')))
    separator = ', ' if message.startswith('line') else ': '
    assert str(error.value) == f'TRAIN.CLASS_WEIGHTS: {tmp_path / "w.txt"}{separator}{message}'
    assert not list((tmp_path / 'run').glob('*.pd*'))


def test_a_file_that_is_missing(config, tmp_path):
    with pytest.raises(InputError, match=r'nowhere\.txt: no such file$'):
        jobs.train(config('TRAIN.CLASS_WEIGHTS', tmp_path / 'nowhere.txt', output_dir=str(tmp_path / 'run')))


def test_balanced_epochs_resume_to_the_bit(config, imbalanced, tmp_path):
    """Killed after the third of four steps of the second epoch."""
    opts = ['DATA.DATA_PATH', imbalanced, 'DATA.SHUFFLE', 'balanced', 'TRAIN.CLASS_WEIGHTS', 'balanced', 'AUG.REPEATS',
            '2', 'SAVE_STEPS', '1', 'TRAIN.LABEL_SMOOTHING', '0.1']
    jobs.train(config(*opts, output_dir=str(tmp_path / 'whole')))
    train_until(config(*opts), tmp_path / 'part', 2, 3)
    jobs.train(config(*opts, output_dir=str(tmp_path / 'part'), resume='auto'))
    assert_same_end(tmp_path / 'whole', tmp_path / 'part')
    with pytest.raises(InputError, match="DATA.SHUFFLE is 'balanced' there and 'full' in this run"):
        jobs.train(config(*opts[:2], output_dir=str(tmp_path / 'part'), resume='auto'))


def test_labels_of_a_balanced_run(config, imbalanced):
    loader, sampler = build_train_loader(config('DATA.DATA_PATH', imbalanced, 'DATA.SHUFFLE', 'balanced'))
    sampler.set_epoch(1)
    labels = np.concatenate([targets.numpy() for _, targets in loader])
    assert sorted(np.bincount(labels).tolist()) == [5, 5, 6]
