# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that stay: which, as links, and without a second copy in memory; early stopping."""
from __future__ import annotations

import os
import tracemalloc
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from CaiT.training import checkpoint, jobs, retention
from CaiT.training.logger import RunLogger

RECORDS = [{'epoch': epoch, 'val_top1': top1} for epoch, top1 in enumerate((0.1, 0.5, 0.3, 0.5, 0.2, 0.4), 1)]


@pytest.mark.parametrize('every, count, top, epoch, expected', [
    (0, 0, 0, 6, set()), (2, 0, 0, 6, {2, 4, 6}), (2, 0, 0, 5, {2, 4}), (2, 2, 0, 6, {4, 6}), (1, 1, 0, 3, {3}),
    (0, 0, 1, 6, {4}), (0, 0, 2, 6, {2, 4}), (0, 0, 3, 6, {2, 4, 6}), (0, 0, 2, 3, {2, 3}), (3, 1, 1, 6, {4, 6}),
])
def test_kept_epochs(every, count, top, epoch, expected):
    assert retention.kept_epochs(SimpleNamespace(EVERY=every, KEEP=count, TOP=top), RECORDS, epoch) == expected


def test_epochs_without_an_evaluation_are_not_among_the_best():
    records = [{'epoch': 1}, {'epoch': 2, 'val_top1': 0.1}, {'epoch': 3, 'val_top1': None}]
    assert retention.kept_epochs(SimpleNamespace(EVERY=0, KEEP=0, TOP=3), records, 3) == {2}


def names(folder):
    return sorted(path.name for path in folder.glob('epoch_*'))


def test_a_run_keeps_them_and_resumes_from_any(config, tmp_path):
    opts = ('SAVE.EVERY', 1, 'SAVE.KEEP', 2)
    jobs.train(config(*opts, epochs=3, output_dir=str(tmp_path)))
    assert names(tmp_path) == [f'epoch_000{epoch}.{kind}' for epoch in (2, 3) for kind in ('pdparams', 'pdstate')]
    assert os.path.samefile(tmp_path / 'epoch_0003.pdstate', tmp_path / 'last.pdstate')
    assert checkpoint.read(tmp_path / 'epoch_0002.pdstate')['progress']['epoch'] == 3
    last = checkpoint.read(tmp_path / 'last.pdstate')
    other = tmp_path / 'other'
    jobs.train(config(*opts, epochs=3, output_dir=str(other), resume=str(tmp_path / 'epoch_0002.pdstate')))
    for name, array in checkpoint.read(other / 'last.pdstate')['model'].items():
        np.testing.assert_array_equal(array, last['model'][name])


def test_best_is_last_until_last_is_written_again(config, tmp_path):
    jobs.train(config(epochs=1, output_dir=str(tmp_path)))
    kinds = ('pdparams', 'pdstate')
    assert all(os.path.samefile(tmp_path / f'best.{kind}', tmp_path / f'last.{kind}') for kind in kinds)
    best = {kind: (tmp_path / f'best.{kind}').read_bytes() for kind in kinds}
    state = checkpoint.read(tmp_path / 'last.pdstate')
    state['model']['head.bias'] += 1
    checkpoint.write(tmp_path, 'last', state)
    assert best == {kind: (tmp_path / f'best.{kind}').read_bytes() for kind in best}
    np.testing.assert_array_equal(paddle.load(str(tmp_path / 'last.pdparams'))['head.bias'],
                                  state['model']['head.bias'])


@pytest.mark.parametrize('links', [True, False], ids=['links', 'copies'])
def test_tags_that_are_linked_or_copied(tmp_path, monkeypatch, links):
    state = {'model': {'a': np.ones(3, np.float32)}, 'ema': {}, 'optimizer': {}}
    checkpoint.write(tmp_path, 'last', state)
    if not links:
        def refused(old, new):
            raise OSError(1, 'Operation not permitted')
        monkeypatch.setattr(checkpoint.os, 'link', refused)
    for _ in range(2):
        checkpoint.link(tmp_path, 'last', 'best')
    assert os.path.samefile(tmp_path / 'last.pdstate', tmp_path / 'best.pdstate') == links
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f'{tag}.{kind}' for tag in ('best', 'last') for kind in ('pdparams', 'pdstate')]
    assert (tmp_path / 'last.pdparams').read_bytes() == (tmp_path / 'best.pdparams').read_bytes()


def test_writing_copies_no_array(tmp_path):
    """16 MB of arrays: pickle's protocol 4 needed 32 MB more at the peak (a copy in each of two files)."""
    state = {'model': {str(i): np.ones(1 << 20, np.float32) for i in range(4)}, 'ema': {}, 'optimizer': {}}
    tracemalloc.start()
    checkpoint.write(tmp_path, 'last', state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
    assert np.array_equal(checkpoint.read(tmp_path / 'last.pdstate')['model']['3'], state['model']['3'])


def test_training_stops_when_it_gets_no_better(config, tmp_path):
    """Without a learning rate the first epoch stays the best one; resumed, it has nothing more to do."""
    chosen = config('TRAIN.EARLY_STOP', 2, 'TRAIN.BASE_LR', 0, 'TRAIN.WARMUP_EPOCHS', 0, 'TRAIN.END_LR', 0,
                    'TRAIN.WEIGHT_DECAY', 0, epochs=9, output_dir=str(tmp_path), resume='auto')
    for _ in range(2):
        assert jobs.train(chosen).epoch == 4
        assert [record['epoch'] for record in RunLogger(tmp_path, 'x').records()] == [1, 2, 3]
    assert (tmp_path / 'log_train.txt').read_text().count(
        'stopped after epoch 3: no better Acc@1 for 2 epochs (TRAIN.EARLY_STOP)') == 2
