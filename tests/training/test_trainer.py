# SPDX-License-Identifier: Apache-2.0
"""The trainer: log lines, checkpoints, resuming, errors."""
from __future__ import annotations

import json
import re
import signal

import numpy as np
import paddle
import pytest

from CaiT.errors import InputError, NonFiniteError
from CaiT.training import checkpoint, jobs
from CaiT.training.logger import RunLogger
from CaiT.training.trainer import Trainer, grouped, step_seed


def train(config, folder):
    return jobs.train(config(output_dir=str(folder)))


def load_weights_of(folder, tag='last'):
    return checkpoint.read(folder / f'{tag}.pdstate')['model']


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert np.array_equal(one[name], two[name]), name


def trainer(config, folder):
    return Trainer(config, folder, RunLogger(folder, 'log_train.txt'))


def test_log_lines_files_and_records(config, tmp_path, capsys):
    jobs.train(config(output_dir=str(tmp_path / 'run')))
    run = tmp_path / 'run'
    output = (run / 'log_train.txt').read_text()
    stamp = r'\d{4} \d\d:\d\d:\d\d [AP]M '
    for pattern in (r'Now training epoch 1\. LR=0\.000001',
                    r'Epoch\[001/002\], Step\[0000/0006\], Avg Loss: \d+\.\d{4}, Avg Acc: \d\.\d{4}',
                    r'Epoch\[002/002\], Step\[0004/0006\], Avg Loss: \d+\.\d{4}, Avg Acc: \d\.\d{4}',
                    r'----- Epoch\[002/002\], Train Loss: \d+\.\d{4}, Train Acc: \d\.\d{4}, time: \d+\.\d\d',
                    r'Val Step\[0000/0003\], Avg Loss: \d+\.\d{4}, Avg Acc@1: \d\.\d{4}, Avg Acc@5: 1\.0000',
                    r'Validation Loss: \d+\.\d{4}, Validation Acc@1: \d\.\d{4}, Validation Acc@5: 1\.0000, '
                    r'time: \d+\.\d\d'):
        assert re.search(f'^{stamp}{pattern}$', output, re.M), pattern
    certified = next(line for line in output.splitlines() if '[Train][Epoch 2/2]' in line).split()
    assert float(certified[certified.index('ips:') + 1]) > 0
    assert re.fullmatch(r'\d\.\d{5},', certified[certified.index('loss:') + 1])
    after_settings = output[output.index('runtime: '):]  # of the settings the screen shows those that differ
    assert after_settings in capsys.readouterr().out.replace('\r', '')
    records = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    assert [record['epoch'] for record in records] == [1, 2]
    assert records[1]['train_loss'] < records[0]['train_loss']
    assert {p.name for p in run.iterdir()} >= {'last.pdstate', 'last.pdparams', 'best.pdstate', 'best.pdparams',
                                               'config.yaml'}


def test_weights_file_is_what_paddle_reads(config, tmp_path):
    train(config, tmp_path)
    read = paddle.load(str(tmp_path / 'last.pdparams'))
    assert_same({name: value.numpy() for name, value in read.items()}, load_weights_of(tmp_path))


def test_resumed_run_ends_with_the_same_bits(config, tmp_path):
    """2 + 2 epochs equal 4, with drop path, dropout, mixup, smoothing, EMA and clipping on."""
    opts = ['MODEL.DROP_PATH_RATE', 0.2, 'MODEL.DROP_RATE', 0.1, 'AUG.MIXUP', 0.8, 'AUG.CUTMIX', 1.0,
            'TRAIN.LABEL_SMOOTHING', 0.1, 'TRAIN.EMA_DECAY', 0.9, 'TRAIN.GRAD_CLIP', 1.0, 'AUG.REPEATS', 2]
    jobs.train(config(*opts, epochs=4, output_dir=str(tmp_path / 'whole')))

    class Stop(Exception):
        pass

    half = trainer(config(*opts, epochs=4), tmp_path / 'parts')
    save = half._save

    def stop_after_two(*tags):
        save(*tags)
        if half.state.epoch == 3:
            raise Stop

    half._save = stop_after_two
    with pytest.raises(Stop):
        half.fit()
    jobs.train(config(*opts, epochs=4, output_dir=str(tmp_path / 'parts'), resume='auto'))
    whole, parts = (checkpoint.read(tmp_path / name / 'last.pdstate') for name in ('whole', 'parts'))
    for part in ('model', 'ema', 'optimizer'):
        assert_same(whole[part], parts[part])
    assert whole['progress'] == parts['progress']
    records = [RunLogger(tmp_path / name, 'x').records() for name in ('whole', 'parts')]
    assert [record['epoch'] for record in records[0]] == [1, 2, 3, 4]
    for key in ('epoch', 'lr', 'train_loss', 'train_acc', 'grad_norm', 'val_loss', 'ema_loss'):
        assert [record[key] for record in records[0]] == [record[key] for record in records[1]], key


