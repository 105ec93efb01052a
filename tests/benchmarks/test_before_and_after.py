# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of one cost each: their functions, and what is in the committed results. Speed itself is not tested."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import pytest

from CaiT.errors import InputError
from CaiT.training.checkpoint import read

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'benchmarks'))
import checkpoint as checkpoint_benchmark  # noqa: E402
import communication  # noqa: E402
import data_pipeline  # noqa: E402
import epoch_start  # noqa: E402
import reduced_decode  # noqa: E402

SHAPES = {'a.weight': [30, 20], 'b.bias': [7]}


def result(name: str) -> dict:
    return json.loads((ROOT / f'benchmarks/results/{name}.json').read_text(encoding='utf-8'))


def test_the_part_of_communication():
    """1 - alone / together, of medians: a step that took long once does not count. Never below zero."""
    found = {'together': [0.2, 0.25, 9.0], 'alone': [0.1, 0.2, 0.2], 'reads': 1.5}
    assert communication.figures(found) == {'ms together': 250.0, 'ms alone': 200.0, 'communication': 0.2,
                                            'host reads per step': 1.5}
    assert communication.figures({**found, 'alone': [0.3]})['communication'] == 0.0


@pytest.mark.parametrize('program', [communication, checkpoint_benchmark, epoch_start])
def test_a_folder_that_is_no_checkout_is_one_line(tmp_path, program):
    """Otherwise the installed package would be measured in its place."""
    with pytest.raises(InputError, match=f'--before {tmp_path}: no checkout of this project'):
        program.main(['--before', str(tmp_path), '--output', str(tmp_path / 'x.json')])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('links', [True, False])
def test_what_a_checkpoint_takes(tmp_path, monkeypatch, links):
    """Two tags: with links the second takes no bytes; an earlier commit has none, and writes both."""
    if not links:
        monkeypatch.delattr('CaiT.training.checkpoint.link')
    found = checkpoint_benchmark.write(tmp_path, SHAPES)
    files = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert sorted(files) == ['best.pdparams', 'best.pdstate', 'last.pdparams', 'last.pdstate']
    assert (files['best.pdstate'].st_ino == files['last.pdstate'].st_ino) == links
    size = files['best.pdstate'].st_size + files['best.pdparams'].st_size
    assert found['bytes'] == size * (1 if links else 2) and size > 5 * 4 * 607
    state = read(tmp_path / 'last.pdstate')
    assert {name: list(array.shape) for name, array in state['ema'].items()} == SHAPES
    assert len(state['optimizer']) == 4 and state['model']['a.weight'].dtype.name == 'float32'
    assert checkpoint_benchmark.read(tmp_path, None)['seconds'] < 5


def test_committed_result_of_communication():
    found = result('communication')
    assert found['steps'] >= 20 and set(found['processes']) == {'2', '4'}
    for sides in found['processes'].values():
        assert set(sides) == {'now', 'before'}
        for side in sides.values():
            assert side['communication'] == pytest.approx(1 - side['ms alone'] / side['ms together'], abs=2e-3)
        assert sides['now']['host reads per step'] <= 0.5 < sides['before']['host reads per step']


def test_committed_result_of_checkpoints():
    found = result('checkpoint')
    assert found['model'] == 'cait_m48_448' and found['state MB'] == 4 * 4 * found['parameters'] >> 20
    for side, tags in (('before', 2), ('now', 1)):
        assert found['results'][side]['write']['bytes'] == pytest.approx(5 * 4 * tags * found['parameters'], rel=1e-3)
        assert set(found['results'][side]['read']) == {'seconds', 'CPU seconds', 'peak MB above'}
    before, now = (found['results'][side]['write']['peak MB above'] for side in ('before', 'now'))
    assert now < 0.1 * found['state MB'] < before


def test_committed_result_of_the_start_of_epochs():
    found = result('epoch_start')
    assert set(found['results']) == {f'{workers} workers, {size} GB' for workers, size in epoch_start.CASES}
    assert all(set(sides) == {'before', 'now'} for sides in found['results'].values())


def test_reduced_decode(tmp_path):
    """Of a small image nothing is reduced: both are measured on the same work. In the committed result large ones are
    at least 2.5 times as fast."""
    data_pipeline.make_images(tmp_path, 2, 60, 40)
    found = reduced_decode.measure(sorted(map(str, tmp_path.iterdir())), 3)
    assert {name: len(speeds) for name, speeds in found.items()} == {'whole': 3, 'reduced': 3}
    assert cv2.imread(str(tmp_path / '0001.jpg')).shape == (40, 60, 3)
    committed = result('reduced_decode')
    assert committed['ratio'] >= 2.5 and len(committed['rounds']['whole']) == 9
