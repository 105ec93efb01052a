# SPDX-License-Identifier: Apache-2.0
"""The chain fails when any of its stages is broken."""
from __future__ import annotations

import pytest
from stub_python import BREAKS
from trees import CONFIG, LITE

OUTPUT = f'test_tipc/output/CaiT/{LITE}'


def test_unbroken_chain_passes(tree):
    tree.edit(CONFIG, 28, '--use-gpu:True|False')
    result = tree.chain()
    assert result.status == 0, result.output
    lines = tree.read(f'{OUTPUT}/results_python.log').splitlines()
    assert len(lines) == 8
    assert all(line.startswith('\033[33m Run successfully with command - CaiT - ') for line in lines)
    assert all(line.endswith('.log ! \033[0m') for line in lines)
    summary = tree.read(f'{OUTPUT}/summary.txt').splitlines()
    assert summary[-1].endswith('8 steps passed, 0 failed, 2 not run')
    assert [line.split()[0] for line in summary[2:-1]] == [
        'step', 'train', 'eval', 'export', 'predict', 'infer', 'infer', 'infer', 'compare', 'infer', 'compare']


@pytest.mark.parametrize('stage', BREAKS)
def test_each_broken_stage_fails_the_chain(tree, stage):
    result = tree.chain(STUB_BREAK=stage)
    assert result.status == 1, result.output
    assert 'Run failed with command - CaiT - ' in tree.read(f'{OUTPUT}/results_python.log')
    failed = [line for line in tree.read(f'{OUTPUT}/summary.txt').splitlines() if 'FAILED' in line]
    step = 'compare' if stage in ('infer wrong class', 'infer wrong probability', 'infer forgets an image') else None
    assert failed[0].startswith(step or stage.split()[0])


@pytest.mark.parametrize('stage', ['train writes nothing', 'export writes nothing'])
def test_stale_model_is_never_used(tree, stage):
    for name in ('best.pdparams', 'config.yaml', 'inference.json', 'inference.pdiparams'):
        tree.write(f'{OUTPUT}/norm_train_gpus_0/{name}', 'stale')
        tree.write(f'output/infer/{name}', 'stale')
    result = tree.chain(STUB_BREAK=stage)
    assert result.status == 1
    assert not [command for command in result.commands if 'infer.py' in command]
    assert tree.read(f'{OUTPUT}.previous/norm_train_gpus_0/best.pdparams') == 'stale'


def test_steps_behind_a_failure_are_not_run(tree):
    tree.chain(STUB_BREAK='train raises')
    assert 'not run: training failed' in tree.read(f'{OUTPUT}/summary.txt')


def test_nothing_run_is_a_failure(tree):
    tree.edit('test_tipc/configs/CaiT/train_infer_python.txt', 13, 'trainer:amp_train')
    result = tree.chain()
    assert result.status == 2
    assert result.error.endswith('nothing was run, so nothing is certified')


def test_interpreter_without_paddle_is_one_line(tree):
    tree.write('stub_python', '#!/bin/sh\necho "ModuleNotFoundError: No module named paddle" >&2\nexit 1\n')
    result = tree.chain()
    assert result.status == 2
    assert 'cannot import paddle (ModuleNotFoundError: No module named paddle)' in result.error
