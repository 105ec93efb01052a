# SPDX-License-Identifier: Apache-2.0
"""The evaluation's numbers: scikit-learn's where it has them, by hand where it has not."""
from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as theirs

from CaiT.report import metrics

CLASSES = 12  # the last two have no images, the last one is never predicted either


@pytest.fixture(scope='module')
def case():
    """Labels [400], predictions [400, 5]: two in three right, some classes absent."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASSES - 2, 400)
    ids = np.array([rng.permutation(CLASSES - 1)[:5] for _ in labels])
    for i in np.flatnonzero(rng.random(400) < 0.6):
        ids[i] = [labels[i], *[k for k in ids[i] if k != labels[i]][:4]]
    return labels, ids


@pytest.mark.filterwarnings('ignore')
def test_per_class_is_scikit_learns(case):
    labels, ids = case
    found = metrics.per_class(labels, ids, CLASSES)
    precision, recall, f1, count = theirs.precision_recall_fscore_support(
        labels, ids[:, 0], labels=range(CLASSES), zero_division=np.nan)
    np.testing.assert_allclose(found.precision, precision)
    np.testing.assert_allclose(found.recall, recall)
    np.testing.assert_allclose(found.f1, f1)
    np.testing.assert_array_equal(found.count, count)
    present = found.count > 0
    assert not present.all() and np.isnan(found.recall[~present]).all()
    assert metrics.macro(found.f1, present) == pytest.approx(
        theirs.f1_score(labels, ids[:, 0], labels=np.flatnonzero(present), average='macro'))
    assert found.recall[present].mean() == pytest.approx(theirs.balanced_accuracy_score(labels, ids[:, 0]))


def test_confusion_is_scikit_learns(case):
    labels, ids = case
    whole = theirs.confusion_matrix(labels, ids[:, 0], labels=range(CLASSES))
    every = metrics.confusion(labels, ids[:, 0], range(CLASSES), range(CLASSES))
    np.testing.assert_array_equal(every[:, :-1], whole)
    assert not every[:, -1].any()
    part = metrics.confusion(labels, ids[:, 0], [7, 2], [2, 7, 0])
    np.testing.assert_array_equal(part[:, :3], whole[[7, 2]][:, [2, 7, 0]])
    np.testing.assert_array_equal(part[:, 3], whole[[7, 2]].sum(1) - part[:, :3].sum(1))
    np.fill_diagonal(whole, 0)
    pairs = metrics.most_confused(labels, ids[:, 0], CLASSES)
    assert {(p.label, p.predicted): p.count for p in pairs} == {
        (int(i), int(j)): int(whole[i, j]) for i, j in np.argwhere(whole)}
    assert [p.count for p in pairs] == sorted((p.count for p in pairs), reverse=True)
    found = metrics.per_class(labels, ids, CLASSES)
    has = whole.any(1)
    np.testing.assert_array_equal(found.confused_with[has], whole.argmax(1)[has])
    np.testing.assert_array_equal(found.confused_count, whole.max(1))
    assert (found.confused_with[~has] == -1).all()


def test_top5_is_scikit_learns(case):
    labels, ids = case
    scores = np.zeros((len(labels), CLASSES))
    np.put_along_axis(scores, ids, np.array([5.0, 4, 3, 2, 1])[None], 1)
    for k in (1, 3, 5):
        assert metrics.hits(labels, ids, k).mean() == pytest.approx(
            theirs.top_k_accuracy_score(labels, scores, k=k, labels=range(CLASSES)))
    found = metrics.per_class(labels, ids, CLASSES).top5
    inside = (ids == labels[:, None]).any(1)
    assert found[4] == inside[labels == 4].mean() and np.isnan(found[-1])
    assert np.isnan(metrics.per_class(labels, ids[:, :1], CLASSES).top5).all()  # one prediction says nothing of five


def test_calibration_by_hand():
    """Bins of 0.25: (0.2: wrong), (0.4 right, 0.5 wrong), none, (0.9 right, 1.0 right); 0.25 is in the first."""
    confidence, correct = np.array([0.2, 0.4, 0.5, 0.9, 1.0, 0.25]), np.array([0, 1, 0, 1, 1, 1], bool)
    error, bins = metrics.calibration(confidence, correct, bins=4)
    assert [one.count for one in bins] == [2, 2, 0, 2]
    assert error == pytest.approx(2 / 6 * abs(0.5 - 0.225) + 2 / 6 * abs(0.5 - 0.45) + 2 / 6 * abs(1 - 0.95))
    assert bins[0].confidence == pytest.approx(0.225) and bins[3].accuracy == 1 and math.isnan(bins[2].accuracy)


def test_reject():
    confidence, correct = np.array([0.2, 0.5, 0.9, 0.95]), np.array([False, True, False, True])
    assert metrics.reject(confidence, correct, 0.5) == (0.5, 0.75, pytest.approx(2 / 3))
    assert metrics.reject(confidence, correct, 0.95)[1:] == (0.25, 1.0)
    assert math.isnan(metrics.reject(confidence, correct, 0.99).accuracy)


@pytest.mark.parametrize('lost, gained', [(0, 0), (3, 3), (1, 9), (12, 4), (300, 260), (0, 2000)])
def test_mcnemar_is_the_binomial_test(lost, gained):
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert metrics.mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('right, count', [(0, 5), (5, 5), (71, 99)])
def test_wilson(right, count):
    interval = stats.binomtest(right, count).proportion_ci(method='wilson')
    assert metrics.wilson(right, count) == pytest.approx((interval.low, interval.high), abs=1e-7)


def test_no_warning_on_empty_classes(case):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        metrics.per_class(*case, CLASSES)
