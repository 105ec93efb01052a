# SPDX-License-Identifier: Apache-2.0
"""Images of several classes: losses, mAP and thresholds by value, training, resuming, evaluation, prediction."""
from __future__ import annotations

import csv
import functools
import json
import re

import numpy as np
import paddle
import pytest
from sklearn.metrics import average_precision_score, f1_score

from CaiT.errors import InputError
from CaiT.report import evaluation
from CaiT.training import checkpoint, evaluator, jobs
from CaiT.training.average_precision import average_precision, best_thresholds, mean_average_precision
from CaiT.training.logger import RunLogger
from CaiT.training.losses import build_loss, num_correct
from tests.training.conftest import assert_same_end, make_stripes, small_config, train_until


def make_several(root, counts=(24, 11)):
    """The stripes; each image has its own class and, every second and third image, class 3 and class 0 too."""
    make_stripes(root, counts)
    for split in ('train', 'val'):
        lines = (root / f'{split}_list.txt').read_text().splitlines()
        text = ''
        for number, line in enumerate(lines):
            name, label = line.split()
            ids = sorted({int(label), *([3] if number % 2 else []), *([0] if number % 3 == 1 else [])})
            text += f'{name} {",".join(map(str, ids)) if number % 5 else "-"}\n'
        (root / f'{split}_list.txt').write_text(text)
    (root / 'test_list.txt').write_text((root / 'val_list.txt').read_text())
    (root / 'classes.txt').write_text('zero\none\ntwo\nthree\nnowhere\n')
    return root


@pytest.fixture(scope='module')
def several(tmp_path_factory):
    return make_several(tmp_path_factory.mktemp('several'))


@pytest.fixture
def chosen(several):
    return functools.partial(small_config, several, 'DATA.MULTI_LABEL', 'True', num_classes=5)


