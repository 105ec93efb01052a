# SPDX-License-Identifier: Apache-2.0
"""infer.py: sizes, outputs that cannot be written, files that another run wrote, workers that outlive nobody."""
from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import is_installed, need, small, small_data

from CaiT.accelerate import accelerate
from CaiT.deploy import feed
from CaiT.deploy.engines import Options
from CaiT.deploy.export import export
from CaiT.deploy.paddle2 import metadata_from_config
from CaiT.deploy.predictor import Prediction, Predictor
from CaiT.deploy.results import ResultFile
from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ('paddle', 'onnxruntime', 'openvino')


@pytest.fixture(scope='module')
def exported(cait, checks, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('exported')
    export(cait, folder, 'x', small_data(), checks, {'file': 'w', 'sha256': ''},
           [(backend, 'fp32', kind) for backend in filter(is_installed, BACKENDS) for kind in ('float', 'uint8')])
    return folder


def infer(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, 'infer.py', *words], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, **environment})


# Images of another size

@pytest.mark.parametrize('kind', ['float', 'uint8'])
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('width, height, count', [(64, 64, 1), (36, 36, 2), (32, 40, 8), (16, 64, 1)])
def test_another_size_is_refused(exported, backend, kind, width, height, count):
    need(backend)
    shape = (count, height, width, 3) if kind == 'uint8' else (count, 3, height, width)
    predictor = Predictor(str(exported), backend, Options(input=kind))
    with pytest.raises(InputError, match=f'found images of {width}x{height} pixels, shape .* expected 32x32 pixels'):
        predictor.logits(np.zeros(shape, np.uint8 if kind == 'uint8' else np.float32))


@pytest.mark.parametrize('kind', ['float', 'uint8'])
@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size', [16384, 31])
def test_metadata_of_another_size_is_refused_before_images_are_decoded(exported, tmp_path, backend, kind, size):
    """To 16,384 pixels a side one takes three gigabytes."""
    need(backend)
    copy = shutil.copytree(exported, tmp_path / 'm')
    values = json.loads((copy / 'metadata.json').read_text(encoding='utf-8'))
    values['data']['image_size'] = size
    (copy / 'metadata.json').write_text(json.dumps(values), encoding='utf-8')
    with pytest.raises(InputError, match=f': found images of {size}x{size} pixels, shape .* expected 32x32 pixels'):
        Predictor(str(copy), backend, Options(input=kind))


@pytest.mark.parametrize('backend', BACKENDS)
def test_another_type_or_layout_is_refused(exported, backend):
    need(backend)
    predictor = Predictor(str(exported), backend, Options())
    for images, message in ((np.zeros((1, 3, 32, 32)), 'found images of type float64, expected float32'),
                            (np.zeros((1, 3, 32, 32), np.uint8), 'found images of type uint8, expected float32'),
                            (np.zeros((1, 32, 32, 3), np.float32), r'shape \[32, 32, 3\], expected 32x32'),
                            (np.zeros((3, 32, 32), np.float32), r'found images of shape \[32, 32\], expected'),
                            (np.zeros((0, 3, 32, 32), np.float32), 'found no images')):
        with pytest.raises(InputError, match=message):
            predictor.logits(images)


@pytest.mark.parametrize('fast', [False, True])
@pytest.mark.parametrize('family', ['cait', 'vit'])
def test_the_dynamic_model_refuses_another_size(family, fast):
    model = small(family)
    if fast:
        accelerate(model)
    for height, width in ((36, 36), (16, 64), (24, 32)):
        with pytest.raises(InputError, match=f'images: found {width}x{height} pixels, expected 32x32'):
            model(paddle.zeros([4, 3, height, width]))


# A graph without metadata

def test_a_graph_of_paddle_3_with_a_configuration(exported, cait, checks, tmp_path):
    for name in ('inference.json', 'inference.pdiparams'):
        shutil.copy(exported / name, tmp_path)
    config = tmp_path / 'config.yaml'
    config.write_text('MODEL: {NAME: cait_xxs24_224, NUM_CLASSES: 10}\nDATA: {IMAGE_SIZE: 32, CROP_PCT: 1.0}\n',
                      encoding='utf-8')
    options = Options()
    meta = metadata_from_config(tmp_path, config, 'paddle', options)
    found = Predictor(str(tmp_path), 'paddle', options, meta).logits(checks.array('float'))
    expected = cait(paddle.to_tensor(checks.array('float'))).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    with pytest.raises(InputError, match='metadata.json: no such file; for a model of Paddle without one'):
        Predictor(str(tmp_path), 'paddle', options)
    config.write_text('MODEL: {NUM_CLASSES: 10}\nDATA: {IMAGE_SIZE: 64}\n', encoding='utf-8')
    meta = metadata_from_config(tmp_path, config, 'paddle', options)
    with pytest.raises(InputError, match='found images of 64x64 pixels, .* expected 32x32'):
        Predictor(str(tmp_path), 'paddle', options, meta)
    shutil.copy(exported / 'inference.json', tmp_path / 'again.json')
    with pytest.raises(InputError, match='found 2 .pdmodel and .json files, expected one'):
        metadata_from_config(tmp_path, config, 'paddle', options)


