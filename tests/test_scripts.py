# SPDX-License-Identifier: Apache-2.0
"""The main scripts: each flag arrives at the job it belongs to; both scripts end with a line and a status."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from CaiT.errors import InputError
from CaiT.main_single_gpu import main
from CaiT.training import jobs

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def job(monkeypatch):
    """job(*words): (name of the job that main started, its config)."""
    calls = []
    for name in ('train', 'evaluate', 'predict'):
        monkeypatch.setattr(jobs, name, lambda config, *_, name=name: calls.append((name, config)) or ('', 0))

    def run(*words):
        main(list(words))
        return calls.pop()
    return run


@pytest.mark.parametrize('words, name, batch, batch_eval', [
    ([], 'train', 256, 64), (['-batch_size=3'], 'train', 3, 64), (['-eval'], 'evaluate', 256, 64),
    (['-eval', '-batch_size', '5'], 'evaluate', 256, 5), (['-pred', '--batch-size=7'], 'predict', 256, 7),
    (['-eval', '-batch_size=5', '-opts', 'DATA.BATCH_SIZE_EVAL', '9'], 'evaluate', 256, 9)])
def test_batch_size_is_that_of_the_job(job, words, name, batch, batch_eval):
    found, config = job(*words)
    assert (found, config.DATA.BATCH_SIZE, config.DATA.BATCH_SIZE_EVAL) == (name, batch, batch_eval)


def test_every_flag_arrives(job, tmp_path):
    (tmp_path / 'a.yaml').write_text('AMP: True\nTRAIN: {EPOCHS: 2, BASE_LR: 0.25}\n')
    flags = {'dataset': ('cifar10', 'DATA.DATASET'), 'data_path': ('d', 'DATA.DATA_PATH'),
             'label_map': ('l', 'DATA.LABEL_MAP'), 'image_size': (48, 'DATA.IMAGE_SIZE'),
             'num_classes': (6, 'MODEL.NUM_CLASSES'), 'pretrained': ('p', 'MODEL.PRETRAINED'),
             'resume': ('auto', 'RESUME'), 'last_epoch': (2, 'TRAIN.LAST_EPOCH'), 'epochs': (7, 'TRAIN.EPOCHS'),
             'output_dir': ('o', 'OUTPUT_DIR'), 'num_workers': (5, 'DATA.NUM_WORKERS'), 'seed': (8, 'SEED'),
             'device': ('cpu', 'DEVICE')}
    _, config = job('-cfg', str(tmp_path / 'a.yaml'), *[f'-{name}={value}' for name, (value, _) in flags.items()])
    for value, key in flags.values():
        *sections, leaf = key.split('.')
        section = config[sections[0]] if sections else config
        assert section[leaf] == value, key
    assert config.AMP is True and config.TRAIN.BASE_LR == 0.25  # what no flag sets keeps the file's value
    assert job('-cfg', str(tmp_path / 'a.yaml'), '-amp=False')[1].AMP is False


@pytest.mark.parametrize('words, message', [
    (['-eval', '-pred'], '^-eval and -pred: found both, expected one$'),
    (['-compare', 'x'], '^-compare x: belongs to -eval, which is not given$'),
    (['-pred', '-compare', 'x'], '^-compare x: belongs to -eval, which is not given$')])
def test_flags_that_exclude_each_other(job, words, message):
    with pytest.raises(InputError, match=message):
        job(*words)


@pytest.mark.parametrize('script', ['CaiT/main_single_gpu.py', 'CaiT/main_multi_gpu.py', 'CaiT/export_model.py',
                                    'CaiT/infer.py', 'export_model.py', 'infer.py'])
def test_a_wrong_flag_is_one_line_and_status_2(script):
    done = subprocess.run([sys.executable, script, '-nonsense'], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('error: unknown flag -nonsense') and done.stderr.count('\n') == 1


@pytest.mark.parametrize('name', ['infer', 'export_model'])
def test_a_script_imports_nothing_before_errors_are_one_line(name):
    """Ctrl-C while NumPy is imported would be a traceback."""
    code = f'import sys, {name}; print(sorted(one for one in sys.modules if one[:4] == "CaiT" or one == "numpy"))'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "['CaiT', 'CaiT.errors']\n"
