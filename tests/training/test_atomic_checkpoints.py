# SPDX-License-Identifier: Apache-2.0
"""Files of a run appear whole or not at all, whatever interrupts their writing."""
from __future__ import annotations

import pickle

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.training import checkpoint, evaluator, jobs


class Interrupted(Exception):
    pass


def state(value):
    """A state as ``checkpoint.write`` takes it, whose arrays hold ``value``."""
    arrays = {name: np.full(1000, value, np.float32) for name in ('a', 'b')}
    return {'model': arrays, 'ema': {}, 'optimizer': {}, 'progress': {}}


@pytest.mark.parametrize('fails_at', [1, 2])
def test_an_interrupted_checkpoint_leaves_the_one_before(tmp_path, monkeypatch, fails_at):
    """Interrupted in the weights or in the state: both files stay as they were."""
    checkpoint.write(tmp_path, 'last', state(1.0))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    dump, calls = pickle.dump, []

    def interrupted(value, file, **options):
        calls.append(1)
        if len(calls) == fails_at:
            file.write(b'half')
            raise Interrupted
        dump(value, file, **options)
    monkeypatch.setattr(checkpoint.pickle, 'dump', interrupted)
    with pytest.raises(Interrupted):
        checkpoint.write(tmp_path, 'last', state(2.0))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {'last.pdstate', 'last.pdparams'}


def test_interrupted_weights_leave_those_before(tmp_path, monkeypatch):
    path = tmp_path / 'best_ema.pdparams'
    checkpoint.write_weights(path, {'a': np.ones(3, np.float32)})
    before = path.read_bytes()

    def interrupted(value, file, **options):
        file.write(b'half')
        raise Interrupted
    monkeypatch.setattr(checkpoint.pickle, 'dump', interrupted)
    with pytest.raises(Interrupted):
        checkpoint.write_weights(path, {'a': np.zeros(3, np.float32)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_predictions_appear_whole_or_not_at_all(config, trained, tmp_path, monkeypatch):
    """An error in the middle leaves the table of the prediction before."""
    chosen = config(pretrained=str(trained / 'best'), output_dir=str(tmp_path / 'pred'))
    table, _ = jobs.predict(chosen)
    before, predict = table.read_bytes(), evaluator.predict

    def broken(model, loader, **options):
        for number, row in enumerate(predict(model, loader, **options)):
            if number == 7:
                raise InputError('broken')
            yield row
    monkeypatch.setattr(jobs.evaluator, 'predict', broken)
    with pytest.raises(InputError, match='broken'):
        jobs.predict(chosen)
    assert table.read_bytes() == before and len(before.splitlines()) == 12
    assert not [path for path in table.parent.iterdir() if path.name.endswith('.tmp')]
