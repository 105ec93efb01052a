# SPDX-License-Identifier: Apache-2.0
"""Two processes on gloo, started as users start them, against one process with the same global batch."""
from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from CaiT.training import checkpoint
from CaiT.training.logger import RunLogger
from tests.training.conftest import CAIT, SMALL, small_config

ROOT = Path(__file__).resolve().parents[2]
# No mixing, no dropping: those draw per batch or per process. Micro-batches and recomputation go their own way through
# the averaging of gradients.
SHARED = ['TRAIN.ACCUM_ITER', '2', 'TRAIN.EMA_DECAY', '0.9', 'AUG.REPEATS', '3', 'AUG.AUTO_AUGMENT',
          'rand-m9-mstd0.5-inc1', 'SAVE_STEPS', '1']


def words(script, stripes, folder, batch, epochs, *opts):
    return [str(ROOT / 'CaiT' / script), '-data_path', str(stripes), '-num_classes', '3', '-batch_size', str(batch),
            '-epochs', str(epochs), '-output_dir', str(folder), '-resume', 'auto',
            '-opts', *CAIT, *SMALL, *SHARED, *opts]


def launch(stripes, folder, epochs, *opts, more=()):
    """Two processes of two images each; the launcher's own logs go beside the run. ``more``: further flags."""
    launcher = [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2',
                '--log_dir', str(folder) + '-log']
    environment = {key: value for key, value in os.environ.items() if not key.startswith(('PADDLE_', 'OMP_'))}
    flags = words('main_multi_gpu.py', stripes, folder, 2, epochs, *opts)
    return subprocess.Popen([*launcher, flags[0], *more, *flags[1:]], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def alone(stripes, folder, epochs, *opts):
    done = subprocess.run([sys.executable, *words('main_single_gpu.py', stripes, folder, 4, epochs, *opts)], cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200)
    assert done.returncode == 0, done.stdout


def assert_close(one, two):
    """The same run but for the order of sums: measured 6e-7 in the weights after 12 updates, allowed ten times that."""
    mine, theirs = (checkpoint.read(folder / 'last.pdstate') for folder in (one, two))
    for part in ('model', 'ema'):
        worst = max(np.abs(mine[part][name] - theirs[part][name]).max() for name in theirs[part])
        assert worst < 6e-6, (part, worst)
    mine, theirs = (RunLogger(folder, 'x').records() for folder in (one, two))
    assert [record['epoch'] for record in mine] == [record['epoch'] for record in theirs]
    for a, b in zip(mine, theirs):
        for key in ('train_loss', 'train_acc', 'val_loss', 'val_top1', 'val_top5', 'ema_top1', 'lr'):
            assert a[key] == pytest.approx(b[key], abs=2e-6), key


@pytest.fixture(scope='module')
def one(stripes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('one') / 'run'
    alone(stripes, folder, 2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('recompute', ['False', 'True'])
def test_two_processes_with_half_the_batch_are_one(stripes, one, tmp_path, recompute):
    """Weights, average, losses and accuracies; 11 validation images in 5s: neither padded nor counted twice."""
    folder = tmp_path / 'two'
    output, _ = (job := launch(stripes, folder, 2, 'TRAIN.RECOMPUTE', recompute)).communicate(timeout=200)
    assert job.returncode == 0, output
    assert_close(folder, one)
    assert output.count('Now training epoch 1.') == 1  # the second process neither prints nor writes
    assert len((folder / 'log.jsonl').read_text().splitlines()) == 2
    second = (tmp_path / 'two-log' / 'workerlog.1').read_text()
    assert 'training epoch' not in second and 'Error' not in second


@pytest.mark.slow
def test_two_processes_with_weighted_and_balanced_classes_are_one(stripes, tmp_path):
    (tmp_path / 'weights.txt').write_text('0.25\n1\n3.5\n')
    opts = ['TRAIN.CLASS_WEIGHTS', str(tmp_path / 'weights.txt'), 'DATA.SHUFFLE', 'balanced']
    alone(stripes, tmp_path / 'one', 1, *opts)
    output, _ = (job := launch(stripes, tmp_path / 'two', 1, *opts)).communicate(timeout=200)
    assert job.returncode == 0, output
    assert_close(tmp_path / 'two', tmp_path / 'one')


@pytest.mark.slow
@pytest.mark.parametrize('images', ['', 'val/1/01.png'], ids=['eleven images', 'one image'])
def test_predictions_are_shared_and_merged(stripes, one, tmp_path, images):
    """Of eleven images one process gets six, the other five; of one image the second gets none."""
    data = stripes / images
    more = ['-pretrained', str(one / 'best'), '-pred']
    output, _ = (job := launch(data, tmp_path / 'two', 1, more=more)).communicate(timeout=200)
    assert job.returncode == 0, output
    assert output.count('table: ') == 1
    from CaiT.training import jobs
    jobs.predict(small_config(data, pretrained=str(one / 'best'), output_dir=str(tmp_path / 'one')))
    tables = []
    for folder in ('two', 'one'):
        with open(tmp_path / folder / 'predictions.csv', newline='', encoding='utf-8') as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) == (1 if images else 11)
    for mine, theirs in zip(*tables):
        for key in ('path', 'class_id', 'class_name', 'top5_class_ids'):
            assert mine[key] == theirs[key]
        assert np.array(mine['top5_probs'].split(), float) == pytest.approx(
            np.array(theirs['top5_probs'].split(), float), abs=1e-6)


@pytest.mark.slow
def test_lines_of_an_evaluation_are_of_all_processes(stripes, one, tmp_path):
    """Two processes, two images a step: four images of both, then eight, then all eleven."""
    opts, more = ['REPORT_FREQ', '1', 'DATA.BATCH_SIZE_EVAL', '2'], ['-pretrained', str(one / 'best'), '-eval']
    output, _ = (job := launch(stripes, tmp_path / 'two', 1, *opts, more=more)).communicate(timeout=200)
    assert job.returncode == 0, output
    steps = re.findall(r'Val Step\[(\d{4})/\d{4}\], .*Avg Acc@1: (\d\.\d{4})', output)
    assert [step for step, _ in steps] == ['0000', '0001', '0002']
    assert all(float(acc) * count == pytest.approx(round(float(acc) * count), abs=1e-3)
               for (_, acc), count in zip(steps, (4, 8, 11)))  # images are counted, of both
    assert steps[-1][1] in re.findall(r'Validation Acc@1: (\d\.\d{4})', output)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_which_goes_on_with_another_number(stripes, one, tmp_path):
    folder = tmp_path / 'run'
    job = launch(stripes, folder, 2)
    while not (folder / 'last.pdstate').exists():
        assert job.poll() is None
        time.sleep(0.02)
    started = time.monotonic()
    os.kill(member(job.pid, 1), signal.SIGKILL)
    output, _ = job.communicate(timeout=60)
    assert job.returncode != 0 and time.monotonic() - started < 60
    assert 'rank 1 status failed' in output or 'rank 0 status failed' in output
    assert checkpoint.read(folder / 'last.pdstate')['progress']['epoch'] <= 2
    alone(stripes, folder, 2)
    assert_close(folder, one)


@pytest.mark.slow
def test_an_error_of_any_process_is_on_the_screen(stripes, tmp_path):
    """The seventh image of the list is broken; whoever reads it, its line is shown and the job ends."""
    broken = tmp_path / 'broken'
    shutil.copytree(stripes, broken)
    (broken / 'train/0/06.png').write_text('no image')
    started = time.monotonic()
    output, _ = (job := launch(broken, tmp_path / 'run', 2, 'AUG.REPEATS', '1')).communicate(timeout=100)
    assert job.returncode != 0 and time.monotonic() - started < 90
    assert 'line 7: image' in output and 'cannot be decoded' in output


def member(launcher, rank):
    """Process id of the launcher's process of that rank."""
    listed = subprocess.run(['pgrep', '-P', str(launcher)], stdout=subprocess.PIPE, text=True).stdout.split()
    for pid in listed:
        environment = Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
        if f'PADDLE_TRAINER_ID={rank}'.encode() in environment:
            return int(pid)
    raise AssertionError(f'no process of rank {rank} among {listed}')
