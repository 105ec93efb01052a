# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.training import jobs


@pytest.fixture
def run(config, tmp_path):
    """The folder of a trained model."""
    jobs.train(config(output_dir=str(tmp_path / 'run'), epochs=1))
    return tmp_path / 'run'


@pytest.mark.parametrize('batch', [1, 4, 64])
def test_every_image_counts_once_whatever_the_batch(config, run, batch):
    score = jobs.evaluate(config(pretrained=str(run / 'best'), output_dir=str(run / 'eval'), batch_size_eval=batch))
    whole = jobs.evaluate(config(pretrained=str(run / 'best'), output_dir=str(run / 'eval'), batch_size_eval=11))
    assert score.images == 11 and (score.top1, score.top5) == (whole.top1, whole.top5)
    assert score.loss == pytest.approx(whole.loss, rel=1e-6)


def test_evaluation_logs_lines_as_known(config, run):
    jobs.evaluate(config(pretrained=str(run / 'best'), output_dir=str(run)))
    said = (run / 'log_eval.txt').read_text()
    assert re.search(r'^\d{4} \d\d:\d\d:\d\d [AP]M Validation Loss: \d\.\d{4}, Validation Acc@1: \d\.\d{4}, '
                     r'Validation Acc@5: 1\.0000, time: \d+\.\d\d$', said, re.M)


def test_other_jobs_leave_the_runs_config_alone(config, run):
    before = (run / 'config.yaml').read_bytes()
    jobs.evaluate(config(pretrained=str(run / 'best'), output_dir=str(run)))
    jobs.predict(config(pretrained=str(run / 'best'), output_dir=str(run)))
    assert (run / 'config.yaml').read_bytes() == before
    assert (run / 'config_eval.yaml').exists() and (run / 'config_pred.yaml').exists()


def test_a_random_head_is_neither_scored_nor_asked(config, run):
    for job in (jobs.evaluate, jobs.predict):
        with pytest.raises(InputError, match=r'does not hold head\.weight for 5 classes'):
            job(config(pretrained=str(run / 'best'), num_classes=5, output_dir=str(run / 'other')))


def test_without_weights_there_is_nothing_to_score(config, tmp_path):
    with pytest.raises(InputError, match='-pretrained: found nothing'):
        jobs.evaluate(config(output_dir=str(tmp_path)))


def test_prediction_table(config, run, stripes):
    table = jobs.predict(config(pretrained=str(run / 'best'), output_dir=str(run / 'pred')))
    with open(table, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [row['path'] for row in rows] == [
        str(stripes / line.split()[0]) for line in (stripes / 'test_list.txt').read_text().splitlines()]
    for row in rows:
        probabilities = np.array(row['top5_probs'].split(), float)
        assert probabilities.sum() == pytest.approx(1, abs=1e-6) and np.all(np.diff(probabilities) <= 0)
        assert row['class_id'] == row['top5_class_ids'].split()[0] and float(row['prob']) == probabilities[0]


@pytest.mark.parametrize('what, count', [('val', 11), ('val/1/01.png', 1)])
def test_a_folder_or_an_image_is_classified(config, run, stripes, what, count):
    table = jobs.predict(config(pretrained=str(run / 'best'), output_dir=str(run / 'pred'),
                                 data_path=str(stripes / what)))
    assert len(table.read_text().splitlines()) == 1 + count


def test_a_device_that_is_not_there(config, tmp_path):
    with pytest.raises(InputError, match='-device gpu: found no GPU'):
        jobs.train(config('DEVICE', 'gpu', output_dir=str(tmp_path)))