# Flags

@pytest.mark.parametrize('flag, message', [
    ('--cpu-threads=100000', '--cpu-threads: found 100000, expected at most'),
    ('--topk=-1', '--topk: found -1, expected at least 0'),
    ('--batch-size=0', '--batch-size: found 0, expected at least 1'),
    ('--cpu-threads=4097', '--cpu-threads: found 4097, expected at most'),
    ('--use-tensorrt=True', '--use-tensorrt True: has no effect on a CPU'),
    ('--precision=fp16', "--precision: found 'fp16'"),
    ('--batch-size=1000000000', '--batch-size: found 1000000000, with which a batch of images of 32x32 pixels takes'),
    ('--topk=1000000000', '--topk: found 1000000000, expected at most 1000 or the classes of the model'),
    ('--workers=1000000000', '--workers: found 1000000000, with which the worker processes take 31,457,280.0 GB')])
def test_flags_that_cannot_take_effect(exported, images, flag, message):
    done = infer(f'--model-dir={exported}', f'--img-path={images[0]}', flag)
    assert done.returncode == 2 and done.stderr.startswith(f'error: {message}') and done.stderr.count('\n') == 1


def test_more_workers_than_the_system_starts(monkeypatch):
    def start(process):
        raise OSError(errno.EAGAIN, 'Resource temporarily unavailable')
    monkeypatch.setattr(multiprocessing.process.BaseProcess, 'start', start)
    with pytest.raises(InputError, match='^--workers: found 2, more processes than this system starts '
                                         r'\(Resource temporarily unavailable\); expected fewer$'):
        list(feed.decode_all(['a.png'], len, 2))


@pytest.mark.parametrize('variable', ['XDG_CACHE_HOME', 'HOME'])
def test_openvino_without_a_cache(exported, images, variable):
    need('openvino')
    environment = {'XDG_CACHE_HOME': '', variable: '/proc/1/nowhere'}
    done = infer(f'--model-dir={exported}', '--backend=openvino', f'--img-path={images[0]}', **environment)
    assert done.returncode == 0 and 'image_name: ' in done.stdout, done.stderr
    assert re.match(r'openvino: compiled models are not kept: /proc/1/nowhere/\S+: ', done.stderr)


@pytest.mark.parametrize('closed', ['2>&-', '>&-', '<&- >&- 2>&-', '2>/dev/full'])
def test_streams_that_are_closed(exported, images, tmp_path, closed):
    table = tmp_path / 'a.csv'
    shell = f'exec "$@" {closed}'
    done = subprocess.run(['bash', '-c', shell, 'bash', sys.executable, 'infer.py', f'--model-dir={exported}',
                           f'--img-path={images[0]}', f'--output={table}'], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '') and table.read_text().count('\n') == 2


# Output

@pytest.mark.parametrize('where, reason', [
    ('file/r.csv', 'cannot be written: (File exists|Not a directory)'),
    ('d.csv', 'is no regular file, expected a new file or one to continue')])
def test_a_place_that_cannot_be_written(exported, images, tmp_path, where, reason):
    (tmp_path / 'file').write_text('x', encoding='utf-8')
    (tmp_path / 'd.csv').mkdir()
    done = infer(f'--model-dir={exported}', f'--img-path={images[0]}', f'--output={tmp_path / where}')
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert re.match(f'error: --output {tmp_path / where}: {reason}', done.stderr.splitlines()[-1])
    assert (tmp_path / 'file').read_text(encoding='utf-8') == 'x'


class Full:
    """A file whose disk is full after ``space`` bytes, in the middle of a line."""

    def __init__(self, file, space: int) -> None:
        self.file, self.space = file, space

    def write(self, data: bytes) -> int:
        if not self.space:
            raise OSError(errno.ENOSPC, 'No space left on device')
        written = self.file.write(data[:self.space])
        self.space -= written
        return written

    def __getattr__(self, name: str):
        return getattr(self.file, name)