@pytest.fixture(scope='module')
def run(several, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'run'
    jobs.train(small_config(several, 'DATA.MULTI_LABEL', 'True', 'TRAIN.EMA_DECAY', 0.5, 'SAVE.TOP', 1,
                            'TRAIN.CLASS_WEIGHTS', 'balanced', num_classes=5, output_dir=str(folder)))
    return folder


def records(folder):
    return [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('levels', [3, 1000])
def test_average_precision_is_scikit_learns(seed, levels):
    """With many equal scores and with none."""
    rng = np.random.default_rng(seed)
    labels, scores = rng.random((40, 6)) < [0.5, 0.1, 0.9, 0.3, 0.02, 1], rng.integers(0, levels, (40, 6)) / levels
    labels[0] = True  # each class has an image
    expected = [average_precision_score(labels[:, k], scores[:, k]) for k in range(6)]
    assert average_precision(labels, scores) == pytest.approx(np.array(expected))
    assert mean_average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    empty = np.concatenate([labels, np.zeros((40, 1), bool)], 1), np.concatenate([scores, scores[:, :1]], 1)
    assert np.isnan(average_precision(*empty)[6]) and mean_average_precision(*empty) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize('labels, probs, threshold, f1', [
    ([1, 1, 0, 0], [0.9, 0.6, 0.4, 0.1], 0.5, 1),
    ([1, 0, 1, 0], [0.9, 0.6, 0.4, 0.1], 0.25, 0.8),
    ([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], 0.125, 0.4),
    ([0, 0, 0, 0], [0.9, 0.6, 0.4, 0.1], 0.5, np.nan)])
def test_best_thresholds_by_value(labels, probs, threshold, f1):
    labels, probs = np.array(labels, bool)[:, None], np.array(probs)[:, None]
    found = best_thresholds(labels, probs)
    assert found[0] == pytest.approx([threshold]) and found[1] == pytest.approx([f1], nan_ok=True)
    if labels.any():
        every = [f1_score(labels[:, 0], probs[:, 0] >= one) for one in np.linspace(0, 1, 101)]
        assert max(every) == pytest.approx(f1)
        assert f1_score(labels[:, 0], probs[:, 0] >= found[0][0]) == pytest.approx(f1)


def test_loss_and_hits_by_value():
    logits = np.array([[2.0, -1.0, 0.5], [-3.0, 0.25, 1.0]])
    targets = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    expected = np.mean(targets * np.log1p(np.exp(-logits)) + (1 - targets) * np.log1p(np.exp(logits)))
    tensors = paddle.to_tensor(logits, 'float32'), paddle.to_tensor(targets, 'float32')
    assert build_loss('BCE', 0.0)(*tensors).item() == pytest.approx(expected, rel=1e-6)
    assert num_correct(*tensors, multi_label=True) == 1  # of the second image class 2 is not there

    class Model(paddle.nn.Layer):
        def forward(self, rows):
            return paddle.gather(tensors[0], rows)

    batches = [(paddle.to_tensor([row]), tensors[1][row:row + 1]) for row in (0, 1)]
    result = evaluator.evaluate(Model(), batches, RunLogger('unused', 'log.txt', active=False), 1, multi_label=True)
    assert (result.loss, result.images) == (pytest.approx(expected, rel=1e-6), 2)
    assert result.mean_ap == pytest.approx(average_precision_score(targets, logits)) == result.criterion
    ids, probs = list(evaluator.predict(Model(), [paddle.to_tensor([1])], multi_label=True))[0]
    assert ids.tolist() == [2, 1, 0] and probs == pytest.approx(1 / (1 + np.exp(-logits[1][[2, 1, 0]])), rel=1e-6)


def test_a_run_is_compared_by_map(run):
    log, found = (run / 'log_train.txt').read_text(), records(run)
    best = max(record['val_map'] for record in found)
    epoch = next(record['epoch'] for record in found if record['val_map'] == best)
    assert f'best mAP {best:.4f} (epoch {epoch}), weights: {run}/best.pdparams' in log
    assert re.search(r'Validation Loss: \d\.\d{4}, Validation mAP: \d\.\d{4}, time: ', log)
    assert re.search(r'Val Step\[0000/0003\], Avg Loss: \d\.\d{4}$', log, re.M) and 'Acc@' not in log
    assert set(found[0]) >= {'val_loss', 'val_map', 'ema_loss', 'ema_map'} and 'val_top1' not in found[0]
    assert checkpoint.read(run / 'best.pdstate')['progress']['best_top1'] == best
    assert [path.name for path in run.glob('epoch_*.pdparams')] == [f'epoch_{epoch:04d}.pdparams']


def test_it_resumes_to_the_bit(chosen, tmp_path):
    opts = ['SAVE_STEPS', '1', 'TRAIN.EMA_DECAY', '0.9', 'TRAIN.CLASS_WEIGHTS', 'balanced', 'MODEL.DROP_PATH_RATE', 0.2]
    jobs.train(chosen(*opts, output_dir=str(tmp_path / 'whole')))
    train_until(chosen(*opts), tmp_path / 'part', 2, 2)
    jobs.train(chosen(*opts, output_dir=str(tmp_path / 'part'), resume='auto'))
    assert_same_end(tmp_path / 'whole', tmp_path / 'part')
    assert [one['val_map'] for one in records(tmp_path / 'whole')] == [one['val_map']
                                                                      for one in records(tmp_path / 'part')]


def test_evaluation_prediction_and_thresholds(chosen, several, run, tmp_path):
    """-eval writes thresholds, which -pred and another -eval use."""
    result = jobs.evaluate(chosen(pretrained=str(run / 'best'), output_dir=str(tmp_path / 'eval')),
                           evaluation.write_for_job)
    report = json.loads((tmp_path / 'eval/report.json').read_text())
    assert report['map'] == pytest.approx(result.mean_ap) and report['loss'] == pytest.approx(result.loss, rel=1e-5)
    assert report['classes_with_images'] == 4 and 'top-1' in report['left_out']
    thresholds = tmp_path / 'eval/thresholds.txt'
    given = chosen('DATA.THRESHOLDS', thresholds, pretrained=str(run / 'best'), output_dir=str(tmp_path / 'again'))
    jobs.evaluate(given, evaluation.write_for_job)
    again = json.loads((tmp_path / 'again/report.json').read_text())
    assert again['macro_f1'] == pytest.approx(report['macro_f1_best_thresholds'])
    table, _ = jobs.predict(chosen('DATA.THRESHOLDS', thresholds, pretrained=str(run / 'best'),
                                output_dir=str(tmp_path / 'pred')))
    with open(table, newline='') as mine, open(tmp_path / 'again/report_predictions.csv', newline='') as theirs:
        rows = list(zip(csv.DictReader(mine), csv.DictReader(theirs)))
    assert len(rows) == 11
    for predicted, evaluated in rows:
        for key in ('path', 'class_id', 'class_ids', 'top5_class_ids'):
            assert predicted[key] == evaluated[key]
        assert np.array(predicted['top5_probs'].split(), float) == pytest.approx(
            np.array(evaluated['top5_probs'].split(), float), abs=1e-6)
    assert [row['labels'] for _, row in rows][:4] == ['', '0 1 3', '2', '0 3']


@pytest.mark.parametrize('job', ['evaluate', 'predict'])
@pytest.mark.parametrize('text, message', [
    ('0.5\n0.25\n', ': found 2 numbers, expected 5, one per line for each class of the head'),
    ('0\n1\n0.5\n1.5\n0\n', ", line 4: found '1.5', expected a number from 0 to 1")])
def test_thresholds_that_are_refused(chosen, run, tmp_path, job, text, message):
    (tmp_path / 't.txt').write_text(text)
    with pytest.raises(InputError) as error:
        getattr(jobs, job)(chosen('DATA.THRESHOLDS', tmp_path / 't.txt', pretrained=str(run / 'best'),
                                  output_dir=str(tmp_path / 'out')))
    assert str(error.value) == f'DATA.THRESHOLDS: {tmp_path / "t.txt"}{message}'


def test_a_comparison_is_refused(tmp_path):
    with pytest.raises(InputError, match=r'^-compare x: found beside DATA.MULTI_LABEL True, expected it without'):
        evaluation.check_earlier('x', multi_label=True)
