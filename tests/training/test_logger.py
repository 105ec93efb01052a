# SPDX-License-Identifier: Apache-2.0
"""The log of a run: held back until it starts, complete whatever becomes of the console."""
from __future__ import annotations

import io
import json
import sys
import time

import pytest

from CaiT.training.logger import RunLogger


def test_nothing_is_written_before_release(tmp_path, capsys):
    logger = RunLogger(tmp_path / 'run', 'log.txt', hold=True)
    logger.info('first')
    assert not (tmp_path / 'run').exists() and 'first' in capsys.readouterr().out
    logger.release()
    logger.info('second')
    assert [line.split()[-1] for line in (tmp_path / 'run/log.txt').read_text().splitlines()] == ['first', 'second']


@pytest.mark.parametrize('stream', ['closed', 'raises', None])
def test_lines_are_in_the_file_when_the_console_is_gone(tmp_path, monkeypatch, stream):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, 'Broken pipe')

    console = None if stream is None else Broken()
    if stream == 'closed':
        console.close()
    monkeypatch.setattr(sys, 'stdout', console)
    logger = RunLogger(tmp_path, 'log.txt')
    logger.info('first'), logger.info('second')
    monkeypatch.undo()
    assert len((tmp_path / 'log.txt').read_text().splitlines()) == 2


def test_a_console_that_cannot_show_a_name_shows_the_rest(tmp_path, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(raw, encoding='ascii'))
    logger = RunLogger(tmp_path, 'log.txt')
    logger.info('flower/\u82b1.png'), logger.info('second')
    sys.stdout.flush()
    assert [line.split(b' ')[-1] for line in raw.getvalue().splitlines()] == [b'flower/\\u82b1.png', b'second']
    assert 'flower/\u82b1.png' in (tmp_path / 'log.txt').read_text(encoding='utf-8')


def test_records_that_are_none_are_skipped(tmp_path):
    (tmp_path / 'log.jsonl').write_bytes(b'{"epoch": 1}\n[3]\nnull\n{"epoch": "x"}\n\xff\xfe\n{"epo\n{"epoch": 2}\n')
    logger = RunLogger(tmp_path, 'log.txt')
    assert logger.records() == [{'epoch': 1}, {'epoch': 2}]
    logger.rewind(1)
    assert json.loads((tmp_path / 'log.jsonl').read_text()) == {'epoch': 1}


def test_the_stamp_that_log_parsers_expect(tmp_path, monkeypatch):
    afternoon, format_time = time.strptime('2026-05-06 14:32:54', '%Y-%m-%d %H:%M:%S'), time.strftime
    monkeypatch.setattr('CaiT.training.logger.time.strftime', lambda text: format_time(text, afternoon))
    RunLogger(tmp_path, 'log.txt').info('Now training epoch 100.')
    assert (tmp_path / 'log.txt').read_text() == '0506 02:32:54 PM Now training epoch 100.\n'
