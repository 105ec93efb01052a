# SPDX-License-Identifier: Apache-2.0
"""Training that diverges: it stops before a number that is not finite reaches a checkpoint, and says where to go on."""
from __future__ import annotations

import numpy as np
import pytest

from CaiT.errors import NonFiniteError
from CaiT.training import checkpoint, jobs
from CaiT.training import trainer as module
from CaiT.training.evaluator import EvalResult
from CaiT.training.trainer import Trainer

NAN, INF = float('nan'), float('inf')


def diverges(config, folder, message):
    """The run stops with this message; what was in the folder is what is in it."""
    before = {path.name: path.read_bytes() for path in folder.glob('*.pd*')}
    with pytest.raises(NonFiniteError) as caught:
        jobs.train(config)
    assert str(caught.value) == message
    assert {path.name: path.read_bytes() for path in folder.glob('*.pd*')} == before


@pytest.fixture
def resumed(config, trained):
    return config('TRAIN.EMA_DECAY', 0.5, 'SAVE_STEPS', 1, output_dir=str(trained), resume='auto')


@pytest.mark.parametrize('norm', [NAN, INF])
def test_a_gradient(resumed, trained, monkeypatch, norm):
    """Before the update: the weights are those of before."""
    monkeypatch.setattr(module, 'clip_gradients', lambda *_: norm)
    diverges(resumed, trained, f'gradient norm is {norm} at epoch 2, step 1, LR 0.000505; last good checkpoint: '
                               f'{trained}/last.pdstate')


@pytest.mark.parametrize('of, message', [('Val', f'val_loss is {NAN}'), ('EMA', f'ema_loss is {NAN}')])
def test_an_evaluation(config, trained, monkeypatch, of, message):
    monkeypatch.setattr(module, 'evaluate', lambda *args: EvalResult(
        NAN if (args[4] if len(args) > 4 else 'Val') == of else 1.0, 1.0, 1.0, 11))
    diverges(config('TRAIN.EMA_DECAY', 0.5, output_dir=str(trained), resume='auto'), trained,
             f'{message} at epoch 2, step 6, LR 2.68667e-05; last good checkpoint: {trained}/last.pdstate')


@pytest.mark.parametrize('part, name', [('model', 'norm.bias'), ('ema', 'cls_token'),
                                        ('optimizer', 'head.weight/moment2_0')])
@pytest.mark.parametrize('number', [NAN, -INF])
def test_an_array(resumed, trained, monkeypatch, part, name, number):
    """One element, in what is to be saved."""
    first = checkpoint.non_finite

    def with_one(state):
        state[part][name].reshape(-1)[1] = number
        return first(state)

    monkeypatch.setattr(checkpoint, 'non_finite', with_one)
    monkeypatch.setattr(module.checkpoint, 'newest_good', lambda paths: 'A')
    diverges(resumed, trained, f'{part}: {name} is not finite at epoch 2, step 1, LR 0.000505; last good checkpoint: A')


def test_weights_that_an_update_blows_up(config, trained):
    """A finite loss, finite gradients, and a learning rate beyond all reason."""
    chosen = config('TRAIN.EMA_DECAY', 0.5, 'TRAIN.BASE_LR', 3e38, 'TRAIN.OPTIMIZER.NAME', 'AdamW', 'RESUME_ANYWAY', True,
                    'SAVE_STEPS', 1, 'TRAIN.WARMUP_EPOCHS', 0, output_dir=str(trained), resume='auto')
    with pytest.raises(NonFiniteError, match=rf'at epoch 2, step \d, .*; last good checkpoint: {trained}/last.pdstate'):
        jobs.train(chosen)
    assert checkpoint.non_finite(checkpoint.read(trained / 'last.pdstate')) is None


@pytest.mark.parametrize('bad, named', [(['last'], 'best.pdstate'), (['last', 'best'], None)])
def test_a_bad_state_of_an_older_version_is_not_called_good(trained, bad, named):
    """Older versions saved what had diverged."""
    for tag in bad:
        state = checkpoint.read(trained / f'{tag}.pdstate')
        state['model']['head.bias'] = np.array([0, NAN, 0], 'float32')
        with open(trained / f'{tag}.pdstate', 'wb') as file:
            checkpoint.pickle.dump(state, file)
    paths = [trained / 'last.pdstate', trained / 'best.pdstate', trained / 'none.pdstate']
    assert checkpoint.newest_good(paths) == (trained / named if named else None)


def test_a_checkpoint_refuses_to_be_written(trained):
    state, before = checkpoint.read(trained / 'last.pdstate'), (trained / 'last.pdparams').read_bytes()
    state['ema']['norm.bias'][3] = INF
    with pytest.raises(NonFiniteError, match='^ema: norm.bias is not finite, '):
        checkpoint.write(trained, 'last', state)
    assert (trained / 'last.pdparams').read_bytes() == before


def test_large_numbers_are_finite():
    assert checkpoint.is_finite(np.full(10**5, 3e38, 'float32')) and not checkpoint.is_finite(np.float32([3e38, NAN]))
    assert not checkpoint.is_finite(np.float32([INF, -INF]))


def test_a_loss_scale_may_overflow(config, trained, monkeypatch, tmp_path):
    """With float16 the scaler skips such an update; that is how it finds its scale."""
    from CaiT.training.logger import RunLogger
    chosen = config('TRAIN.EMA_DECAY', 0.5, epochs=1, output_dir=str(tmp_path / 'new'))
    trainer = Trainer(chosen, tmp_path / 'new', RunLogger(tmp_path / 'new', 'log.txt'))
    trainer.amp.skips_overflow = True
    monkeypatch.setattr(module, 'clip_gradients', lambda *_: INF)
    assert trainer.fit().epoch == 2
