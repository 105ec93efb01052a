# SPDX-License-Identifier: Apache-2.0
"""What is allowed and probably not meant is said in one line, and nothing is said of an ordinary run."""
from __future__ import annotations

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.training import checkpoint, jobs
from CaiT.training.meter import Meter
from CaiT.training.notices import evaluation_notices, training_notices
from CaiT.training.optim import build_schedule


class Data:
    """``count`` images of ``classes`` classes."""

    def __init__(self, count, classes=3):
        self.labels = np.arange(count) % classes

    def __len__(self):
        return len(self.labels)


def notices(config, images=1200, classes=3, world_size=1):
    per_update = config.DATA.BATCH_SIZE * config.TRAIN.ACCUM_ITER
    schedule, line = build_schedule(config, per_update)
    steps = range(max(1, images // config.DATA.BATCH_SIZE))
    return [*line.split('\n')[1:], *training_notices(config, schedule, Data(images, classes), steps, None)]


def test_an_ordinary_run_has_no_warnings(config):
    assert notices(config('TRAIN.EMA_DECAY', 0.99, epochs=10)) == []


@pytest.mark.parametrize('opts, flags, images, line', [
    (['TRAIN.END_LR', 2e-3], {}, 1200,
     'warning: TRAIN.END_LR 0.002 is above the scaled peak 0.001 and is lowered to it'),
    (['TRAIN.LR_BATCH', 4096, 'TRAIN.LR_SCHEDULE', 'linear', 'TRAIN.WARMUP_START_LR', 0], {}, 1200,
     'warning: TRAIN.END_LR 1e-05 is above the scaled peak 9.76563e-07 and is lowered to it'),
    (['TRAIN.WARMUP_START_LR', 0.01], {}, 1200,
     'warning: TRAIN.WARMUP_START_LR 0.01 is above the scaled peak 0.001 and is lowered to it'),
    (['TRAIN.WARMUP_EPOCHS', 4], {'epochs': 4}, 400,
     'warning: a warm-up of 4 epochs is not shorter than a run of 4: the learning rate reaches 0.001 of 0.001'),
    (['TRAIN.WARMUP_EPOCHS', 20], {'epochs': 2}, 400,
     'warning: a warm-up of 20 epochs is not shorter than a run of 2: the learning rate reaches 0.0001 of 0.001'),
    (['TRAIN.WARMUP_EPOCHS', 0, 'TRAIN.WARMUP_FRACTION', 1], {'epochs': 3}, 400,
     'warning: a warm-up of 3 epochs is not shorter than a run of 3: the learning rate reaches 0.001 of 0.001'),
    ([], {'batch_size': 64}, 9,
     'warning: the training set (9 images) is smaller than one update (64 images); expected a smaller -batch_size'),
    (['TRAIN.LR_BATCH', 32, 'TRAIN.ACCUM_ITER', 8], {}, 31,
     'warning: the training set (31 images) is smaller than one update (32 images), for which the learning rate is '
     'scaled; expected a smaller -batch_size'),
    (['TRAIN.EMA_DECAY', 0.9999], {'epochs': 5}, 1200,
     'warning: moving average of the weights: with TRAIN.EMA_DECAY 0.9999, after the 1500 updates of this run '
     '86.1 % of it are still the initial weights'),
    (['MODEL.DROP_RATE', 0.1], {'pretrained': 'x'}, 1200,
     'warning: MODEL.DROP_RATE 0.1 with -pretrained: fine-tuning with dropout learns little, expected 0'),
    ([], {'num_classes': 10}, 1200,
     'warning: the training set has 3 classes (ids 0 to 2), the head has 10; expected -num_classes=3, '
     'or lists with all'),
    ([], {'batch_size': 500}, 1200,
     'epoch: 2 steps of 500 images, 200 of 1200 images (16.7 %) are left out of each')])
def test_each_line(config, opts, flags, images, line):
    found = notices(config(*opts, **flags), images)
    assert line in found and len(found) <= 2


def test_no_learning_rate_is_above_the_peak(config):
    schedule, _ = build_schedule(config('TRAIN.END_LR', 1, 'TRAIN.WARMUP_START_LR', 1, epochs=4), 4)
    assert [schedule.at(position / 2) for position in range(9)] == [0.001] * 9


def test_warnings_reach_the_log(config, tmp_path):
    jobs.train(config('TRAIN.WARMUP_EPOCHS', 3, output_dir=str(tmp_path)))
    assert ' warning: a warm-up of 3 epochs is not shorter ' in (tmp_path / 'log_train.txt').read_text()


@pytest.mark.parametrize('missing', ['head.bias', 'norm.weight'])
def test_an_evaluation_of_a_model_in_part_random_says_so(config, trained, missing):
    arrays = checkpoint.read(trained / 'last.pdstate')['model']
    del arrays[missing]
    checkpoint.write_weights(trained / 'part.pdparams', arrays)
    jobs.evaluate(config('MODEL.STRICT', False, pretrained=str(trained / 'part'), output_dir=str(trained / 'eval')))
    assert f'warning: {missing} left at random initial values' in (trained / 'eval/log_eval.txt').read_text()


ALL_IDS = '; if these ids are not those of the weights it means nothing (make_lists --classes FILE)'


@pytest.mark.parametrize('ids, head, line', [
    ([0, 217, 701], 1000, '3 classes (ids 0 to 701), the head has 1000: accuracy is over all 1000'),
    (range(10), 1000, '10 classes (ids 0 to 9), the head has 1000: accuracy is over all 1000' + ALL_IDS),
    ([0], 2, '1 classes (ids 0 to 0), the head has 2: accuracy is over all 2' + ALL_IDS),
    ([4, 5], 4, '2 classes (ids 4 to 5), the head has 4: accuracy is over all 4'),
    (range(6), 11, ''), (range(3), 3, ''), (range(90), 102, '')])
def test_an_evaluation_on_few_classes_of_the_head(ids, head, line):
    data = Data(0)
    data.labels = np.array([*ids] * 2)  # it has no samples: they would be read from the disk
    assert evaluation_notices(head, data) == ([f'warning: the validation set has {line}'] if line else [])


def test_few_classes_are_said_once_and_scored_all_the_same(config, trained):
    arrays = checkpoint.read(trained / 'last.pdstate')['model']
    for name in ('head.weight', 'head.bias'):
        arrays[name] = np.concatenate([arrays[name], np.full((*arrays[name].shape[:-1], 5), -9, 'float32')], -1)
    checkpoint.write_weights(trained / 'eight.pdparams', arrays)
    flags = dict(pretrained=str(trained / 'eight'), output_dir=str(trained / 'eval'), num_classes=8)
    result = jobs.evaluate(config(**flags))
    same = jobs.evaluate(config(pretrained=str(trained / 'last'), output_dir=str(trained / 'eval3')))
    assert (trained / 'eval/log_eval.txt').read_text().count('warning: ') == 1
    assert 'warning: ' not in (trained / 'eval3/log_eval.txt').read_text()
    assert result.images == 11 and result.top1 <= same.top1


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('job', ['train', 'evaluate', 'predict'])
def test_images_have_three_channels(config, tmp_path, channels, job):
    with pytest.raises(InputError, match=f'^MODEL.IN_CHANNELS: found {channels}, expected 3: images are read as RGB'):
        getattr(jobs, job)(config('MODEL.IN_CHANNELS', channels, output_dir=str(tmp_path / 'x'), pretrained='x'))
    assert not (tmp_path / 'x').exists()


def test_throughput_is_that_of_all_processes(monkeypatch):
    """Three processes of two images; no time passes on a clock that stands still, and none is divided by."""
    from CaiT.training import meter as module
    now = iter([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(module.time, 'perf_counter', lambda: next(now))
    meter = Meter(world_size=3)
    assert len(list(meter.measure([((), (0, 0))]))) == 1
    line = meter.report(1, 1, 0, 1, 0.1, 1.0, 1.0)
    assert 'avg_samples: 6.0' in line and 'ips: 3.00000 images/sec' in line and line.endswith('eta: 0:00:00')
    meter.report(2, 1, 0, 1, 0.1, 1.0, 1.0)
    assert meter.summary()['images_per_second'] == 3.0
