# SPDX-License-Identifier: Apache-2.0
"""Training runs read at any moment of their life, and their pages."""
from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

from CaiT.config import get_config
from CaiT.errors import InputError
from CaiT.report import panels, run_page, runs
from CaiT.tools import report
from tests.models.small import small_model

RECORD = {'train_loss': 2.0, 'train_acc': 0.25, 'lr': 1e-3, 'grad_norm': 1.5, 'data_time': 0.01, 'batch_time': 0.04,
          'images_per_second': 800.0, 'memory_mib': 400.0, 'val_loss': 1.5, 'val_top1': 0.5, 'val_top5': 0.75}
STEP = ('1125 11:08:40 PM [Train][Epoch {}/3][Iter: {}/4] lr: {:.8f}, loss: 2.1, top1: 0.2, avg_reader_cost: 0.01 sec, '
        'avg_batch_cost: 0.04 sec, avg_samples: 32.0, avg_ips: 800.00000 images/sec, ips: 800.00000 images/sec, '
        'eta: 0:01:02\n')


@pytest.fixture
def make_run(tmp_path):
    """make_run(name, epochs, *opts): a run of three epochs of which so many are done."""
    def make(name, epochs, *opts):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = get_config(opts=['MODEL.NAME', 'cait', 'TRAIN.EPOCHS', '3', *map(str, opts)], data_path=str(tmp_path))
        (folder / 'config.yaml').write_text(config.dump())
        log = '1125 11:08:40 PM config:\nAMP: false\n1125 11:08:40 PM runtime: threads=2; paddle 3.3.1 on cpu\n'
        for epoch in range(1, epochs + 1):
            with open(folder / 'log.jsonl', 'a') as file:
                file.write(json.dumps({'epoch': epoch, **RECORD, 'val_top1': 0.5 + 0.1 * (epoch == 2)}) + '\n')
            log += STEP.format(epoch, 0, 1e-4) + STEP.format(epoch, 2, 1e-3)
            log += f'1125 11:09:00 PM ----- Epoch[00{epoch}/003], Train Loss: 2.0, Train Acc: 0.2, time: 30.50\n'
        (folder / 'log_train.txt').write_text(log)
        return folder
    return make


def test_finished_run(make_run, check_page, tmp_path):
    folder = make_run('a', 3)
    found = run_page.write([folder], tmp_path / 'page.html', images=0)[0]
    assert found.finished and found.best()['epoch'] == 2 and found.seconds == {1: 30.5, 2: 30.5, 3: 30.5}
    assert found.steps[:2] == [(0.25, 1e-4, 2.1), (0.75, 1e-3, 2.1)] and len(found.steps) == 6
    assert found.environment == ['runtime: threads=2; paddle 3.3.1 on cpu']
    text, _ = check_page(tmp_path / 'page.html')
    for words in ('60.00% (epoch 2)', 'Learning rate', 'Gradient norm', 'images/s', 'MiB', '1 min 32 s', 'Memory',
                  '25% of the time', 'threads=2'):
        assert words in text, words
    assert 'http-equiv' not in (tmp_path / 'page.html').read_text() and 'mixed images' not in text
    assert re.search(r'TRAIN.EPOCHS 3 300', text) and 'MODEL.DEPTH' not in text


@pytest.mark.parametrize('values, shown', [([800.0, 1234.4, 2000.0], '1,234'), ([2.06, 2.04, 1.5], '2.0'),
                                           ([9.96, 9.96, 10.4], '10.0'), ([20.0, 10.0], '15'), ([None, 30.0], '30')])
def test_slow_and_fast_runs(make_run, check_page, tmp_path, values, shown):
    folder = make_run('a', 0)
    (folder / 'log.jsonl').write_text(''.join(
        json.dumps({'epoch': epoch, **RECORD, 'images_per_second': value}) + '\n' for epoch, value in
        enumerate(values, 1)))
    run_page.write([folder], tmp_path / 'page.html', images=0)
    assert f'images per second, median {shown} ' in check_page(tmp_path / 'page.html')[0]


