# SPDX-License-Identifier: Apache-2.0
"""Folders: prefetching, broken files, shards, resumable results."""
from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import small_data

from CaiT import infer as infer_script
from CaiT.data.transforms import eval_transform
from CaiT.deploy import feed
from CaiT.deploy.engines import Options
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Prediction, Predictor
from CaiT.deploy.progress import ProgressMeter
from CaiT.deploy.results import ResultFile
from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def folder(images, tmp_path_factory) -> Path:
    """Five images and an invalid file between them."""
    path = tmp_path_factory.mktemp('folder')
    for image in images:
        shutil.copy(image, path)
    (path / '2a.jpg').write_bytes(b'\xff\xd8\xff not an image')
    return path


@pytest.fixture(scope='module')
def exported(cait, checks, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('exported')
    export(cait, path, 'x', small_data(), checks, {'file': 'w', 'sha256': ''}, [('paddle', 'fp32', 'float')],
           [f'name, {index}' for index in range(10)])
    return str(path)


def infer(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, 'infer.py', *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize('workers', [0, 2])
def test_order_and_errors(folder, workers):
    paths = sorted(str(path) for path in folder.iterdir()) * 8
    transform = eval_transform(small_data())
    found = list(feed.decode_all(paths, transform, workers))
    assert [path for path, _ in found] == paths
    for path, array in found:
        if path.endswith('2a.jpg'):
            assert isinstance(array, InputError) and '2a.jpg' in str(array)
        else:
            assert np.array_equal(array, transform(path))


def test_batches_are_full_and_keep_errors():
    stream = [('a', 1), ('b', InputError('b')), ('c', 3), ('d', 4), ('e', InputError('e'))]
    rows = [(paths, arrays, [str(e) for e in errors]) for paths, arrays, errors in feed.batches(iter(stream), 2)]
    assert rows == [(['a', 'c'], [1, 3], ['b']), (['d'], [4], ['e'])]


def die(path: str) -> None:
    os._exit(3)


def test_a_dead_worker_is_an_input_error():
    with pytest.raises(InputError, match='a decoding process died'):
        list(feed.decode_all(['a'] * 4, die, 1))


def test_shards_are_everything_once():
    paths = [str(i) for i in range(23)]
    parts = [feed.shard(paths, f'{k}/4') for k in range(1, 5)]
    assert sorted(sum(parts, []), key=int) == paths and max(map(len, parts)) - min(map(len, parts)) == 1
    for wrong in ('0/4', '5/4', '2', 'a/b', '1/0', '-1/2', '²/3', '1/³', '1/' + '9' * 5000):
        with pytest.raises(InputError, match='expected k/n'):
            feed.shard(paths, wrong)


@pytest.mark.parametrize('ending', ['.csv', '.jsonl'])
def test_an_interrupted_file_is_resumed(tmp_path, ending):
    path, names = tmp_path / f'r{ending}', 'name, "{}"'.format
    def put(paths, resume):
        results = ResultFile(str(path), 2, resume)
        for one in paths:
            if os.path.abspath(one) not in results.done:
                results.write(Prediction(one, [(3, 0.75), (1, 0.2)]), names)
        results.close()
        return results.done
    assert put(['a', 'b,1', 'ü\n'], False) == set()
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])  # the last line was being written
    with pytest.raises(InputError, match='exists; --resume'):
        ResultFile(str(path), 2, False)
    done = put(['a', 'b,1', 'ü\n'], True)
    assert {os.path.abspath('a'), os.path.abspath('b,1')} <= done
    text = path.read_text(encoding='utf-8')
    rows = [json.loads(line) for line in text.splitlines()] if ending == '.jsonl' else list(
        csv.DictReader(io.StringIO(text, newline='')))
    assert [row['path'] for row in rows][:2] == ['a', 'b,1'] and rows[-1]['path'] == 'ü\n'
    assert float(rows[0]['prob']) == 0.75 and rows[0]['class_name_2'] == 'name, "1"'
    with pytest.raises(InputError, match='give the same --topk'):
        ResultFile(str(path), 3, True)


@pytest.mark.parametrize('name, content', [
    ('r.jsonl', '[' * 10_000 + '\n'), ('r.jsonl', '[1]\n'), ('r.jsonl', '{"path": {}}\n'),
    ('r.csv', 'path\n"' + 'x' * 200_000 + '"\n'), ('r.csv', 'no,predictions\n1,2\n'), ('r.csv', 'notes of mine'),
    ('r.jsonl', 'notes of mine'), ('r.csv', 'a "quote\nof mine\n'), ('r.jsonl', '\n\nnotes')], ids=range(9))
