# SPDX-License-Identifier: Apache-2.0
"""The exact command lines of every mode, form and chain, compared with ``expected/*.txt``.

A line is ``[CUDA_VISIBLE_DEVICES] words``; test_tipc/output/ is written as …/. With CAIT_RECORD=1 the files are written
anew, to be read before they are committed.
"""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from trees import CONFIG, LITE

EXPECTED = Path(__file__).with_name('expected')
LONG = 'test_tipc/configs/CaiT/train_infer_python_51.txt'
FOLDER = 'test_tipc/configs/CaiT'
EVERYTHING = {  # lines of the 51-line form, so that its lists have several items
    4: 'gpu_list:0|0,1|192.168.0.1,192.168.0.2;0,1', 5: '-device:auto|gpu|gpu', 6: '-amp:null|amp',
    36: 'inference_dir:infer', 37: 'infer_model:./output/digits/best.pdparams|./output/int8',
    38: 'infer_export:CaiT/export_model.py|null', 39: 'infer_quant:False|True', 41: '--use-gpu:True|False',
    42: '--use-mkldnn:True|False', 43: '--cpu-threads:2', 44: '--batch-size:8', 45: '--use-tensorrt:False|True',
    46: '--precision:fp32|fp16|int8',
    49: '--topk:5'}


def assert_recorded(name, result):
    path, found = EXPECTED / f'{name}.txt', ''.join(line + '\n' for line in result.commands)
    if os.environ.get('CAIT_RECORD'):
        path.write_text(found, encoding='utf-8')
    assert found == path.read_text(encoding='utf-8')


@pytest.fixture(autouse=True)
def compare_nothing(monkeypatch):
    """For speed; what comparisons find is in test_sabotage.py."""
    monkeypatch.setenv('STUB_COMPARES_NOTHING', '1')


@pytest.fixture
def trained(tree):
    """With the weights and models that whole_infer and the deployment chains start from."""
    for name in ('best.pdparams', 'config.yaml', 'infer/inference.json', 'infer/inference.pdiparams'):
        tree.write(f'output/digits/{name}', 'trained')
    tree.write('output/int8/inference.json', 'trained')
    (tree.root / 'dataset/digits/train').mkdir()
    return tree


@pytest.mark.parametrize('mode', [LITE, 'lite_train_whole_infer', 'whole_train_whole_infer', 'whole_infer',
                                  'benchmark_train'])
def test_short_form(trained, mode):
    result = trained.chain(CONFIG, mode)
    assert result.status == 0, result.output
    assert_recorded(f'short_{mode}', result)


def test_short_form_on_gpus(tree):
    tree.edit(CONFIG, 4, 'gpu_list:1|0,1|-1')
    tree.edit(CONFIG, 28, '--use-gpu:True|False')
    result = tree.chain(STUB_GPUS='2')
    assert result.status == 0, result.output
    assert_recorded('short_gpus', result)


def test_short_form_may_keep_training_from_the_gpu(tree):
    tree.edit(CONFIG, 5, 'use-gpu:False')
    result = tree.chain(STUB_GPUS='1')
    assert result.status == 0, result.output
    assert result.commands[0].startswith('[] CaiT/main_single_gpu.py ')


@pytest.mark.parametrize('gpus', ['0', pytest.param('2', marks=pytest.mark.slow)])
@pytest.mark.parametrize('mode', [LITE, 'whole_infer', 'benchmark_train'])
def test_long_form(trained, mode, gpus):
    for number, line in EVERYTHING.items():
        trained.edit(LONG, number, line)
    if gpus == '0':
        trained.edit(LONG, 15, 'trainer:norm_train|to_static_train')
    trained.write('bin/hostname', '#!/bin/sh\necho 192.168.0.1\n')
    (trained.root / 'bin/hostname').chmod(0o755)
    result = trained.chain(LONG, mode, STUB_GPUS=gpus, PATH=f'{trained.root}/bin:{os.environ["PATH"]}',
                           STUB_INNER='infer')
    assert result.status == 0, result.output
    assert_recorded(f'long_{mode}_{gpus}_gpus', result)


def test_whole_infer_on_the_gpu_it_is_given(trained):
    result = trained.run('test_train_inference_python.sh', CONFIG, 'whole_infer', '3', STUB_GPUS='1')
    assert result.status == 0, result.output
    assert {command.split()[0] for command in result.commands} == {'[3]'}


def test_other_machines_only_train(tree):
    tree.edit(LONG, 4, 'gpu_list:192.0.2.1,192.0.2.2;0,1')
    result = tree.chain(LONG, STUB_GPUS='2', STUB_BREAK='train writes nothing')
    assert result.status == 0, result.output
    assert len(result.commands) == 1


def test_dynamic_to_static(tree):
    result = tree.run('test_train_dy2static_python.sh', LONG)
    assert result.status == 0, result.output
    assert_recorded('dy2static', result)


def test_quantization(trained):
    result = trained.run('test_ptq_inference_python.sh', f'{FOLDER}/train_ptq_infer_python.txt', 'whole_infer')
    assert result.status == 0, result.output
    assert_recorded('ptq', result)


def test_onnx(trained):
    result = trained.run('test_paddle2onnx.sh', f'{FOLDER}/paddle2onnx_infer_python.txt', 'paddle2onnx_infer')
    assert result.status == 0, result.output
    assert_recorded('paddle2onnx', result)


@pytest.mark.parametrize('gpus, run', [('0', None), ('8', 'dynamicTostatic_bs16_fp16_DP_N1C8')])
def test_benchmark(tree, gpus, run):
    result = tree.run('benchmark_train.sh', LONG, 'benchmark_train', *[run] if run else [], STUB_GPUS=gpus)
    assert result.status == 0, result.output
    assert_recorded(f'benchmark_{gpus}_gpus', result)
