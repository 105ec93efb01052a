# SPDX-License-Identifier: Apache-2.0
"""benchmarks/scale.py on a small dataset, and the numbers that scale_plan.py derives."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'benchmarks'))
import scale  # noqa: E402
import scale_plan  # noqa: E402

from CaiT.data.datasets import build_dataset  # noqa: E402
from CaiT.errors import InputError  # noqa: E402

CONSTANTS = {'checkpoint': {'written bytes': 1e9, 'write seconds': 2.0, 'state bytes': 8e8, 'read seconds': 1.6},
             'order of an epoch': {size: {'seconds': 0.5, 'bytes': 24_000_000} for size in scale.SIZES},
             'parameters': {scale_plan.MODEL: 50_000_000}}


def rows():
    """As scale.py measures them."""
    row = {'reader': 'ours', 'first start': {'CPU seconds': 70.0}, 'later start': {'seconds': 0.25},
           'list bytes': 10**8}
    return [{**row, 'kind': kind, 'size': size} for kind in scale.KINDS for size in scale.SIZES]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(scale, 'SIZES', {'1.28M': {'images': 50, 'tar': (3, 20)}, '14M': {'images': 130}})
    monkeypatch.setattr(scale, 'CLASSES', 6)
    monkeypatch.setattr(scale, 'PER_CLASS', 10)
    monkeypatch.setattr(scale, 'MAX_LINKS', 25)


def test_the_data_that_is_measured(small, tmp_path):
    """Every path leads to a file, few files to all of them; labels are those of the folders."""
    tmp_path = tmp_path.resolve()
    for size, count in (('1.28M', 50), ('14M', 130)):
        found = build_dataset('imagenet2012', scale.make_data(tmp_path, size, 'list'), 'train', str, 6)
        assert len(found) == count and len({path for path, _ in found.samples}) == count
        assert all(Path(path).stat().st_size == scale.IMAGE_BYTES for path, _ in found.samples)
        assert all(f'/n{label:08d}/' in path for path, label in found.samples)
    assert len({path.stat().st_ino for path in (tmp_path / 'images').rglob('*.JPEG')}) == 3
    tars = build_dataset('tar', scale.make_data(tmp_path, '1.28M', 'tar'), 'train', lambda image: image, 6)
    assert len(tars) == 60 and tars.labels.tolist() == [number % 6 for number in range(20)] * 3
    assert len(tars[59][0].content) == scale.IMAGE_BYTES


@pytest.mark.slow  # starts two processes
def test_a_small_run(small, tmp_path):
    """One reader; a second command adds its rows and keeps the first's."""
    other = {'reader': 'ours', 'kind': 'parquet', 'size': '14M'}
    (tmp_path / 'r.json').write_text(json.dumps({'constants': {'x': 1}, 'rows': [other]}))
    assert scale.main(['--folder', str(tmp_path / 'data'), '--sizes', '1.28M', '--kinds', 'tar', '--batch', '4',
                       '--workers', '1', '--output', str(tmp_path / 'r.json')] + ['--readers', 'ours']) == 0
    found = json.loads((tmp_path / 'r.json').read_text())
    assert found['constants'] == {'x': 1} and found['rows'][1] == other and not (tmp_path / 'data').exists()
    first, again = found['rows'][0]['first start'], found['rows'][0]['later start']
    assert (first['images'], again['steps'], again['epoch steps']) == (60, 15, 15)
    assert 0 < again['worker at first batch MB'] <= again['peak of a worker MB'] < 2000
    assert again['seconds'] < again['first batch seconds'] and again['peak of parent MB'] >= 0


def test_numbers_of_the_plan():
    """64 devices with 16 images each make 1,250 steps of 1,024; by hand from the constants above."""
    found = list(scale_plan.column({'constants': CONSTANTS, 'rows': rows()}, scale_plan.Case(64, 16, '1.28M')).items())
    values = dict(found)
    assert values['steps of an epoch; images left out of it'] == '1,250; 0'
    assert values['stat calls at the start, tars'] == '64,000'
    assert values['read in an epoch, lists and tars'] == '144 GB (2.25 GB by a device)'  # 1.28 million times 112,640
    assert values['read in an epoch, parquet in random order'] == '14 TB'                # a hundred times as much
    assert values[f'checkpoint of {scale_plan.MODEL} with average, by rank 0'] == '1.00 GB, 2.0 s'
    assert values['log lines of rank 0 in an epoch; in 400 epochs'] == '14; 5,600'
    assert values['images of a device in an evaluation of 50,000'] == '781 or 782'
    opened = [value for name, value in found if name.startswith('files opened in the first epoch')]
    assert opened == ['645,395; 624,640']  # a later one: 488 of 1,000 tars are not open
    assert values['restart: state read by rank 0; sent to the others; seconds of rank 0'] == \
        '0.80 GB; 50 GB; 1.6 + 0.2 (index) + 0.5 (order)'


@pytest.mark.parametrize('images, shards, limit', [(300, 40, 512), (300, 40, 10), (5, 400, 512)])
def test_opened_tars(monkeypatch, images, shards, limit):
    """Against a simulation of TarShards: the first ``limit`` tars stay open, others are opened for each image."""
    monkeypatch.setattr(scale_plan, 'MAX_OPEN', limit)
    rng, counts = np.random.default_rng(0), []
    for _ in range(400):
        still_open, opens = set(), 0
        for shard in rng.integers(shards, size=images).tolist():
            opens += shard not in still_open
            if len(still_open) < limit:
                still_open.add(shard)
        counts.append(opens)
    assert scale_plan.opened_tars(images, shards) == pytest.approx(np.mean(counts), rel=0.02)


def test_what_was_not_measured_is_an_error(tmp_path):
    (tmp_path / 'r.json').write_text(json.dumps({'constants': CONSTANTS, 'rows': []}))
    with pytest.raises(InputError, match='found no row of tar, 1.28M; measure it with benchmarks/scale.py'):
        scale_plan.main(['--results', str(tmp_path / 'r.json')])


@pytest.mark.slow  # simulates samplers of 14 million images
def test_the_tables_of_the_page_are_those_of_the_result():
    text = (ROOT / 'docs/scale.md').read_text(encoding='utf-8')
    results = json.loads(scale_plan.RESULT.read_text(encoding='utf-8'))
    for table in (scale.table(results['rows']), scale_plan.table(results)):
        assert '\n'.join(table) in text