def test_run_that_goes_on(make_run, check_page, tmp_path):
    """Half a line of log.jsonl, and the log some steps further."""
    folder = make_run('a', 2)
    with open(folder / 'log.jsonl', 'a') as file:
        file.write('{"epoch": 3, "train_lo')
    with open(folder / 'log_train.txt', 'a') as file:
        file.write(STEP.format(3, 1, 5e-4) + '1125 11:1')
    found = runs.read_run(folder)
    assert len(found.records) == 2 and not found.finished and found.steps[-1].epoch == 2.5
    assert found.position == 'epoch 3 of 3, step 2 of 4, 0:01:02 left'
    run_page.write([folder], tmp_path / 'page.html', images=2)
    text, images = check_page(tmp_path / 'page.html')
    assert '2 of 3' in text and 'step 2 of 4' in text and 'no weights are saved yet' in text and not images
    assert 'http-equiv="refresh" content="60"' in (tmp_path / 'page.html').read_text()
    run_page.write([make_run('b', 3), folder], tmp_path / 'both.html', images=0)
    assert 'http-equiv="refresh" content="60"' in (tmp_path / 'both.html').read_text()


def test_run_that_has_just_begun(make_run, check_page, tmp_path):
    folder = make_run('a', 0)
    (folder / 'log_train.txt').unlink()
    run_page.write([folder], tmp_path / 'page.html', images=0)
    assert 'No epoch is finished' in check_page(tmp_path / 'page.html')[0]


def test_resumed_run_counts_an_epoch_once(make_run):
    folder = make_run('a', 2)
    with open(folder / 'log_train.txt', 'a') as file:
        file.write(STEP.format(2, 2, 7e-4))
    with open(folder / 'log.jsonl', 'a') as file:
        file.write(json.dumps({'epoch': 2, **RECORD, 'val_top1': 0.9}) + '\n')
    found = runs.read_run(folder)
    assert [record['val_top1'] for record in found.records] == [0.5, 0.9]
    assert [step.lr for step in found.steps] == [1e-4, 1e-3, 1e-4, 7e-4]


@pytest.mark.parametrize('line', ['[]', '3', '{"epoch": "x"}', '{"epoch": 1e300}', '{"epoch": 1.5}', '[' * 10_000,
                                  '{"epoch": ' + '9' * 5000 + '}'], ids=range(7))
def test_damaged_lines_of_a_run_are_left_out(make_run, line):
    folder = make_run('a', 2)
    with open(folder / 'log.jsonl', 'a') as file:
        file.write(line + '\n')
    with open(folder / 'log_train.txt', 'a') as file:
        file.write(STEP.format(3, 0, 1).replace('lr: 1.00000000', 'lr: 1-2') + STEP.format('9' * 5000, 0, 1)
                   + '----- Epoch[003/003], Train Loss: 2.0, time: 1.2.3\n')
    found = runs.read_run(folder)
    assert [record['epoch'] for record in found.records] == [1, 2] and found.seconds == {1: 30.5, 2: 30.5}
    assert len(found.steps) == 4


@pytest.mark.parametrize('text, said', [
    ('- 1', 'found list, expected keys'), ('a: &a [*a]', 'alias'), ('[' * 10_000, 'nested more than 30 deep'),
    ('a: ' + '9' * 5000, 'config.yaml')])
def test_a_config_that_is_none(make_run, text, said):
    folder = make_run('a', 1)
    (folder / 'config.yaml').write_text(text)
    with pytest.raises(InputError, match=said):
        runs.read_run(folder)


def test_several_runs(make_run, check_page, tmp_path, capsys):
    first = make_run('x/run', 3)
    second = make_run('y/run', 1, 'AUG.MIXUP', '0.8', 'TRAIN.BASE_LR', '0.25')
    assert report.main([str(first), str(second), '--images=0']) == 0
    out = capsys.readouterr().out
    assert 'x/run: finished: 3 epochs' in out and 'y/run: epoch 1 of 3' in out
    text, _ = check_page(first / 'runs.html')
    assert 'AUG.MIXUP 0.0 0.8' in text and 'TRAIN.BASE_LR 0.0005 0.25' in text and 'DATA.CROP_PCT' not in text
    assert '25.00% (mixed images)' in text and 'cannot be compared with validation (y/run)' in text
    assert 'y/run: train, on mixed images' in text and 'x/run: train' in text


