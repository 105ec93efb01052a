# SPDX-License-Identifier: Apache-2.0
"""Configuration files: the existing ones match the programs, errors are one line."""
from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
from trees import CONFIG, LITE, ROOT

from CaiT import export_model, infer, main_single_gpu

LONG = 'test_tipc/configs/CaiT/train_infer_python_51.txt'
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('test_tipc/configs/*/*.txt'))
SCRIPTS = sorted(ROOT.glob('test_tipc/*.sh'))


def test_model_names_differ():
    """Each has an output folder of its own."""
    names = [(ROOT / config).read_text(encoding='utf-8').splitlines()[1] for config in CONFIGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize('config', CONFIGS)
def test_programs_know_the_arguments(config):
    """Each command of a file, with the keys that are its arguments, goes through the program's own parser."""
    lines = (ROOT / config).read_text(encoding='utf-8').splitlines()
    values = dict(line.split(':', 1) for line in lines if ':' in line)
    flags = [key for key, value in values.items() if key.startswith('-') and value != 'null']
    known = {'main_single_gpu.py': main_single_gpu.parse, 'main_multi_gpu.py': main_single_gpu.parse,
             'export_model.py': lambda words: export_model.parser().parse_args(words),
             'infer.py': lambda words: infer.parser().parse_args(words)}
    used = 0
    for value in values.values():
        words = shlex.split(value)
        if words and words[0].startswith('CaiT/'):
            known[words[0].rpartition('/')[2]](words[1:])
            for word in words:
                assert not word.startswith('-cfg=') or (ROOT / word[len('-cfg='):]).is_file()
            used += 1
    assert used or 'infer_onnx.py' in values['inference']
    accepted = ' '.join(option for parser in (export_model.parser(), infer.parser())
                        for option in parser._option_string_actions)
    training = (ROOT / 'CaiT/main_single_gpu.py').read_text(encoding='utf-8')
    for flag in flags if used else []:
        name = flag.lstrip('-').replace('-', '_')
        assert f' --{name.replace("_", "-")} ' in f' {accepted} ' or f"'{name}'" in training, flag


@pytest.mark.parametrize('number, line, error', [
    (2, 'model:CaiT', "line 2: found 'model:CaiT', expected model_name:… (is a line missing, or one too many?)"),
    (4, 'gpu_list 0', "line 4: found 'gpu_list 0', expected key:value"),
    (6, '-epochs:whole_infer=2', "line 6: found '-epochs:whole_infer=2', expected a value for mode " + LITE),
    (11, '--data-path:C:/data', "line 11: found a second ':' in '--data-path:C:/data', a value cannot hold one"),
    (34, 'lite_data:./nowhere', 'line 34: ./nowhere is not there; run bash test_tipc/prepare.sh ' + CONFIG),
    (12, '', 'line 12: found a blank line'),
    (16, '===infer_params===', 'found ===eval_params=== in line none, expected line 16'),
    (28, '--use-gpu:yes', "line 28: found 'yes', expected True False"),
    (35, 'lite_images:./nothing.png', 'line 35: ./nothing.png is not there'),
    (36, 'whole:./dataset/digits', "line 36: found 'whole:./dataset/digits', expected whole_data:…"),
])
def test_wrong_line_of_the_short_form(tree, number, line, error):
    tree.edit(CONFIG, number, line)
    result = tree.chain()
    assert result.status == 2 and not result.commands
    assert result.error.startswith(f'error: {CONFIG}') and error in result.error
    assert result.output.count('\n') == 1


@pytest.mark.parametrize('number, line, error', [
    (6, '-amp:fp64', "line 6: found 'fp64', expected null fp32 amp"),
    (15, 'trainer:pact_train|slim_train', "line 15: found trainer 'slim_train', expected a key of lines 16 to 21"),
    (40, 'infer:CaiT/infer.py', "line 40: found 'infer:CaiT/infer.py', expected inference:…"),
    (52, '##', "line 52: found '##', expected ===train_benchmark_params==="),
])
def test_wrong_line_of_the_long_form(tree, number, line, error):
    tree.edit(LONG, number, line)
    result = tree.chain(LONG)
    assert result.status == 2 and not result.commands and error in result.error


@pytest.mark.parametrize('count, error', [(31, 'found 31 lines, expected 32'), (33, 'found 33 lines, expected 32')])
def test_wrong_number_of_lines(tree, count, error):
    tree.write(CONFIG, '\n'.join([*tree.read(CONFIG).splitlines()[:32], 'null:null'][:count]) + '\n')
    assert error in tree.chain().error


def test_line_too_many_in_the_middle_is_seen(tree):
    lines = tree.read(CONFIG).splitlines()
    tree.write(CONFIG, '\n'.join([*lines[:5], 'null:null', *lines[5:]]) + '\n')
    assert 'found ===eval_params=== in line 17, expected line 16 (32-line form)' in tree.chain().error


def test_carriage_returns_do_no_harm(tree):
    tree.write(CONFIG, tree.read(CONFIG).replace('\n', '\r\n'))
    assert tree.chain(mode='benchmark_train').status == 0


@pytest.mark.parametrize('script, arguments, error', [
    ('test_train_inference_python.sh', [CONFIG, 'lite_train'], "mode: found 'lite_train', expected one of lite_train_"),
    ('test_train_inference_python.sh', [CONFIG], 'usage: bash'),
    ('test_train_inference_python.sh', ['none.txt', LITE], 'none.txt: no such configuration file'),
    ('test_train_dy2static_python.sh', [CONFIG], "the form: found '32', expected one of 51"),
    ('test_ptq_inference_python.sh', [CONFIG, 'whole_infer'], "the form: found '32', expected one of ptq"),
    ('benchmark_train.sh', [LONG, 'benchmark_train', 'dynamic_bs8_fp8_DP_N1C1'], "run: found 'dynamic_bs8_fp8"),
    ('benchmark_train.sh', [CONFIG, 'benchmark_train', 'dynamicTostatic_bs8_fp32_DP_N1C1'], 'needs a file of the 51-'),
])
def test_wrong_calls(tree, script, arguments, error):
    result = tree.run(script, *arguments)
    assert result.status == 2 and not result.commands and error in result.error


def test_missing_interpreter(tree):
    assert 'nopython: no such interpreter; activate its environment' in tree.chain(PYTHON='nopython').error


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_headers(script):
    text = script.read_text(encoding='utf-8')
    assert re.match(r'(#!/usr/bin/env bash\n)?# SPDX-License-Identifier: Apache-2.0\n', text)
    assert len(text.splitlines()) < 250 and max(map(len, text.splitlines())) <= 122


@pytest.mark.skipif(not shutil.which('shellcheck'), reason='shellcheck is not installed')
def test_shellcheck():
    done = subprocess.run(['shellcheck', '-x', *map(str, SCRIPTS)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
