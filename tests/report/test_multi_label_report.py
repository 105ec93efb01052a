# SPDX-License-Identifier: Apache-2.0
"""The report of images with several classes: its numbers by value, its page, its files."""
from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from CaiT.report import multi_label

THRESHOLDS = np.array([0.5, 0.2, 0.5, 0.9])


@pytest.fixture(scope='module')
def evaluation():
    rng = np.random.default_rng(3)
    labels = rng.random((30, 4)) < [0.5, 0.2, 0, 0.7]  # the third class has no image
    probs = np.clip(rng.random((30, 4)) * 0.6 + 0.4 * labels, 0, 1)
    return multi_label.Evaluation([f'a/b/{i}.png' for i in range(30)], labels, probs, THRESHOLDS,
                                  ['<zero>', 'one', 'two', 'three'])


@pytest.fixture(scope='module')
def written(evaluation, tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    multi_label.write(folder, evaluation, 0.25, 'Evaluation of x', {'model': 'x'}, lambda i: Image.new('RGB', (9, 9)))
    return folder


def test_summary_by_value(evaluation, written):
    labels, predicted = evaluation.labels, evaluation.probs >= THRESHOLDS
    found, present = json.loads((written / 'report.json').read_text()), [0, 1, 3]
    expected = {
        'map': average_precision_score(labels[:, present], evaluation.probs[:, present]),
        'macro_f1': f1_score(labels[:, present], predicted[:, present], average='macro'),
        'micro_f1': f1_score(labels, predicted, average='micro'),
        'micro_precision': precision_score(labels, predicted, average='micro'),
        'micro_recall': recall_score(labels, predicted, average='micro'),
        'labels_per_image': labels.sum() / 30, 'predicted_per_image': predicted.sum() / 30, 'loss': 0.25,
        'exact_match': np.mean([list(a) == list(b) for a, b in zip(labels, predicted)]), 'images': 30, 'classes': 4,
        'classes_with_images': 3}
    for key, value in expected.items():
        assert found[key] == pytest.approx(value), key
    assert found['macro_f1_best_thresholds'] >= found['macro_f1'] and found['multi_label'] is True
    assert found['left_out'].startswith('top-1 and top-5, confusion, calibration') and 'top1' not in found


def test_classes_and_predictions_by_value(evaluation, written):
    with open(written / 'per_class.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    predicted = evaluation.probs >= THRESHOLDS
    assert [int(row['count']) for row in rows] == evaluation.labels.sum(0).tolist()
    assert [int(row['predicted']) for row in rows] == predicted.sum(0).tolist()
    for k in (0, 1, 3):
        truth = evaluation.labels[:, k]
        for key, value in (('average_precision', average_precision_score(truth, evaluation.probs[:, k])),
                           ('f1', f1_score(truth, predicted[:, k])), ('threshold', THRESHOLDS[k])):
            assert float(rows[k][key]) == pytest.approx(value, abs=1e-6)
    assert (rows[2]['average_precision'], rows[2]['recall'], rows[2]['best_f1']) == ('', '', '')
    thresholds = np.array((written / 'thresholds.txt').read_text().split(), float)
    assert np.round(thresholds, 6).tolist() == [float(row['best_threshold']) for row in rows]
    with open(written / 'report_predictions.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [sorted(map(int, row['class_ids'].split())) for row in rows] == [np.flatnonzero(p).tolist()
                                                                          for p in predicted]
    assert [list(map(int, row['labels'].split())) for row in rows] == [np.flatnonzero(p).tolist()
                                                                     for p in evaluation.labels]


def test_the_page(evaluation, written, check_page):
    text, images = check_page(written / 'report.html')
    found = json.loads((written / 'report.json').read_text())
    assert f'{100 * found["map"]:.2f}%' in text and 'Left out: top-1 and top-5' in text and '<zero>' in text
    assert len(images) == 12 and 'of 30 images have a wrong decision' in text