@pytest.mark.parametrize('micro', [1, 2, 3])
def test_micro_batches_equal_one_batch(config, tmp_path, micro):
    """n micro-batches of b images step like one batch of n * b: the loss is divided."""
    opts = ['AUG.SHIFT', 0, 'AUG.HFLIP', 0, 'AUG.INTERPOLATION', 'bilinear', 'TRAIN.OPTIMIZER.NAME', 'Momentum',
            'TRAIN.WARMUP_EPOCHS', 0, 'TRAIN.LR_SCHEDULE', 'constant', 'TRAIN.BASE_LR', 0.1]
    one = trainer(config(*opts, batch_size=12, epochs=1), tmp_path / 'one')
    many = trainer(config(*opts, 'TRAIN.ACCUM_ITER', micro, batch_size=12 // micro, epochs=1), tmp_path / 'many')
    one.fit(), many.fit()
    start = trainer(config(*opts, epochs=1), tmp_path / 'start').model
    for (name, a), b, c in zip(one.model.named_parameters(), many.model.parameters(), start.parameters()):
        moved = np.abs(a.numpy() - c.numpy()).max()
        assert np.abs(a.numpy() - b.numpy()).max() <= 1e-4 * moved + 1e-7, name


def test_best_is_the_best_not_the_last(config, tmp_path, monkeypatch):
    from CaiT.training import trainer as module
    from CaiT.training.evaluator import EvalResult
    tops = iter([0.5, 0.75, 0.75, 0.25])
    monkeypatch.setattr(module, 'evaluate', lambda *_: EvalResult(1.0, next(tops), 1.0, 11))
    jobs.train(config(epochs=4, output_dir=str(tmp_path)))
    best = checkpoint.read(tmp_path / 'best.pdstate')['progress']
    assert (best['best_top1'], best['best_epoch'], best['epoch']) == (0.75, 2, 3)
    assert checkpoint.read(tmp_path / 'last.pdstate')['progress']['epoch'] == 5


def test_the_average_has_its_own_best(config, tmp_path, monkeypatch):
    from CaiT.training import trainer as module
    from CaiT.training.evaluator import EvalResult
    tops = {'Val': iter([0.9, 0.1]), 'EMA': iter([0.2, 0.8])}
    monkeypatch.setattr(module, 'evaluate', lambda *args: EvalResult(
        1.0, next(tops[args[4] if len(args) > 4 else 'Val']), 1.0, 11))
    jobs.train(config('TRAIN.EMA_DECAY', 0.5, output_dir=str(tmp_path)))
    best = paddle.load(str(tmp_path / 'best_ema.pdparams'))
    assert_same({name: value.numpy() for name, value in best.items()},
                checkpoint.read(tmp_path / 'last.pdstate')['ema'])
    assert checkpoint.read(tmp_path / 'best.pdstate')['progress']['best_epoch'] == 1


def test_a_non_finite_loss_is_an_input_error(config, tmp_path):
    job = trainer(config(), tmp_path)
    job._save('last')
    job.model.head.bias.set_value(np.array([np.nan, 0, 0], 'float32'))
    with pytest.raises(NonFiniteError, match=r'loss is nan at epoch 1, step 0, LR 1e-06; last good checkpoint: .*last'):
        job.fit()


def test_a_run_is_not_overwritten(config, tmp_path):
    train(config, tmp_path)
    before = (tmp_path / 'last.pdstate').read_bytes()
    with pytest.raises(InputError, match='holds a run already; add -resume auto'):
        train(config, tmp_path)
    assert (tmp_path / 'last.pdstate').read_bytes() == before


def test_resume_from_another_model_is_refused(config, tmp_path):
    train(config, tmp_path)
    with pytest.raises(InputError, match=r'MODEL\.DEPTH is 2 there and 3 in this run'):
        jobs.train(config('MODEL.DEPTH', 3, resume=str(tmp_path / 'last')))


def test_resume_of_nothing_is_refused_and_auto_starts_afresh(config, tmp_path):
    with pytest.raises(InputError, match='no such checkpoint'):
        jobs.train(config(output_dir=str(tmp_path), resume=str(tmp_path / 'none')))
    assert jobs.train(config(output_dir=str(tmp_path / 'new'), resume='auto', epochs=1)).epoch == 2


def test_a_checkpoint_of_an_earlier_version_is_resumed(config, tmp_path):
    """Whose state['progress'] has the keys 'pictures' and 'rate'."""
    for name in ('now', 'before'):
        jobs.train(config(epochs=1, output_dir=str(tmp_path / name)))
    state = checkpoint.read(tmp_path / 'before' / 'last.pdstate')
    progress = state['progress']
    progress['pictures'], progress['rate'] = progress.pop('images'), progress.pop('lr')
    checkpoint.write(tmp_path / 'before', 'last', state)
    for name in ('now', 'before'):
        jobs.train(config(epochs=2, output_dir=str(tmp_path / name), resume='auto'))
    assert_same(load_weights_of(tmp_path / 'now'), load_weights_of(tmp_path / 'before'))
    states = [checkpoint.read(tmp_path / name / 'last.pdstate')['progress'] for name in ('now', 'before')]
    assert states[0] == states[1] and 'images' in states[1]


def test_last_epoch_starts_behind_it(config, tmp_path):
    state = jobs.train(config(output_dir=str(tmp_path), last_epoch=1))
    assert [record['epoch'] for record in RunLogger(tmp_path, 'x').records()] == [2] and state.epoch == 3


def test_a_truncated_state_is_refused(config, tmp_path):
    train(config, tmp_path)
    path = tmp_path / 'last.pdstate'
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match='truncated or damaged'):
        checkpoint.read(path)


def test_seeds_and_groups():
    assert len({step_seed(0, e, s, r) for e in range(5) for s in range(5) for r in range(2)}) == 50
    assert list(grouped(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_an_evaluation_interrupted_by_sigterm_is_repeated_on_resume(config, tmp_path, monkeypatch):
    """All steps of the epoch are saved; its evaluation and record remain."""
    from CaiT.training import trainer as module
    opts = ['DATA.NUM_WORKERS', 2, 'TRAIN.EMA_DECAY', 0.9]
    jobs.train(config(*opts, output_dir=str(tmp_path / 'whole')))
    evaluate, calls = module.evaluate, []

    def signalled(model, loader, *rest):
        calls.append(loader)
        if len(calls) == 2:  # in the middle of epoch 1's second evaluation, the average's
            loader.preemption.received = signal.SIGTERM
        return evaluate(model, loader, *rest)

    monkeypatch.setattr(module, 'evaluate', signalled)
    with pytest.raises(SystemExit) as stopped:
        jobs.train(config(*opts, output_dir=str(tmp_path / 'parts')))
    assert stopped.value.code == 143
    assert checkpoint.read(tmp_path / 'parts' / 'last.pdstate')['progress']['step'] == 6
    monkeypatch.setattr(module, 'evaluate', evaluate)
    jobs.train(config(*opts, output_dir=str(tmp_path / 'parts'), resume='auto'))
    for tag in ('last', 'best'):
        whole, parts = (checkpoint.read(tmp_path / name / f'{tag}.pdstate') for name in ('whole', 'parts'))
        for part in ('model', 'ema', 'optimizer'):
            assert_same(whole[part], parts[part])
        assert whole['progress'] == parts['progress']
    records = [RunLogger(tmp_path / name, 'x').records() for name in ('whole', 'parts')]
    for key in ('epoch', 'lr', 'train_loss', 'grad_norm', 'val_loss', 'ema_loss'):
        assert [record[key] for record in records[0]] == [record[key] for record in records[1]], key
