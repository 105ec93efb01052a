# SPDX-License-Identifier: Apache-2.0
"""A run waits for the device, and for other processes, at log lines and checkpoints only."""
from __future__ import annotations

import json
import signal

import numpy as np
import paddle
import pytest

from CaiT.errors import NonFiniteError
from CaiT.training import checkpoint, ema, preemption
from CaiT.training import trainer as module
from CaiT.training.amp import float32_weights
from CaiT.training.logger import RunLogger
from CaiT.training.trainer import Trainer
from tests.training.conftest import train_until

READS = ('numpy', 'item', 'tolist', '__float__', '__int__', '__bool__', '__index__', '__array__')


def trainer(config, folder):
    return Trainer(config, folder, RunLogger(folder, 'log_train.txt'))


@pytest.fixture
def reads(monkeypatch):
    """The reads of values of tensors by this process, as they come."""
    found = []
    for name in READS:
        if hasattr(paddle.Tensor, name):
            original = getattr(paddle.Tensor, name)
            monkeypatch.setattr(paddle.Tensor, name, lambda self, *given, name=name, original=original, **options: (
                found.append(name), original(self, *given, **options))[1])
    return found


@pytest.mark.parametrize('opts, at_a_look', [
    (['TRAIN.GRAD_CLIP', '0.5', 'TRAIN.EMA_DECAY', '0.9'], 3), (['TRAIN.ACCUM_ITER', '2', 'AUG.MIXUP', '0.8'], 3),
    (['DATA.SHUFFLE', 'balanced', 'TRAIN.CLASS_WEIGHTS', 'balanced', 'TRAIN.EMA_DECAY', '0.9'], 3)])
def test_an_update_reads_nothing(config, tmp_path, reads, opts, at_a_look):
    """Six micro-batches; losses, hits and norms of all are read at once when somebody looks."""
    job = trainer(config(*opts, epochs=1), tmp_path)
    job.model.train()
    job.sampler.set_epoch(1)
    batches = list(job.loader)
    reads.clear()
    for group in module.grouped(batches, job.config.TRAIN.ACCUM_ITER):
        job._update(group)
    assert reads == [] and job.state.step == 6 and job.state.images == 0
    job._look()
    assert reads == ['numpy'] * at_a_look and job.state.images == 24 and job.state.grad_norm > 0


@pytest.mark.parametrize('freq, clip, accumulate, steps', [
    (2, 0, 1, [0, 2, 4, 5]), (100, 0, 1, [0, 5]), (4, 0, 2, [0, 4]), (3, 0, 4, [0, 4]), (100, 0.5, 1, range(6))])
def test_the_norm_is_computed_where_it_is_needed(config, tmp_path, monkeypatch, freq, clip, accumulate, steps):
    """At log lines and at the end of the epoch, whose record has it; for clipping always."""
    job, found = trainer(config('REPORT_FREQ', freq, 'TRAIN.GRAD_CLIP', clip, 'TRAIN.ACCUM_ITER', accumulate, epochs=1),
                         tmp_path), []
    original = module.clip_gradients

    def noted(*given):
        found.append(job.state.step)  # micro-batches that are done
        return original(*given)
    monkeypatch.setattr(module, 'clip_gradients', noted)
    job.fit()
    assert found == [min(step + accumulate, 6) for step in steps]
    record = json.loads((tmp_path / 'log.jsonl').read_text())
    assert record['grad_norm'] == job.state.grad_norm > 0


@pytest.mark.parametrize('save', [0, 3])
def test_what_is_not_finite_is_found_before_it_is_saved(config, tmp_path, monkeypatch, save):
    """A loss of the second step, seen at the checkpoint of the third or at the end of the epoch; nothing is saved."""
    job = trainer(config('REPORT_FREQ', 100, 'SAVE_STEPS', save, 'TRAIN.EMA_DECAY', 0.5), tmp_path)
    loss = job.loss
    monkeypatch.setattr(job, 'loss', lambda *given: loss(*given) * (float('nan') if job.state.step == 1 else 1))
    with pytest.raises(NonFiniteError, match=r'^loss is nan at epoch 1, step 1, LR .*last good checkpoint: none yet$'):
        job.fit()
    assert job.state.step == (save or 6) and not list(tmp_path.glob('*.pd*'))


