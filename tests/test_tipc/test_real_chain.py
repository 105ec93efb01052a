# SPDX-License-Identifier: Apache-2.0
"""The chain with the real programs: it passes, and it detects a missing export and a stale model."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from trees import CONFIG, LITE

pytest.importorskip('sklearn')
FOLDER = f'test_tipc/output/CaiT/{LITE}'


def wrap(tree, case):
    """An interpreter that does ``case``, a branch of a shell's case over its arguments, where it fits them."""
    tree.write('wrapped', f'#!/bin/sh\ncase "$*" in\n{case}\nesac\nexec {sys.executable} "$@"\n')
    (tree.root / 'wrapped').chmod(0o755)
    return str(tree.root / 'wrapped')


@pytest.mark.slow
def test_real_chain_and_two_sabotages(tree):
    shutil.rmtree(tree.root / 'dataset')
    assert tree.run('prepare.sh', CONFIG, LITE, PYTHON=sys.executable).status == 0
    result = tree.chain(PYTHON=sys.executable)
    assert result.status == 0, result.output
    lines = tree.read(f'{FOLDER}/results_python.log').splitlines()
    assert len(lines) == 8 and all('Run successfully with command - ' in line for line in lines)

    shutil.copytree(tree.root / FOLDER, tree.root / 'stale')
    result = tree.chain(PYTHON=wrap(tree, '*export_model.py*) exit 0 ;;'))
    assert result.status == 1
    assert 'FAILED (inference.json was not written)' in tree.read(f'{FOLDER}/summary.txt')

    tree.edit(CONFIG, 14, 'norm_train:CaiT/main_single_gpu.py -cfg=CaiT/configs/cait_digits.yaml -seed=1')
    stale = tree.root / 'stale/norm_train_gpus_0'
    result = tree.chain(PYTHON=wrap(tree, f'*infer.py*) exec {sys.executable} "$@" --model-dir={stale} ;;'))
    assert result.status == 1
    assert 'are inconsistent! (' in result.output
    failed = [line.split()[0] for line in tree.read(f'{FOLDER}/summary.txt').splitlines() if 'FAILED' in line]
    assert failed == ['compare', 'compare']


@pytest.mark.slow
@pytest.mark.skipif('CAIT_REAL_DATA' not in os.environ, reason='CAIT_REAL_DATA: folder of real images and weights')
def test_stored_results(tree):
    """Predictions of public weights on the lite data equal the stored results."""
    shutil.rmtree(tree.root / 'dataset')
    assert tree.run('prepare.sh', CONFIG, LITE, PYTHON=sys.executable).status == 0
    weights = f'{os.environ["CAIT_REAL_DATA"]}/weights/vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors'
    export = ['CaiT/export_model.py', '-cfg=CaiT/configs/vit_tiny_patch16_224.yaml', f'-pretrained={weights}',
              '--save-inference-dir=vit']
    subprocess.run([sys.executable, *export], cwd=tree.root, check=True, timeout=300)
    with open(tree.root / 'infer_fp32.log', 'w', encoding='utf-8') as log:
        subprocess.run([sys.executable, 'CaiT/infer.py', '--model-dir=vit', '--img-path=dataset/lite_data/valid',
                        '--tipc-lines=True'], cwd=tree.root, check=True, stdout=log, timeout=300)
    subprocess.run([sys.executable, 'test_tipc/compare_results.py', '--log_file=infer_fp32.log',
                    '--gt_file=test_tipc/results/python_*_results_fp32.txt'], cwd=tree.root, check=True, timeout=60)