@pytest.mark.parametrize('ending', ['.csv', '.jsonl'])
@pytest.mark.parametrize('space', [0, 3, 25, 60, 211])
def test_no_half_line_stays_on_a_full_disk(tmp_path, ending, space):
    path = tmp_path / f'r{ending}'
    results = ResultFile(str(path), 1, False)
    whole = [path.read_bytes()]
    results._file = Full(results._file, space)
    with pytest.raises(InputError, match=f'--output .*r{ending}: cannot be written: No space left on device'):
        for index in range(9):
            results.write(Prediction(f'images/{index}.png', [(index, 0.5)]), str)
            whole.append(path.read_bytes())
    assert path.read_bytes() == whole[-1] and (space < 211 or len(whole) > 1)
    results._file.file.close()
    again = ResultFile(str(path), 1, True)
    assert len(again.done) == len(whole) - 1
    again.close()


RUN = {'model': 'x', 'weights': {'sha256': '0'}, 'data': {'mean': (0.5, 0.5)}, 'precision': 'fp32'}


@pytest.mark.parametrize('key, value', [('weights', {'sha256': '1'}), ('precision', 'bf16'), ('data', {'mean': [0, 1]}),
                                        ('model', 'y')])
def test_a_file_of_another_run_is_not_gone_on_with(tmp_path, key, value):
    path = tmp_path / 'r.csv'
    results = ResultFile(str(path), 1, False, RUN)
    results.write(Prediction('a', [(1, 0.5)]), str)
    results.close()
    before = path.read_bytes() + b'half'
    path.write_bytes(before)
    with pytest.raises(InputError, match=f'r.csv: was written with {key} .*, this run has .*; give the same'):
        ResultFile(str(path), 1, True, {**RUN, key: value})
    assert path.read_bytes() == before
    ResultFile(str(path), 1, True, RUN).close()
    assert path.read_bytes() == before[:-4]


def test_a_file_of_an_unknown_run_is_gone_on_with_and_that_is_said(exported, images, tmp_path):
    out = tmp_path / 'r.jsonl'
    words = (f'--model-dir={exported}', f'--output={out}', '--img-path', *images)
    assert infer(*words[:2], '--img-path', *images[:2]).returncode == 0
    assert json.loads((tmp_path / 'r.jsonl.run.json').read_text(encoding='utf-8'))['model'] == 'x'
    done = infer(*words, '--resume', '--input=uint8')
    assert done.returncode == 2 and 'was written with files ' in done.stderr
    (tmp_path / 'r.jsonl.run.json').unlink()
    done = infer(*words, '--resume')
    assert done.returncode == 0 and 'nothing beside it says which model wrote it' in done.stdout
    assert len(out.read_text(encoding='utf-8').splitlines()) == 5


def test_two_runs_do_not_write_one_file(tmp_path):
    first = ResultFile(str(tmp_path / 'r.csv'), 1, False)
    with pytest.raises(InputError, match='another run is writing to it|exists'):
        ResultFile(str(tmp_path / 'r.csv'), 1, True)
    first.close()
    ResultFile(str(tmp_path / 'r.csv'), 1, True).close()


# Workers

def of_this_test(mark: str) -> list:
    """Processes whose environment has ``mark``."""
    found = []
    for process in filter(str.isdigit, os.listdir('/proc')):
        try:
            if mark.encode() in Path(f'/proc/{process}/environ').read_bytes():
                found.append(int(process))
        except OSError:
            pass
    return found


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs /proc')
@pytest.mark.parametrize('name, moment', [('SIGTERM', 'rows'), ('SIGKILL', 'rows'), ('SIGHUP', 'rows'),
                                          ('SIGINT', 'rows'), ('SIGINT', 'workers start')])
def test_workers_end_with_the_program(exported, images, tmp_path, name, moment):
    """Ctrl-C in a terminal goes to all processes; only the first one says something."""
    for index in range(3000):
        os.symlink(images[index % len(images)], tmp_path / f'{index}.png')
    mark, out, number = f'ENDS={os.getpid()}{name}{moment[:4]}', tmp_path / 'r.csv', getattr(signal, name)
    process = subprocess.Popen([sys.executable, 'infer.py', f'--model-dir={exported}', f'--img-path={tmp_path}',
                                f'--output={out}', '--workers=2'], cwd=ROOT, stdout=subprocess.DEVNULL, text=True,
                               stderr=subprocess.PIPE, env={**os.environ, 'ENDS': mark[5:]}, start_new_session=True)
    while process.poll() is None and (len(of_this_test(mark)) < 4 or moment == 'rows' and not (
            out.exists() and out.stat().st_size > 2000)):
        time.sleep(0.01)
    if name == 'SIGINT':
        os.killpg(process.pid, number)
        assert (process.communicate()[1], process.returncode) == ('interrupted\n', 130)
    else:
        process.send_signal(number)
        assert 'Traceback' not in process.communicate()[1] and process.returncode == -number
    deadline = time.monotonic() + 2
    while of_this_test(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert of_this_test(mark) == []
