# SPDX-License-Identifier: Apache-2.0
"""infer --resume goes on with a file that somebody edited, or names the line: at its end each image has one row."""
from __future__ import annotations

import csv
import json
import os
import sys

import pytest

from CaiT import infer
from CaiT.data.text import csv_line, json_line
from CaiT.deploy import resumed_rows
from CaiT.deploy.predictor import Prediction
from CaiT.deploy.results import ResultFile
from CaiT.errors import InputError

NAMES = ['a.png', 'b,c.png', 'd\ne.png', 'f"g.png', 'h.png']
BEST = [(3, 0.5), (1, 0.25), (0, 0.125)]


def written(path, names=NAMES, topk=1, multi_label=False):
    """The lines of a file of predictions."""
    results = ResultFile(str(path), topk, False, multi_label=multi_label)
    for name in names:
        results.write(Prediction(name, BEST, '3 1' if multi_label else None), str)
    results.close()
    return path.read_bytes()


def resumed(path, topk=1, multi_label=False):
    results = ResultFile(str(path), topk, True, multi_label=multi_label)
    results.close()
    assert all(map(os.path.isabs, results.done))
    return {os.path.relpath(path) for path in results.done}


def refused(path, content, **options):
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        resumed(path, **options)
    assert path.read_bytes() == content  # nothing of the user's is cut off
    message = str(caught.value)
    assert message.startswith(f'--output {path}: ') and '\n' not in message
    return message[len(f'--output {path}: not a file of predictions, cannot be resumed ('):].partition('); mend or')[0]


@pytest.mark.parametrize('ending', ['csv', 'jsonl'])
@pytest.mark.parametrize('topk, multi_label', [(1, False), (2, False), (5, True)])
def test_a_whole_file_and_one_that_ends_in_a_row(tmp_path, ending, topk, multi_label):
    path = tmp_path / f'r.{ending}'
    whole = written(path, topk=topk, multi_label=multi_label)
    assert resumed(path, topk, multi_label) == set(NAMES) and path.read_bytes() == whole
    starts = [0] + [written(tmp_path / f'{n}.{ending}', NAMES[:n], topk, multi_label) for n in range(6)]
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        done = max((n for n in range(6) if len(starts[n + 1]) <= size), default=0)
        assert resumed(path, topk, multi_label) == set(NAMES[:done]), size
        assert path.read_bytes() == (starts[done + 1] if ending == 'jsonl' or size >= len(starts[1])
                                     else csv_line(ResultFile(str(tmp_path / 'x.csv'), topk, True,
                                                              multi_label=multi_label).columns).encode())


ROW, HEAD = 'a.png,3,3,0.5,3 1 0,0.5 0.25 0.125\n', 'path,class_id,class_name,prob,top5_class_ids,top5_probs\n'
GOOD = 'z.png,3,3,0.5,3 1 0,0.5 0.25 0.125\n'


@pytest.mark.parametrize('row, reason', [
    ('a.png,3,3,0.\n', 'line 2: found 4 columns, expected 6'), ('a.p\n', 'line 2: found 1 columns, expected 6'),
    (ROW[:-1] + ',more\n', 'line 2: found 7 columns, expected 6'),
    (ROW.replace('0.5,', 'nan,', 1), 'line 2: probability nan, expected 0 to 1'),
    (ROW.replace('0.25', 'NaN'), 'line 2: probability NaN, expected 0 to 1'),
    (ROW.replace('0.5,', '1e3,', 1), 'line 2: probability 1e3, expected 0 to 1'),
    (ROW.replace('0.5,', ',', 1), "line 2: could not convert string to float: ''"),
    (ROW.replace('0.5,', '0.25,', 1), 'line 2: class_id and prob: found 3 and 0.25, in top5_class_ids and top5_probs 3 '
                                      'and 0.5'),
    (ROW.replace(',3,3', ',4,3'), 'line 2: class_id and prob: found 4 and 0.5, in top5_class_ids'),
    (ROW.replace(',3,3', ',three,3'), "line 2: invalid literal for int() with base 10: 'three'"),
    (ROW.replace('3 1 0', '3 1 -4'), 'line 2: a class id below 0'),
    (ROW.replace('3 1 0', '3 1'), 'line 2: 2 classes with 3 probabilities'),
    (ROW.replace(',3,3', ',9999999999,3'), 'line 2: class id 9999999999'),
    (ROW[5:], 'line 2: no path'), (HEAD, "line 2: invalid literal for int() with base 10: 'top5_class_ids'"),
    (GOOD, 'line 3: image '), ('./x/../z.png' + GOOD[5:], 'line 3: image '),
    ('"a.png' + ROW[5:], 'line 2: several rows in one: a quote or a line end is damaged'),
    ('"a.png"x' + ROW[5:], "line 2: ',' expected after '\"'"), ('a\0.png' + ROW[5:], 'line 2: '),
    ('a.png,3\r' + ROW, 'line 2: found 2 rows, expected one'),
    ('"p\nq.png",3,3,0.5\n', 'line 2: found 4 columns'), ('"' + 'x' * 200_000 + '"' + ROW[5:], 'line 2: field larger')])
def test_a_spoilt_row_of_a_csv(tmp_path, row, reason):
    assert refused(tmp_path / 'r.csv', (HEAD + row + GOOD).encode()).startswith(reason)


