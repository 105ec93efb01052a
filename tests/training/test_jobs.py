# SPDX-License-Identifier: Apache-2.0
"""The jobs train, evaluate and predict."""
from __future__ import annotations

import csv
import re
import shutil

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.main_single_gpu import main
from CaiT.training import jobs


@pytest.fixture
def run(config, tmp_path):
    """The folder of a trained model."""
    jobs.train(config(output_dir=str(tmp_path / 'run'), epochs=1))
    return tmp_path / 'run'


@pytest.mark.parametrize('batch', [1, 4, 64])
def test_every_image_counts_once_whatever_the_batch(config, run, batch):
    def evaluate(size):
        return jobs.evaluate(config('DATA.BATCH_SIZE_EVAL', size, pretrained=str(run / 'best'),
                                    output_dir=str(run / 'eval')))
    result, whole = evaluate(batch), evaluate(11)
    assert result.images == 11 and (result.top1, result.top5) == (whole.top1, whole.top5)
    assert result.loss == pytest.approx(whole.loss, rel=1e-6)


def test_log_lines_of_evaluation(config, run):
    jobs.evaluate(config(pretrained=str(run / 'best'), output_dir=str(run)))
    output = (run / 'log_eval.txt').read_text()
    assert re.search(r'^\d{4} \d\d:\d\d:\d\d [AP]M Validation Loss: \d\.\d{4}, Validation Acc@1: \d\.\d{4}, '
                     r'Validation Acc@5: 1\.0000, time: \d+\.\d\d$', output, re.M)


def test_report_of_an_evaluation(config, run, stripes):
    """What the report counts is what the evaluation counted, image by image."""
    from CaiT.report import evaluation, predictions
    chosen = config('DATA.BATCH_SIZE_EVAL', 4, pretrained=str(run / 'best'), output_dir=str(run / 'eval'))
    result = jobs.evaluate(chosen, evaluation.write_for_job)
    found = predictions.read(run / 'eval')
    assert [float(found.correct.mean()), len(found.paths)] == [result.top1, result.images]
    assert -np.log(found.label_probs).mean() == pytest.approx(result.loss, rel=1e-5)
    assert found.paths[0] == str(stripes / (stripes / 'val_list.txt').read_text().split()[0])
    assert 'report: ' in (run / 'eval' / 'log_eval.txt').read_text() and (run / 'eval' / 'report.html').is_file()


def test_other_jobs_do_not_change_the_runs_config(config, run):
    before = (run / 'config.yaml').read_bytes()
    jobs.evaluate(config(pretrained=str(run / 'best'), output_dir=str(run)))
    jobs.predict(config(pretrained=str(run / 'best'), output_dir=str(run)))
    assert (run / 'config.yaml').read_bytes() == before
    assert (run / 'config_eval.yaml').exists() and (run / 'config_pred.yaml').exists()


def test_a_random_head_is_neither_evaluated_nor_used_for_prediction(config, run):
    for job in (jobs.evaluate, jobs.predict):
        with pytest.raises(InputError, match=r'does not hold head\.weight for 5 classes'):
            job(config(pretrained=str(run / 'best'), num_classes=5, output_dir=str(run / 'other')))


def test_evaluation_needs_weights(config, tmp_path):
    with pytest.raises(InputError, match='-pretrained: found nothing'):
        jobs.evaluate(config(output_dir=str(tmp_path)))


def test_prediction_table(config, run, stripes):
    table, _ = jobs.predict(config(pretrained=str(run / 'best'), output_dir=str(run / 'pred')))
    with open(table, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [row['path'] for row in rows] == [
        str(stripes / line.split()[0]) for line in (stripes / 'test_list.txt').read_text().splitlines()]
    for row in rows:
        probabilities = np.array(row['top5_probs'].split(), float)
        assert probabilities.sum() == pytest.approx(1, abs=1e-6) and np.all(np.diff(probabilities) <= 0)
        assert row['class_id'] == row['top5_class_ids'].split()[0] and float(row['prob']) == probabilities[0]


@pytest.mark.parametrize('what, count', [('val', 11), ('val/1/01.png', 1)])
def test_prediction_of_a_folder_or_an_image(config, run, stripes, what, count):
    table, _ = jobs.predict(config(pretrained=str(run / 'best'), output_dir=str(run / 'pred'),
                                 data_path=str(stripes / what)))
    assert len(table.read_text().splitlines()) == 1 + count


@pytest.mark.parametrize('listed, workers', [(True, 0), (False, 2)])
def test_an_image_that_cannot_be_read_is_left_out_of_a_prediction(run, stripes, tmp_path, capsys, listed, workers):
    """Named in the log and by the exit status; the others get the predictions that they get without it."""
    data = shutil.copytree(stripes, tmp_path / 'data')
    broken, whole = data / 'val/0/03.png', data / 'val/0/00.png'
    where = data if listed else broken.parent
    words = [f'-pretrained={run}/best', '-pred', f'-data_path={where}', '-device=cpu', f'-num_workers={workers}']
    assert main([*words, f'-output_dir={tmp_path}/before']) == 0
    broken.write_bytes(whole.read_bytes()[:60])
    assert main([*words, f'-output_dir={tmp_path}/after']) == 1
    before, after = ((tmp_path / name / 'predictions.csv').read_text().splitlines() for name in ('before', 'after'))
    assert after == [row for row in before if not row.startswith(str(broken))] and len(after) == len(before) - 1
    output = capsys.readouterr().out
    line = f'{data}/test_list.txt, line 4: ' if listed else ''
    assert f'left out: {line}image {broken}: cannot be decoded' in output
    assert f'1 of {len(before) - 1} images could not be decoded' in output


def test_a_device_that_is_not_there(config, tmp_path):
    with pytest.raises(InputError, match='-device gpu: found no GPU'):
        jobs.train(config('DEVICE', 'gpu', output_dir=str(tmp_path)))
