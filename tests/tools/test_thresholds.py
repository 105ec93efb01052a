# SPDX-License-Identifier: Apache-2.0
"""How far numbers may be from the reference's: each threshold of the alignment and of the goldens, on both sides."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from CaiT.tools import align, check_goldens
from CaiT.tools.check_goldens import Row

ALIGNMENT = {'forward': 1e-5, 'metric': 1e-6, 'loss': 2e-6, 'backward': 1e-4, 'train': 1.5e-3}
TRAINING = {'losses': 3e-5, 'logits': 3e-5, 'gradients': 1e-5, 'gradient norms': 3e-5, 'parameter norms': 3e-5}


@pytest.mark.parametrize('step', ALIGNMENT)
def test_steps_of_the_alignment(tmp_path, step):
    assert list(align.THRESHOLDS) == list(ALIGNMENT)
    for factor, passes in ((0.9, True), (1.1, False)):
        found = {'x': np.array([0.0, factor * ALIGNMENT[step]])}
        assert align.report(step, found, {'x': np.zeros(2)}, tmp_path) is passes


@pytest.mark.parametrize('error, difference, passes', [
    (9e-6, '', True), (1.1e-5, '', False), (float('inf'), '', False), (float('nan'), '', False),
    (0.0, 'MACs: 1, reference 2', False)])
def test_a_golden_models_verdict(error, difference, passes):
    assert Row('x', 1, 1, difference, {'logits': 0.0, 'after_block_0': error}, 0.0).passed is passes


@pytest.mark.parametrize('key', TRAINING)
@pytest.mark.parametrize('factor, status, last', [(0.9, 0, 'all equal'), (1.1, 1, '1 failed')])
def test_golden_training_steps(monkeypatch, capsys, key, factor, status, last):
    monkeypatch.setattr(check_goldens.goldens, 'manifest', lambda folder: {'models': {}})
    monkeypatch.setattr(check_goldens, 'training', lambda folder: {
        **dict.fromkeys(TRAINING, 0.0), key: factor * TRAINING[key]})
    assert check_goldens.main([]) == status
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_a_failed_model_is_the_status(monkeypatch, capsys):
    monkeypatch.setattr(check_goldens.goldens, 'manifest', lambda folder: {'models': {'a': None, 'b': None}})
    for error, status in ((1e-6, 0), (1e-4, 1)):
        monkeypatch.setattr(check_goldens, 'compare', lambda name, folder, error=error: Row(
            name, 1, 1, '', {'logits': error if name == 'b' else 0.0}, 0.0))
        assert check_goldens.main(['-models', 'a', 'b', '-goldens', str(Path('x'))]) == status
        assert ('outside 1e-05' in capsys.readouterr().out) is bool(status)


def test_labels_of_the_metric_step_tell_top1_from_top5():
    logits = np.array([[0.0, 3, 1, 2, 5, 4, 9], [9, 8, 7, 6, 5, 4, 3]])
    labels = align.metric_labels(logits)
    assert labels.tolist() == [6, 2]
    assert [align._accuracy(logits, labels, k) for k in (1, 2, 3, 5)] == [0.5, 0.5, 1.0, 1.0]
