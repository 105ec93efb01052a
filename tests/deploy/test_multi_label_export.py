# SPDX-License-Identifier: Apache-2.0
"""A model for images of several classes: sigmoid and thresholds in the metadata, in infer and its files."""
from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
from small_models import small_data

from CaiT import infer
from CaiT.deploy import metadata
from CaiT.deploy.engines import Options
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor, top_classes
from CaiT.errors import InputError


@pytest.fixture(scope='module')
def exported(cait, checks, tmp_path_factory):
    folder = tmp_path_factory.mktemp('several')
    export(cait, folder, 'x', small_data(), checks, {'file': 'w', 'sha256': ''}, [('paddle', 'fp32', 'float')],
           thresholds=np.linspace(0, 0.9, 10))
    return folder


@pytest.mark.parametrize('logits', [[[2.0, -1.0, 0.5]], [[-800.0, 800.0, 0.0]]])
def test_sigmoid_by_value(logits):
    (first, second, third), = top_classes(np.array(logits), 3, 'sigmoid')
    order = np.argsort(logits[0])[::-1]
    with np.errstate(over='ignore'):
        expected = 1 / (1 + np.exp(-np.array(logits[0])[order]))
    assert [first[0], second[0], third[0]] == order.tolist()
    assert [first[1], second[1], third[1]] == pytest.approx(expected.tolist())


def test_predictions_by_value(exported, images):
    predictor = Predictor(str(exported), 'paddle', Options())
    batch = np.stack([predictor.transform(path) for path in images])
    probs = 1 / (1 + np.exp(-predictor.logits(batch).astype(float)))
    for prediction, row in zip(predictor.predict(images, topk=2), probs):
        order = np.argsort(-row)
        assert [k for k, _ in prediction.best] == order[:2].tolist()
        assert [p for _, p in prediction.best] == pytest.approx(row[order[:2]].tolist(), abs=1e-6)
        assert prediction.class_ids == ' '.join(str(k) for k in order if row[k] >= np.linspace(0, 0.9, 10)[k])
    assert predictor.identity()['thresholds'] == pytest.approx(np.linspace(0, 0.9, 10).tolist())


def test_the_file_and_its_errors(exported, tmp_path):
    found = json.loads((exported / 'metadata.json').read_text())
    assert found['activation'] == 'sigmoid' and found['thresholds'] == pytest.approx(np.linspace(0, 0.9, 10).tolist())
    for change, message in ((dict(activation='relu'), "activation: found 'relu', expected softmax or sigmoid"),
                            (dict(thresholds=[0.5]), 'thresholds: found 1, expected num_classes, 10'),
                            (dict(thresholds=[0.5] * 9 + [2]), 'thresholds: found 2, expected numbers from 0 to 1'),
                            (dict(thresholds=[0.5] * 9 + ['1']), "thresholds: found '1', expected numbers from 0 to 1"),
                            (dict(thresholds=None), 'thresholds: found None, expected list'),
                            (dict(activation='softmax'), 'thresholds: found beside activation softmax, expected none')):
        (tmp_path / 'metadata.json').write_text(json.dumps({**found, **change}))
        with pytest.raises(InputError) as error:
            metadata.read(tmp_path)
        assert str(error.value).endswith(f'not the metadata of an exported model ({message})')


def test_other_models_have_no_new_keys(cait, checks, tmp_path):
    export(cait, tmp_path, 'x', small_data(), checks, {'file': 'w', 'sha256': ''}, [('paddle', 'fp32', 'float')])
    found = json.loads((tmp_path / 'metadata.json').read_text())
    assert 'activation' not in found and 'thresholds' not in found
    assert metadata.read(tmp_path).activation == 'softmax'


def test_the_program(exported, images, tmp_path, monkeypatch, capsys):
    """Lines on the screen, a column in the file; a resumed file is of the same thresholds."""
    def program(folder, *more):
        monkeypatch.setattr(sys, 'argv', ['infer', f'--model-dir={folder}', '--img-path', *images, *more])
        status = infer.main()
        return status, capsys.readouterr().out

    status, shown = program(exported)
    assert status == 0
    predictions = list(Predictor(str(exported), 'paddle', Options()).predict(images))
    lines = [line for line in shown.splitlines() if line.startswith('image_name: ')]
    assert lines == [f'image_name: {one.path}, class_id: {one.best[0][0]}, prob: {one.best[0][1]:.4f}, '
                     f'class_ids: {one.class_ids or "none"}' for one in predictions]
    table = tmp_path / 'r.csv'
    for more in ((), ('--resume',)):
        assert program(exported, f'--output={table}', *more)[0] == 0
    with open(table, newline='') as file:
        assert [row['class_ids'] for row in csv.DictReader(file)] == [one.class_ids for one in predictions]
    changed = json.loads((exported / 'metadata.json').read_text())
    changed['thresholds'][3] = 0.111
    other = tmp_path / 'other'
    other.mkdir()
    for path in exported.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / 'metadata.json').write_text(json.dumps(changed))
    with pytest.raises(InputError, match='was written with thresholds'):
        program(other, f'--output={table}', '--resume')


def test_other_thresholds_are_another_export(cait, checks, tmp_path):
    for kind, thresholds in (('float', np.full(10, 0.5)), ('uint8', np.full(10, 0.25))):
        export(cait, tmp_path, 'x', small_data(), checks, {'file': 'w', 'sha256': ''}, [('paddle', 'fp32', kind)],
               thresholds=thresholds)
    found = metadata.read(tmp_path)
    assert [artifact.key for artifact in found.artifacts] == [('paddle', 'fp32', 'uint8')]
    assert found.thresholds == [0.25] * 10
