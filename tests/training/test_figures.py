# SPDX-License-Identifier: Apache-2.0
"""What a run reports is right by number: averages, accuracies, losses, speeds, remaining time."""
from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from CaiT.data.transforms import DataConfig
from CaiT.errors import InputError
from CaiT.training import checkpoint, evaluator, jobs, meter
from CaiT.training import trainer as trainer_module
from CaiT.training.distill import Teacher
from CaiT.training.ema import Ema
from CaiT.training.logger import RunLogger
from CaiT.training.train_state import TrainState


def records(folder):
    return [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('decay', [0.5, 0.9])
def test_average_by_value(decay):
    model = paddle.nn.Linear(1, 1)
    model.weight.set_value(np.float32([[2]]))
    ema, expected = Ema(model, decay), 2.0
    for value in (4, -1, 7):
        model.weight.set_value(np.float32([[value]]))
        ema.update(model)
        expected = decay * expected + (1 - decay) * value
    assert ema.arrays()['weight'].item() == pytest.approx(expected, rel=1e-6)
    with ema.applied(model):
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 7


def test_top5_is_neither_top1_nor_everything(tmp_path):
    """Nine classes; the label is on rank 1, 5, 6 and 9 of four images."""
    ranks = [1, 5, 6, 9]
    logits = np.zeros((4, 9), np.float32)
    for row, rank in enumerate(ranks):
        others = np.delete(np.arange(9), row)
        order = np.insert(others, rank - 1, row)  # from the largest logit to the smallest
        logits[row, order] = np.linspace(4, 0, 9)
    table = paddle.to_tensor(logits)

    class Model(paddle.nn.Layer):
        def forward(self, ids):
            return paddle.gather(table, ids)

    labels = paddle.arange(4)
    for k, expected in ((1, 1), (4, 1), (5, 2), (6, 3), (100, 4)):
        assert evaluator.topk_correct(table, labels, k) == expected
    batches = [(labels[:3], labels[:3]), (labels[3:], labels[3:])]
    result = evaluator.evaluate(Model(), batches, RunLogger(tmp_path, 'log.txt'), 1)
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert (result.top1, result.top5, result.images) == (0.25, 0.5, 4)
    assert result.loss == pytest.approx(-np.diag(log_softmax).mean(), rel=1e-6)
    lines = (tmp_path / 'log.txt').read_text()
    assert 'Val Step[0000/0002], ' in lines and 'Avg Acc@1: 0.3333, Avg Acc@5: 0.6667' in lines
    assert 'Validation Acc@1: 0.2500, Validation Acc@5: 0.5000' in lines
    ids, values = next(evaluator.predict(Model(), [labels], topk=2))
    assert ids.tolist() == logits[0].argsort()[::-1][:2].tolist() and values[0] > values[1]


class FakeTime:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize('world_size', [1, 4])
def test_throughput_by_value(monkeypatch, world_size):
    """Batches of 8 and 6 after 2 s of waiting and 3 s of work each; then one of 10 without waiting."""
    fake_time = FakeTime()
    monkeypatch.setattr(meter.time, 'perf_counter', fake_time)
    monkeypatch.setattr(meter, 'peak_memory', lambda: 7.0)

    def loader():
        for count, wait in ((8, 2), (6, 2), (10, 0)):
            fake_time.now += wait
            yield None, [0] * count
    found, lines = meter.Meter(world_size), []
    for number, _ in enumerate(found.measure(loader())):
        fake_time.now += 3
        if number:
            lines.append(found.report(2, 5, number + 3, 6, 0.125, 1.5, 0.75))
    assert lines[0] == (f'[Train][Epoch 2/5][Iter: 4/6] lr: 0.12500000, loss: 1.50000, top1: 0.75000, avg_reader_cost: '
                        f'2.00000 sec, avg_batch_cost: 5.00000 sec, avg_samples: {7 * world_size:.1f}, avg_ips: '
                        f'{1.4 * world_size:.5f} images/sec, ips: {1.4 * world_size:.5f} images/sec, eta: 0:01:35')
    assert f'avg_reader_cost: 0.00000 sec, avg_batch_cost: 3.00000 sec, avg_samples: {10 * world_size:.1f}' in lines[1]
    assert f'ips: {10 / 3 * world_size:.5f} images/sec, eta: 0:00:54' in lines[1]
    summary = found.summary()
    assert summary == pytest.approx({'data_time': 4 / 3, 'batch_time': 13 / 3, 'memory_mib': 7.0,
                                     'images_per_second': 24 * world_size / 13})


def test_remaining_time_of_a_record(config, tmp_path):
    jobs.train(config(epochs=3, output_dir=str(tmp_path)))
    for record in records(tmp_path):
        assert record['eta'] == pytest.approx((3 - record['epoch']) * 6 * record['batch_time'])
        assert 0 < record['data_time'] < record['batch_time']
        assert record['images_per_second'] == pytest.approx(4 / record['batch_time'])


def test_loss_of_an_epoch_is_the_mean_over_images(config, tmp_path, monkeypatch):
    """Batches of 4 and, in the end, of what is left; accuracy too. The losses are made up: 1, 2, 3 ..."""
    losses = iter(range(1, 100))
    monkeypatch.setattr(trainer_module.Trainer, '_forward_backward',
                        lambda job, images, targets, count: (float(next(losses)), len(targets) // 2))
    monkeypatch.setattr(trainer_module, 'clip_gradients', lambda *_: 0.0)
    jobs.train(config(epochs=2, output_dir=str(tmp_path)))
    assert [record['train_loss'] for record in records(tmp_path)] == [3.5, 9.5]
    assert [record['train_acc'] for record in records(tmp_path)] == [0.5, 0.5]
    text = (tmp_path / 'log_train.txt').read_text()
    assert 'Epoch[001/002], Step[0002/0006], Avg Loss: 2.0000, Avg Acc: 0.5000' in text
    assert 'Epoch[002/002], Step[0000/0006], Avg Loss: 7.0000, Avg Acc: 0.5000' in text
    assert checkpoint.read(tmp_path / 'last.pdstate')['progress']['images'] == 0


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path, capsys):
    logger = RunLogger(tmp_path / 'run', 'log.txt', active=False)
    logger.info('a line')
    logger.record({'epoch': 1})
    logger.rewind(0)
    assert capsys.readouterr().out == '' and not list(tmp_path.rglob('*'))


@pytest.mark.parametrize('change, message', [
    ({'correct': 9}, 'progress: correct: found 9, expected a number from 0 to 8'),
    ({'correct': -1}, 'progress: correct: found -1, expected a number from 0 to 8'),
    ({'epoch': 0}, 'progress: epoch: found 0, expected an integer from 1 to 4'),
    ({'epoch': 5}, 'progress: epoch: found 5, expected an integer from 1 to 4'),
    ({'step': 7}, 'progress: step: found 7, expected an integer from 0 to 6'),
    ({'best_epoch': 4}, 'progress: best_epoch: found 4, expected an integer from 0 to 3'),
    ({'best_top1': 1.5}, 'progress: best_top1: found 1.5, expected a number from -1 to 1'),
    ({'images': 0, 'correct': 0}, 'progress: images: found 0 after 2 steps')])
def test_positions_that_a_run_cannot_have(change, message):
    """Of 3 epochs of 6 steps; at each limit it is one."""
    good = dict(epoch=4, step=2, loss_sum=3.0, correct=8, images=8, best_top1=1.0, best_ema_top1=-1.0, best_epoch=3)
    assert TrainState.from_dict(good, 3, 6).correct == 8
    assert TrainState.from_dict({**good, 'epoch': 1, 'step': 6, 'best_epoch': 0, 'correct': 0}, 3, 6).step == 6
    with pytest.raises(InputError) as caught:
        TrainState.from_dict({**good, **change}, 3, 6)
    assert str(caught.value) == message


@pytest.mark.parametrize('name, mode', [('bilinear', 'bilinear'), ('nearest', 'nearest'), ('bicubic', 'bicubic'),
                                        ('lanczos', 'bicubic')])
def test_filter_of_the_teachers_images(name, mode):
    """Paddle has no Lanczos filter."""
    data = DataConfig(6, 1.0, name, (0.5,) * 3, (0.5,) * 3)
    images = paddle.to_tensor(np.random.default_rng(0).normal(0, 1, (2, 3, 4, 4)).astype('float32'))
    found = Teacher(paddle.nn.Identity(), data, data).preprocess(images)
    np.testing.assert_array_equal(found.numpy(), paddle.nn.functional.interpolate(images, [6, 6], mode=mode).numpy())