def test_a_file_that_is_none_is_not_resumed(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match='not a file of predictions, cannot be resumed|give the same --topk') as error:
        ResultFile(str(tmp_path / name), 1, True)
    assert (tmp_path / name).read_text() == content and len(str(error.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize('name, content', [
    ('r.jsonl', '{"pa'), ('r.jsonl', '{"path": "half'), ('r.jsonl', '\n'), ('r.csv', 'path,class_'), ('r.csv', 'p')])
def test_a_file_of_half_a_line_is_begun_anew(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    results = ResultFile(str(tmp_path / name), 1, True)
    results.write(Prediction('a', [(3, 0.75)]), str)
    results.close()
    assert (tmp_path / name).read_text().strip().count('\n') == (name == 'r.csv')
    assert ResultFile(str(tmp_path / name), 1, True).done == {os.path.abspath('a')}


@pytest.mark.parametrize('resume', [False, True])
def test_a_run_that_was_faster_keeps_its_file(tmp_path, monkeypatch, resume):
    """It has written between the first look at the file and the lock."""
    path = tmp_path / 'r.csv'
    monkeypatch.setattr(ResultFile, '_lock', lambda _: path.write_text('path,\na,\n'))
    with pytest.raises(InputError, match='r.csv: another run has written to it; name another file$'):
        ResultFile(str(path), 1, resume)
    assert path.read_text() == 'path,\na,\n'


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir])
def test_output_that_is_no_file(tmp_path, make):
    """Opening a FIFO would wait for ever."""
    make(tmp_path / 'r.csv')
    with pytest.raises(InputError, match='is no regular file'):
        ResultFile(str(tmp_path / 'r.csv'), 1, False)


def test_nothing_that_could_be_decoded_is_no_speed():
    """The engine never ran: zero, not a division by zero."""
    progress = ProgressMeter(3)
    progress.step(3)
    assert progress.images_per_second == 0 and progress.summary().startswith('3 images in 0.0 s, 0.0 images/s')


def test_progress_counts_and_measures(monkeypatch):
    now = [10.0]
    monkeypatch.setattr('time.perf_counter', lambda: now[0])
    stream = io.StringIO()
    stream.isatty = lambda: True
    progress = ProgressMeter(8, stream)
    for start, end in ((10, 12), (12.5, 13)):
        now[0] = start
        with progress:
            now[0] = end
    now[0] = 14
    progress.step(4)
    assert '4/8  1.0 images/s  ETA 0:00:04' in stream.getvalue()
    now[0] = 15
    assert progress.utilization == 0.5 and progress.images_per_second == 0.8


def test_folder_from_the_command_line(exported, folder, tmp_path):
    out = tmp_path / 'r.jsonl'
    first = infer('--model-dir', exported, '--img-path', str(folder), '--output', str(out), '--shard', '1/2',
                  '--workers', '1', '--topk', '2')
    assert first.returncode == 0 and 'engine busy' in first.stdout, first.stderr
    second = infer('--model-dir', exported, '--img-path', str(folder), '--output', str(out), '--resume', '--topk', '2')
    assert second.returncode == 1 and '1 of 3 images could not be decoded' in second.stderr
    assert second.stderr.count('left out: ') == 1 and '3 images are done already' in second.stdout
    rows = [json.loads(line) for line in out.read_text(encoding='utf-8').splitlines()]
    assert sorted(Path(row['path']).name for row in rows) == [f'{i}.png' for i in range(5)]
    predictor = Predictor(exported, 'paddle', Options())
    for expected in predictor.predict([row['path'] for row in rows], 2):
        row = next(row for row in rows if row['path'] == expected.path)
        assert row['class_id'] == expected.best[0][0] and row['class_name'] == f'name, {row["class_id"]}'
        assert abs(row['prob'] - expected.best[0][1]) < 1e-5


@pytest.mark.slow
def test_memory_is_flat_over_twenty_thousand_images(exported, images):
    predictor = Predictor(exported, 'paddle', Options())
    memory = {}
    for index, _ in enumerate(predictor.predict(images * 4000, workers=1)):
        if index in (2000, 19999):
            with open('/proc/self/statm', encoding='ascii') as file:
                memory[index] = int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') >> 20
    assert memory[19999] - memory[2000] < 20  # MiB


def test_a_file_has_the_five_most_probable_classes_without_topk(exported, images, tmp_path, monkeypatch):
    """``--topk`` adds columns; the columns top5_… are always whole."""
    table = tmp_path / 'r.csv'
    monkeypatch.setattr(sys, 'argv', ['infer', f'--model-dir={exported}', '--img-path', images[0],
                                      f'--output={table}'])
    assert infer_script.main() == 0
    row, = csv.DictReader(table.open(newline=''))
    expected, = Predictor(exported, 'paddle', Options()).predict([images[0]], topk=5)
    assert row['top5_class_ids'] == ' '.join(str(class_id) for class_id, _ in expected.best)
    assert len(row['top5_probs'].split()) == 5 and 'class_id_2' not in row


def test_other_names_of_the_classes_are_another_run(exported):
    """A resumed file would hold two names for one class."""
    predictor = Predictor(exported, 'paddle', Options())
    found = predictor.identity()
    assert found['class_names'] == [f'name, {index}' for index in range(10)]
    assert set(found) == {'model', 'weights', 'data', 'files', 'class_names', 'backend', 'precision', 'input'}


def test_a_file_of_an_earlier_version_keeps_its_columns(tmp_path):
    """It had no columns of the five best classes."""
    path = tmp_path / 'r.csv'
    path.write_text('path,class_id,class_name,prob\na,3,three,0.5\n')
    results = ResultFile(str(path), 1, True)
    assert results.done == {os.path.abspath('a')}
    results.write(Prediction('b', [(2, 0.75), (1, 0.2)]), str)
    results.close()
    assert list(csv.DictReader(path.open(newline='')))[1] == {
        'path': 'b', 'class_id': '2', 'class_name': '2', 'prob': '0.75'}
