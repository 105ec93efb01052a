# SPDX-License-Identifier: Apache-2.0
"""The short form of the fault campaign, and that its checks fail where a protection is taken away. `make faults` runs
the long form; kills of training are in tests/training/test_kill.py and test_many_processes.py too."""
from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults import failing_writes, fuzz_readers, memory_slopes, odd_images
from tests.faults.readers import TARGETS, kinds

ROOT = Path(__file__).resolve().parents[2]


def program(name: str, *words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(ROOT / 'tests/faults' / name), *map(str, words)], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=170)


@pytest.mark.parametrize('name', TARGETS)
@pytest.mark.filterwarnings('ignore')
def test_whole_files_are_read(tmp_path, name):
    """Else every mutation of them would be refused at the same place, and nothing behind it be tried."""
    seeds = TARGETS[name].seeds()
    if not seeds:
        pytest.skip('needs torch or pyarrow')
    TARGETS[name].read(tmp_path, seeds[0])


@pytest.mark.parametrize('name', TARGETS)
@pytest.mark.filterwarnings('ignore')
def test_mutated_files_are_read_or_refused(tmp_path, name):
    if not TARGETS[name].seeds():
        pytest.skip('needs torch or pyarrow')
    check = fuzz_readers.Checker(name, tmp_path, tmp_path / 'findings')
    fuzz_readers.run_seeded(check, fuzz_readers.seeds_of(name), 5, 80, 1)
    assert check.done >= min(80, len(fuzz_readers.seeds_of(name)))
    assert not check.seen, (tmp_path / 'findings').read_text()


def test_a_reader_without_its_net_is_found(tmp_path):
    done = program('fuzz_readers.py', 'npz', '--files', 100, '--mutator', 'seeded', '--findings', tmp_path / 'f',
                   '--weakened')
    assert done.returncode == 1 and 'findings: npz-' in done.stdout, done.stdout + done.stderr


def test_the_campaign_so_far():
    """What docs/reliability.md says of it."""
    done = program('fuzz_readers.py', '--seconds', 0, '--campaign', ROOT / 'tests/faults/campaign.json')
    found = re.fullmatch(r'(\d+) files, (\d+) s of the processor, 34 readers \(atheris\) of 19 kinds of file, each for '
                         r'(\d+) s at least \(\w+\), findings: none\n', done.stdout)
    files, seconds, least = map(int, found.groups())
    assert done.returncode == 0 and sorted(name for names in kinds().values() for name in names) == sorted(TARGETS)
    page = (ROOT / 'docs/reliability.md').read_text(encoding='utf-8')
    assert f'{files / 1e6:.1f} million files, {seconds:,} s of the processor in all, at least {least:,} s' in page


@pytest.fixture(scope='module')
def paths():
    return odd_images.paths()


@pytest.mark.filterwarnings('ignore')
def test_odd_images_are_the_same_to_all_four_paths(tmp_path, paths):
    results = []
    for number, (ending, content) in enumerate(odd_images.whole_images()):
        (tmp_path / f'{number}.{ending}').write_bytes(content)
        results.append(odd_images.check(tmp_path / f'{number}.{ending}', paths))
    assert [problem for _, problem in results if problem] == [] and sum(is_read for is_read, _ in results) >= 25


def test_half_an_image_in_training_alone_is_found(tmp_path, paths, monkeypatch):
    path = tmp_path / 'a.jpg'
    Image.effect_noise((80, 60), 90).convert('RGB').save(path)
    path.write_bytes(path.read_bytes()[:-2] + b'\xff\xda\xff\xff' + bytes(9) + b'\xff\xd9')
    assert odd_images.check(path, paths) == (False, '')
    monkeypatch.setattr('CaiT.data.decode._scans', lambda jpeg: (1, True))
    assert odd_images.check(path, paths)[1].startswith('read by some only')


@pytest.mark.parametrize('name', ['checkpoint', 'linked', 'converted', 'log', 'results_csv', 'results_jsonl', 'table',
                                  'lists', 'json', 'metadata'])
@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_every_third_operation(name, number):
    tried, wrong = failing_writes.campaign(name, number, 1 if name == 'linked' else 3)
    assert tried >= 3 and wrong == []


def test_writing_in_place_is_found(monkeypatch):
    monkeypatch.setattr('CaiT.training.checkpoint.atomic_write', failing_writes.in_place)
    assert failing_writes.campaign('checkpoint', errno.ENOSPC, 1)[1]


@pytest.mark.slow
def test_infer_killed_and_resumed():
    done = program('kills.py', 'infer', '--kills', 1, '--images', 100)
    assert done.returncode == 0 and 'nothing wrong' in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_workers_beside_the_threads_of_another_loader():
    done = program('forks.py', '--rounds', 20)
    assert done.returncode == 0 and done.stdout == '20 rounds, none waits for ever\n', done.stdout + done.stderr


def test_slope():
    samples = [(count, 500 + (100 if count > 500 else 0) + 0.5 * count / 1000) for count in range(100, 6000, 100)]
    assert memory_slopes.slope(samples) == pytest.approx(0.5)
    assert np.isclose(memory_slopes.slope([(count, 400.0) for count in range(100)]), 0)


def test_weights_of_strangers_never_reach_torch():
    """Releases of torch before 2.10 had holes in weights_only; .pth files are read by CaiT.safe_pickle alone."""
    for path in (ROOT / 'CaiT').rglob('*.py'):
        assert 'torch.load' not in path.read_text(encoding='utf-8'), path
