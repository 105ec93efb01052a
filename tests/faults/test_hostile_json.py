# SPDX-License-Identifier: Apache-2.0
"""JSON beside other files, which anybody may have written: treated as any damaged content, never a traceback."""
from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from CaiT import safe_json
from CaiT.data.label_map import MAX_LITERAL, read_classes
from CaiT.errors import InputError
from CaiT.report import runs
from CaiT.tools import benchmark, gpu_check
from CaiT.training import retention
from CaiT.training.logger import RunLogger
from CaiT.training.run_folder import LOCK, lock
from CaiT.weights import cache, download

HOSTILE = {'brackets': '[' * 100_000, 'objects': '{"a":' * 3000 + '1' + '}' * 3000, 'digits': '9' * 5000,
           'a digit too many': '{"sha256": 1' + '0' * 100 + '}', 'half': '{"sha256"', 'nothing': '', 'a list': '[1]',
           'not UTF-8': b'{"url": "\xff"}', 'twice': '{"sha256": "a", "sha256": "b", "rows": [], "rows": []}'}
hostile = pytest.mark.parametrize('content', [
    content if isinstance(content, bytes) else content.encode() for content in HOSTILE.values()], ids=list(HOSTILE))


def refused(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize('text, key', [('{"a": 1, "b": 2, "a": 1}', 'a'), ('[{"x": {"\\n": 0, "\\n": 1}}]', '?')])
def test_a_key_twice(text, key):
    assert refused(safe_json.loads, text) == f'not JSON: the key {key} twice'


@hostile
def test_the_record_of_a_downloaded_file(tmp_path, content):
    target = tmp_path / 'a.safetensors'
    target.write_bytes(b'x')
    (tmp_path / 'a.safetensors.json').write_bytes(content)
    assert refused(cache._check_cached, None, target, None, print) == (
        f'{target}.json: holds no record of a hash, expected {{"sha256": …}}; delete it')


KNOWN = {'url': 'u', 'validator': '"v"', 'length': 3}


def known(folder, content):
    (folder / 'a.part.json').write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return download._known(folder / 'a.part')


@hostile
def test_the_record_of_a_partial_download(tmp_path, content):
    assert known(tmp_path, content) is None


@pytest.mark.parametrize('key, value', [('length', '3'), ('length', True), ('length', 3.5), ('validator', 7),
                                        ('validator', 'a\r\nX: y'), ('url', ['u'])])
def test_a_partial_download_of_other_types(tmp_path, key, value):
    assert vars(known(tmp_path, KNOWN)) == KNOWN and known(tmp_path, {**KNOWN, key: value}) is None


@hostile
def test_the_records_of_a_run(tmp_path, content):
    (tmp_path / 'log.jsonl').write_bytes(b'{"epoch": 1}\n' + content + b'\n{"epoch": 2}\n')
    logger = RunLogger(tmp_path, 'log.txt')
    assert logger.records() == runs.read_run(tmp_path).records == [{'epoch': 1}, {'epoch': 2}]
    logger.rewind(1)
    assert (tmp_path / 'log.jsonl').read_text() == '{"epoch": 1}\n'


@pytest.mark.parametrize('value', ['"x"', '[1]', '{"a": NaN}', 'true', '[[NaN]]'])
def test_records_of_other_types(tmp_path, value):
    """They ended a resumed run with SAVE.TOP, or its page, after an epoch."""
    (tmp_path / 'log.jsonl').write_text(f'{{"epoch": 1, "val_top1": {value}}}\n{{"epoch": 2, "val_top1": 0.5}}\n')
    logger = RunLogger(tmp_path, 'log.txt')
    assert logger.records() == runs.read_run(tmp_path).records == [{'epoch': 2, 'val_top1': 0.5}]
    assert retention.kept_epochs(SimpleNamespace(EVERY=0, KEEP=0, TOP=1), logger.records(), 2) == {2}


@pytest.mark.parametrize('epoch', ['-1', '1e3', '10000000000', 'null'])
def test_records_of_no_epoch(tmp_path, epoch):
    (tmp_path / 'log.jsonl').write_text(f'{{"epoch": {epoch}}}\n{{"epoch": 2, "loss": NaN}}\n')
    assert RunLogger(tmp_path, 'log.txt').records() == [{'epoch': 2, 'loss': None}]


@pytest.mark.parametrize('name', ['log.jsonl', 'log_train.txt'])
def test_a_log_that_is_a_fifo_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert refused(RunLogger, tmp_path, 'log_train.txt') == f'{tmp_path / name}: is no regular file'


@pytest.mark.parametrize('content', ['a lock of mine\n', '[' * 5000, '9' * 4096, '{"own": 1}', '{"Owner"'])
def test_a_lock_that_no_run_wrote(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    assert refused(lock(tmp_path).__enter__) == (
        f'{tmp_path / LOCK}: is not the lock file of a run, expected another -output_dir')
    assert (tmp_path / LOCK).read_text() == content


@pytest.mark.parametrize('content', ['{', '{"owner"', '{"owner": "a", "ho', '{"owner": ' + '[' * 4000])
def test_a_lock_of_which_a_part_was_written(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())['pid'] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_of_a_long_owner(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({'owner': 'a\nb', 'host': 'x' * 3000, 'pid': 1, 'since': [2]}))
    assert refused(lock(tmp_path).__enter__).startswith(f'{tmp_path}: is in use by a?b on {"x" * 80}…, process 1, ')


@hostile
def test_the_rows_of_a_benchmark(tmp_path, content):
    path = tmp_path / 'b.json'
    path.write_bytes(content)
    assert refused(benchmark.Results, str(path), {}).startswith(f'{path}: not a file of this benchmark (')


@pytest.mark.parametrize('rows', [5, None, [5], [{'model': 'x', 'threads': 1}], [{}], ['model threads batch']])
def test_rows_of_another_benchmark(tmp_path, rows):
    path = tmp_path / 'b.json'
    path.write_text(json.dumps({'rows': rows}))
    assert refused(benchmark.Results, str(path), {}).startswith(f'{path}: not a file of this benchmark (')


@hostile
def test_the_result_of_a_check_of_a_gpu(monkeypatch, content):
    line = gpu_check.RESULT + content.decode(errors='replace')
    monkeypatch.setattr(gpu_check.subprocess, 'run', lambda *_, **__: SimpleNamespace(stdout=line, returncode=0))
    result = gpu_check.run_check('x')
    assert result.status == 'failed' and result.detail.startswith('its result cannot be read: ')


def label_map(folder: Path, content) -> Path:
    (folder / 'labels.json').write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / 'labels.json'


@pytest.mark.parametrize('content', ['[' * 100_000, '{"a":' * 3000, '{"a": ' + '9' * 5000 + '}', '{"0": "a"',
                                     '[' + '1,' * (MAX_LITERAL // 2) + ']', '-' * 50_000 + '1', '["a", NaN]'])
def test_a_label_map(tmp_path, content):
    path = label_map(tmp_path, content)
    assert refused(read_classes, path).startswith((f'label map {path}: not JSON', f'label map {path}: JSON nested '))


@pytest.mark.parametrize('content', ['{"0": "a", "1": "b", "1": "c"}', "{0: 'a', 1: 'b', 1: 'c'}", '{"a": 0, "a": 1}',
                                     "{'a': 0, 'b': 1, 'a': 2}", '{"id2label": {"0": "a", "0": "b"}}'])
def test_a_class_that_a_label_map_names_twice(tmp_path, content):
    """The last one had won in silence."""
    path = label_map(tmp_path, content)
    message = refused(read_classes, path)
    assert message.startswith(f'label map {path}: ') and message.endswith('twice')