@pytest.mark.parametrize('content, reason', [
    (HEAD.replace('\n', '\r') + GOOD.replace('\n', '\r'), 'line 1: found '), ('my notes', "line 1: found 'my notes'"),
    (HEAD + ROW.replace('\n', '\r') + GOOD.replace('\n', '\r'), 'line 2: several rows in one'),
    (HEAD + ROW.replace('\n', '\r') + GOOD, 'line 2: found 2 rows, expected one'),
    (HEAD + '"' + 'x\n' * resumed_rows.MAX_ROW, 'line 2: a row of more than 16,777,216 bytes')])
def test_a_csv_of_other_line_ends(tmp_path, content, reason):
    assert refused(tmp_path / 'r.csv', content.encode()).startswith(reason)


def line(**changes):
    row = dict(path='a.png', class_id=3, class_name='3', prob=0.5, top5_class_ids='3 1', top5_probs='0.5 0.25')
    return json_line({key: value for key, value in {**row, **changes}.items() if value is not ...})


@pytest.mark.parametrize('row, reason', [
    (line()[:30] + '\n', 'line 2: not JSON: '), (line()[:20] + line(), 'line 2: not JSON: '),
    (line(prob=float('nan')), 'line 2: not JSON: NaN'), (line(prob='x'), 'line 2: could not convert'),
    (line(prob=2), 'line 2: probability 2, expected 0 to 1'), (line(prob=None), 'line 2: float() argument'),
    (line(extra=1), 'line 2: found 7 columns, expected 6'), (line(prob=...), 'line 2: found 5 columns, expected 6'),
    (line(prob=..., other=1), 'line 2: found no prob'), (line(path=5), 'line 2: a path that is no text'),
    (line(path=''), 'line 2: no path'), (line(class_id=4), 'line 2: class_id and prob: found 4'),
    (line(top5_probs=[0.5]), "line 2: 'list' object has no"), ('[' * 5000 + '\n', 'line 2: JSON nested 5000 deep'),
    ('[1, 2, 3, 4, 5, 6]\n', 'line 2: found no path'), ('7\n', 'line 2: '), ('"abcdef"\n', 'line 2: found no path'),
    (line().replace('{', '{"path": "b.png", ', 1), 'line 2: not JSON: the key path twice'),
    (line(path='z.png'), 'line 2: image '), ('\r' + line()[:-1] + '\r', 'line 2: ')])
def test_a_spoilt_row_of_a_jsonl(tmp_path, row, reason):
    assert refused(tmp_path / 'r.jsonl', (line(path='z.png') + row + line(path='y.png')).encode()).startswith(reason)


@pytest.mark.parametrize('content, reason', [
    ('my notes', "line 1: found 'my notes'"), (line().replace('\n', '\r') * 2, 'line 1: several rows in one'),
    ('{"other": 1}', 'line 1: found ')])
def test_a_jsonl_of_one_line(tmp_path, content, reason):
    assert refused(tmp_path / 'r.jsonl', content.encode()).startswith(reason)


@pytest.mark.parametrize('ending', ['csv', 'jsonl'])
@pytest.mark.parametrize('change', [
    lambda data: data.replace(b'\n', b'\r\n'), lambda data: data.replace(b'\n', b'\n\n'),
    lambda data: data.replace(b'\n', b'\n  \n'), lambda data: data + b'\r\n\r\n'])
def test_line_ends_of_an_editor(tmp_path, ending, change):
    """CR LF, and blank lines."""
    path, names = tmp_path / f'r.{ending}', ['a.png', 'b,c.png']
    path.write_bytes(change(written(path, names)))
    assert resumed(path) == set(names)
    results = ResultFile(str(path), 1, True)
    results.write(Prediction('new.png', BEST), str)
    results.close()
    assert resumed(path) == {*names, 'new.png'}


def table(path):
    with open(path, encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file)) if path.suffix == '.csv' else [json.loads(row) for row in file]
    return [row['path'] for row in rows]


@pytest.fixture
def run(cait, checks, tmp_path, monkeypatch, images):
    """infer.main on an export and five images, with the words of a command line; what it printed."""
    from small_models import small_data

    from CaiT.deploy.export import export
    export(cait, tmp_path / 'model', 'x', small_data(), checks, {'file': 'w', 'sha256': ''},
           [('paddle', 'fp32', 'float')])
    monkeypatch.chdir(os.path.dirname(images[0]))

    def call(*words):
        monkeypatch.setattr(sys, 'argv', ['infer', f'--model-dir={tmp_path / "model"}', *words])
        return infer.main()
    return call


@pytest.mark.parametrize('ending', ['csv', 'jsonl'])
def test_an_image_that_is_named_twice_has_one_row(run, images, tmp_path, capsys, ending):
    out, folder = tmp_path / f'r.{ending}', os.path.dirname(images[0])
    assert run('--img-path', '0.png', './0.png', folder, '--output', str(out)) == 0
    assert table(out) == ['0.png'] + images[1:]
    assert f'{out}: 2 of 7 images are named again; each gets one row' in capsys.readouterr().err
    out.write_bytes(b''.join(out.read_bytes().splitlines(True)[:-2]) + b'')  # two rows are lost
    assert run('--img-path', folder, '--output', str(out), '--resume') == 0
    assert table(out) == ['0.png'] + images[1:]


def test_rows_of_images_that_are_no_longer_there_are_counted(run, images, tmp_path, capsys):
    out = tmp_path / 'r.csv'
    assert run('--img-path', images[0], images[1], '--output', str(out)) == 0
    assert run('--img-path', *images[1:], '--output', str(out), '--resume') == 0
    assert sorted(table(out)) == sorted(images)
    assert f'{out}: 2 images are done already, 1 of them not among those of --img-path' in capsys.readouterr().out