@pytest.mark.parametrize('null', ['null', 'NaN', '-Infinity'])
def test_values_that_are_not_finite(make_run, check_page, tmp_path, null):
    """A gap in the curve, and the last epoch's value is not that of an epoch before."""
    folder = make_run('a', 0)
    (folder / 'log.jsonl').write_text(''.join(
        json.dumps({'epoch': epoch, **RECORD, 'val_loss': 'x' if epoch in (2, 4) else 1.5, 'val_top5': 0.25}).replace(
            '"x"', null) + '\n' for epoch in range(1, 5)))
    found = runs.read_run(folder)
    assert [math.isnan(value) for _, value in found.series('val_loss')] == [False, True, False, True]
    assert found.best('val_loss')['epoch'] == 1 and len(found.records) == 4
    run_page.write([folder], tmp_path / 'page.html', images=0)
    text, _ = check_page(tmp_path / 'page.html')
    assert 'validation loss, last epoch not finite ' in text and 'validation top-5, last epoch 25.00% ' in text
    assert 'nan' not in (tmp_path / 'page.html').read_text()
    if panels.plot_curves([found], tmp_path / 'c.png').endswith('.png'):
        assert (tmp_path / 'c.png').stat().st_size > 1000


def test_a_value_of_an_earlier_epoch_says_which(make_run, check_page, tmp_path):
    """Where the last epochs were not evaluated."""
    folder = make_run('a', 2)
    with open(folder / 'log.jsonl', 'a') as file:
        file.write(json.dumps({'epoch': 3, 'train_loss': 1.75}) + '\n')
    run_page.write([folder], tmp_path / 'page.html', images=0)
    text, _ = check_page(tmp_path / 'page.html')
    assert 'validation loss, last epoch 1.5000 (epoch 2)' in text and 'train loss, last epoch 1.7500 train' in text


def test_one_epoch(make_run, check_page, tmp_path):
    folder = make_run('a', 1, 'TRAIN.EPOCHS', 1)
    run_page.write([folder], tmp_path / 'page.html', images=0)
    text, _ = check_page(tmp_path / 'page.html')
    assert '1 of 1 finished: 1 epoch ' in text and 'of 1 epoch, without evaluation' in text


def test_without_a_config(make_run, check_page, tmp_path):
    """How long the run was to be is not known: it is not called finished."""
    folder = make_run('a', 2)
    (folder / 'config.yaml').unlink()
    run_page.write([folder], tmp_path / 'page.html', images=0)
    text, _ = check_page(tmp_path / 'page.html')
    assert '2 of ? epoch 2 of 3, step 3 of 4' in text and 'finished' not in text
    assert 'The model of this run is not known here' in text and 'TRAIN.EPOCHS' not in text


def test_names_of_runs(make_run, tmp_path, monkeypatch):
    places = ['a/x/run', 'b/x/run', 'b/y/run', 'other']
    folders = [make_run(place, 1) for place in places]
    assert [run.name for run in runs.read_runs(folders)] == ['a/x/run', 'b/x/run', 'y/run', 'other']
    monkeypatch.chdir(folders[3])
    assert [run.name for run in runs.read_runs([Path('.')])] == ['other']
    with pytest.raises(InputError, match=r'^\.: found 2 times, expected different runs'):
        runs.read_runs([Path('.'), folders[0], folders[3]])


@pytest.mark.parametrize('count', [1, 8, 9, 30])
def test_every_run_has_a_color_of_its_own(make_run, count):
    found = runs.read_runs([make_run(f'run{i}', 1) for i in range(1)]) * count
    throughput = next(panel for panel in panels.panels(found) if panel.title == 'Throughput')
    colors = [series.color for series in throughput.series]
    assert len(set(colors)) == count and all(re.fullmatch('#[0-9a-f]{6}', color) for color in colors)


def test_refresher(make_run, check_page, monkeypatch):
    folder = make_run('a', 2)
    refresh = run_page.Refresher(folder)
    monkeypatch.setattr(run_page, 'PLOT_SECONDS', 1e9)
    assert refresh() == f'page: {folder / "run.html"}' and not (folder / 'curves.png').exists()
    assert '2 of 3' in check_page(folder / 'run.html')[0]
    said = refresh(finished=True)
    assert 'curves' in said and 'no weights are saved yet' in check_page(folder / 'run.html')[0]
    (folder / 'config.yaml').write_text('a: [')
    assert refresh().startswith('page: not written (InputError: ')


def test_old_names_are_read(tmp_path):
    (tmp_path / 'log.jsonl').write_text('{"epoch": 1, "pictures_per_second": 5.0}\n')
    assert runs.read_run(tmp_path).series('images_per_second') == [(1, 5.0)]