def test_gradients_that_are_not_finite_are_found_without_their_norm(config, tmp_path, monkeypatch):
    """Of the third update: the weights are not finite from then on, and neither is the next loss."""
    job = trainer(config('REPORT_FREQ', 100, 'SAVE_STEPS', 2, epochs=1), tmp_path)
    step = job._step

    def broken(finite):
        if job.state.step == 3:
            parameter = job.model.parameters()[0]
            parameter.grad.set_value(np.full(parameter.shape, np.inf, 'float32'))
        return step(finite)
    monkeypatch.setattr(job, '_step', broken)
    with pytest.raises(NonFiniteError, match=r'loss is nan at epoch 1, step 3, .* checkpoint: .*last\.pdstate'):
        job.fit()
    state = checkpoint.read(tmp_path / 'last.pdstate')
    assert state['progress']['step'] == 2 and checkpoint.non_finite(state) is None


def test_a_checkpoint_within_an_interval_resumes_to_the_bit(config, tmp_path):
    """Looking at the numbers earlier gives the same sums."""
    opts = ['REPORT_FREQ', '5', 'TRAIN.EMA_DECAY', '0.9']
    train_until(config(*opts, 'SAVE_STEPS', 2), tmp_path / 'part', 2, 4)
    for name, more in (('whole', {}), ('part', {'resume': 'auto'})):
        from CaiT.training import jobs
        jobs.train(config(*opts, output_dir=str(tmp_path / name), **more))
    found = [[{key: record[key] for key in ('train_loss', 'train_acc', 'grad_norm', 'val_loss', 'ema_loss')}
              for record in map(json.loads, (tmp_path / name / 'log.jsonl').read_text().splitlines())]
             for name in ('whole', 'part')]
    assert found[0] == found[1] and len(found[0]) == 2


@pytest.mark.parametrize('chunk', [1, 500, 10**9])
def test_an_average_in_chunks_by_value(config, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(ema, 'CHUNK', chunk)
    model = trainer(config(), tmp_path).model
    average, expected = ema.Ema(model, 0.75), {name: w.numpy() for name, w in float32_weights(model)}
    for factor in (2.0, -0.5):
        for parameter in model.parameters():
            parameter.set_value(parameter.numpy() * np.float32(factor) + np.float32(0.125))
        average.update(model)
        expected = {name: np.float32(0.75) * expected[name] + np.float32(0.25) * w.numpy()
                    for name, w in float32_weights(model)}
    found = average.arrays()
    assert list(found) == list(expected) and len(average.chunks) == {1: len(found), 10**9: 1}.get(
        chunk, len(average.chunks))
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    other = ema.Ema(model, 0.75)
    other.restore(found)
    assert all(np.array_equal(found[name], array) for name, array in other.arrays().items())
    with other.applied(model):
        assert all(np.array_equal(parameter.numpy(), found[name]) for name, parameter in model.named_parameters())


class Processes:
    """Two processes, of which the other needs ``seconds`` per step and is stopped before agreement ``stopped``."""

    def __init__(self, monkeypatch, seconds, stopped=10**9):
        self.now, self.calls, self.stopped, self.seconds = 0.0, [], stopped, seconds
        monkeypatch.setattr(preemption.distributed, 'world_size', lambda: 2)
        monkeypatch.setattr(preemption.distributed, 'all_reduce_sum', self.all_reduce_sum)
        monkeypatch.setattr(preemption.time, 'monotonic', lambda: self.now)

    def all_reduce_sum(self, values):
        self.calls.append(self.step)
        return [values[0] + (len(self.calls) >= self.stopped), values[1] + self.seconds]

    def run(self, signal_, steps, seconds):
        for self.step in range(steps):
            self.now += seconds
            if signal_.any_rank_at_intervals():
                return self.step
        return None


@pytest.mark.parametrize('mine, other, every', [(0.2, 0.2, 5), (0.3, 0.1, 5), (2.0, 2.0, 1), (0.001, 0.001, 50)])
def test_processes_agree_about_once_a_second(monkeypatch, mine, other, every):
    processes = Processes(monkeypatch, other)
    assert processes.run(preemption.PreemptionSignal(), 200, mine) is None
    assert processes.calls[0] == 0 and set(np.diff(processes.calls)) == {every}


def test_a_signal_of_any_process_stops_all_at_an_agreement(monkeypatch):
    processes = Processes(monkeypatch, 0.25, stopped=3)
    assert processes.run(preemption.PreemptionSignal(), 100, 0.25) == 8 and processes.calls == [0, 4, 8]
    own = preemption.PreemptionSignal()
    processes = Processes(monkeypatch, 0.25)
    own.received = signal.SIGTERM
    assert processes.run(own, 100, 0.25) == 0


def test_one_process_stops_at_once():
    own = preemption.PreemptionSignal()
    assert not own.any_rank_at_intervals()
    own.received = signal.SIGTERM
    assert own.any_rank_at_intervals()
