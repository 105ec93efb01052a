# SPDX-License-Identifier: Apache-2.0
"""The command ``cait`` and shipped configurations by name, from any folder."""
from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import CaiT
from CaiT import __main__ as cait
from CaiT.config import get_config
from CaiT.config_layers import SHIPPED, find_file, shipped_names
from CaiT.errors import InputError
from CaiT.training import jobs

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def started_as_cait(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/cait'])
    for command in cait.COMMANDS.values():  # main() rewrites the docstrings
        module = importlib.import_module(command.module)
        monkeypatch.setattr(module, '__doc__', module.__doc__)


def python(folder, *words):
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})


@pytest.mark.parametrize('name', cait.COMMANDS)
def test_help_of_every_command_shows_what_works_there(started_as_cait, name, capsys):
    with pytest.raises(SystemExit) as caught:
        cait.main([name, '--help'])
    text = capsys.readouterr().out
    assert caught.value.code == 0 and f'usage: cait {name} ' in text
    assert f'cait {name} ' in text.split('\n', 1)[1], 'no example'
    assert not re.search(r'\bpython (\S+/)?\w+\.py|python -m CaiT|CaiT/configs', text)


@pytest.mark.parametrize('name, started', [('train', 'train'), ('eval', 'evaluate'), ('pred', 'predict')])
def test_the_flags_are_the_scripts(started_as_cait, monkeypatch, name, started):
    calls = []
    for job in ('train', 'evaluate', 'predict'):
        monkeypatch.setattr(jobs, job, lambda config, *_, job=job: calls.append((job, config)) or ('', 0))
    cait.main([name, '-cfg=cait_xs24_224', '--batch-size', '3', '-opts', 'SEED', '4'])
    (job, config), = calls
    assert (job, config.MODEL.NAME, config.SEED) == (started, 'cait_xs24_224', 4)
    assert (config.DATA.BATCH_SIZE if name == 'train' else config.DATA.BATCH_SIZE_EVAL) == 3


@pytest.mark.parametrize('words, message', [
    (['trian'], "^cait: found 'trian', expected one of train, eval, .*; did you mean train\\?$"),
    (['-cfg=x'], "^cait: found '-cfg=x', expected one of train, "),
    (['infer', f'--img-path={ROOT}/docs/images', '--model-dir=nowhere'],
     'make the folder with: cait export --save-inference-dir'),
    (['weights', 'get'], 'expected a model \\(cait weights list shows all\\)'),
    (['export', '-pretrained=none'], 'Train a model \\(cait train\\), or convert published weights \\(cait convert\\)'),
    (['train', '-epoch=1'], '^unknown flag -epoch, did you mean -epochs\\? \\(see cait train --help\\)$')])
def test_errors_are_one_line_with_commands_that_work(started_as_cait, words, message):
    with pytest.raises(InputError, match=message) as caught:
        cait.main(words)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('words, first', [([], 'usage: python -m CaiT COMMAND'), (['-h'], 'usage: python -m CaiT'),
                                          (['--version'], f'cait {CaiT.__version__}')])
def test_as_a_module_from_another_folder(tmp_path, words, first):
    done = python(tmp_path, '-m', 'CaiT', *words)
    assert (done.returncode, done.stderr) == (0, '') and done.stdout.startswith(first)


def test_the_exit_status_is_the_scripts(tmp_path):
    done = python(tmp_path, '-m', 'CaiT', 'infer', '--img-path=none.png')
    assert done.returncode == 2 and done.stderr.startswith('error: ') and done.stderr.count('\n') == 1


@pytest.mark.parametrize('name, model', [
    ('cait_xxs24_224', 'cait_xxs24_224'), ('vit_base_patch32_224.yaml', 'vit_base_patch32_224'),
    ('CaiT/configs/deit_tiny_patch16_224.yaml', 'deit_tiny_patch16_224'),
    ('./CaiT/configs/cait_s24_384.yaml', 'cait_s24_384'), ('recipes/imagenet', 'cait_xxs24_224')])
def test_shipped_configurations_by_name(tmp_path, monkeypatch, name, model):
    monkeypatch.chdir(tmp_path)
    assert get_config(name).MODEL.NAME == model


def test_a_bare_name_is_the_shipped_one_and_a_path_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('cait_xxs24_224').write_bytes(b'weights')  # the weights are often called so
    Path('cait_xxs24_224.yaml').write_text('BASE: cait_xs24_224\nSEED: 7\n', encoding='utf-8')
    assert get_config('cait_xxs24_224').SEED == 0
    config = get_config('cait_xxs24_224.yaml')
    assert (config.SEED, config.MODEL.NAME, config.TRAIN.EPOCHS) == (7, 'cait_xs24_224', 400)
    assert find_file('./cait_xxs24_224') == Path('cait_xxs24_224')


def test_every_shipped_file_has_a_name():
    assert len(shipped_names()) == len(list(SHIPPED.rglob('*.yaml'))) and 'recipes/cait_scratch' in shipped_names()


@pytest.mark.parametrize('name, message', [
    ('cait_xxs_224', '^config file cait_xxs_224: No such file or directory; did you mean cait_xxs.._224 or cait_xxs'),
    ('nonsense.yml', '^config file nonsense.yml: .*; expected a YAML file or a name of .*/CaiT/configs$')])
def test_a_name_that_is_not_there(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        get_config(name)