def test_differences():
    found = runs.differences([{'A': 1, 'B': [1], 'C': 2, 'OUTPUT_DIR': 'x'}, {'A': 1, 'B': [2], 'OUTPUT_DIR': 'y'}])
    assert found == [('B', [[1], [2]]), ('C', [2, None])]


def test_curves_png(make_run, tmp_path):
    pytest.importorskip('matplotlib')
    found = runs.read_runs([make_run('a', 3)])
    assert [panel.title for panel in panels.panels(found)] == [
        'Loss', 'Top-1 accuracy', 'Top-5 accuracy', 'Learning rate', 'Gradient norm', 'Throughput',
        'Time per micro-batch', 'Memory']
    assert panels.plot_curves(found, tmp_path / 'c.png') == f'curves: {tmp_path / "c.png"}'
    with Image.open(tmp_path / 'c.png') as image:
        assert image.size == (1600, 640)
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'log.jsonl').write_text('')
    assert 'no epoch is finished' in panels.plot_curves(runs.read_runs([tmp_path / 'b']), tmp_path / 'd.png')


def test_attention_of_a_run(make_run, check_page, tmp_path):
    opts = {'DATA.IMAGE_SIZE': 32, 'MODEL.PATCH_SIZE': 8, 'MODEL.EMBED_DIM': 24, 'MODEL.DEPTH': 3, 'MODEL.NUM_HEADS': 3,
            'MODEL.NUM_CLASSES': 5}
    folder = make_run('a', 1, *(word for pair in opts.items() for word in pair))
    model = small_model('cait_xxs24_224', image_size=32, patch_size=8, embed_dim=24, num_heads=3)
    paddle.save(model.state_dict(), str(folder / 'best.pdparams'))
    run_page.write([folder], tmp_path / 'page.html', images=3)
    assert 'Not shown' in check_page(tmp_path / 'page.html')[0]  # the images are not there
    rng = np.random.default_rng(0)
    for index in range(7):
        Image.fromarray(rng.integers(0, 255, (40, 33, 3), np.uint8)).save(tmp_path / f'{index}.png')
    (tmp_path / 'val_list.txt').write_text(''.join(f'{index}.png {index % 5}\n' for index in range(7)))
    run_page.write([folder], tmp_path / 'page.html', images=3)
    _, images = check_page(tmp_path / 'page.html')
    assert [image.size for image in images] == [(454, 168)] * 3 + [(460, 60)]
    text = check_page(tmp_path / 'page.html')[0]
    assert re.search(r'class \d [\d.]+% label: class 0 ', text) and 'label: class 1 colors: 0 to ' in text


def test_predictions(tmp_path, made, check_page, capsys):
    one = made()
    one.write(tmp_path / 'p.csv')
    (tmp_path / 'l.txt').write_text(''.join(f'{path} {label}\n' for path, label in zip(one.paths, one.labels)))
    (tmp_path / 'names.txt').write_text(''.join(f'class of {k}\n' for k in range(12)))
    words = [str(tmp_path / 'p.csv'), '--labels', str(tmp_path / 'l.txt')]
    assert report.main([*words, '--compare', str(tmp_path / 'p.csv'), '--label-map', str(tmp_path / 'names.txt')]) == 0
    out = capsys.readouterr().out
    assert 'top-1 0.8000' in out and "0 of 40 decisions changed: 0 lost, 0 gained, McNemar's p = 1" in out
    text, images = check_page(tmp_path / 'p_report' / 'report.html')
    assert 'class of 3' in text and 'the head has 12' in text and len(images) == 8
    assert yaml.safe_load((tmp_path / 'p_report' / 'report.json').read_text())['facts']['images in the list'] == '40'


@pytest.mark.parametrize('words, match', [
    (['nowhere'], 'nowhere: no such file'), (['{}'], 'found neither config.yaml nor log.jsonl'),
    (['{}', '--labels', 'x'], '--labels: belongs to a file of predictions'), (['a.csv', 'b.csv'], 'found 2 files'),
    (['{}', '--images=-1'], '--images: found -1'), (['{}', '--label-map', 'x'], '--label-map: belongs to a file'),
    (['{}', '--num-classes=3'], '--num-classes: belongs to a file'), (['a.csv', '--num-classes=-3'], 'found -3'),
    (['a.csv', '--images=2'], '--images: belongs to the folder of a run, found a file of predictions, a.csv')])
def test_faults(tmp_path, words, match):
    with pytest.raises(InputError, match=match):
        report.main([word.format(tmp_path) for word in words])
