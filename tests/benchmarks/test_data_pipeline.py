# SPDX-License-Identifier: Apache-2.0
"""This project's side of the data benchmark; the other side needs timm and is not tested here."""
from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'data_pipeline.py'


def data_pipeline():
    spec = importlib.util.spec_from_file_location('data_pipeline', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_made_images_are_measured_and_saved(tmp_path):
    data_pipeline().make_images(tmp_path, 2)
    images = sorted(str(path) for path in tmp_path.glob('*.jpg'))
    assert all(30_000 < Path(path).stat().st_size < 60_000 for path in images)  # ImageNet's are about 42 KB
    requests = [{'task': 'train', 'seconds': 0.05}, {'task': 'train bicubic', 'seconds': 0.05},
                {'task': 'eval', 'save': str(tmp_path / 'eval.npy')}]
    result = subprocess.run([sys.executable, str(SCRIPT), '--serve', 'ours', *images], text=True, check=True,
                            input=''.join(json.dumps(request) + '\n' for request in requests), capture_output=True)
    first, second, saved = map(json.loads, result.stdout.splitlines())
    assert first['images/s'] > 5 and second['images/s'] > 5 and saved == {}
    assert np.load(tmp_path / 'eval.npy').shape == (2, 3, 224, 224)


def test_the_result_describes_the_made_images(tmp_path, monkeypatch):
    """They are gone when it is written. Both sides and the measurement are stand-ins."""
    module = data_pipeline()
    process = SimpleNamespace(stdin=io.StringIO(), wait=lambda: 0)
    for name, result in (('versions', {}), ('Side', SimpleNamespace(process=process)), ('compare_pixels', {}),
                         ('measure', {})):
        monkeypatch.setattr(module, name, lambda *_, result=result: result)
    assert module.main(['--peer-python', 'x', '--count', '2', '--output', str(tmp_path / 'result.json')]) == 0
    found = json.loads((tmp_path / 'result.json').read_text())['images']
    assert (found['count'], found['made'], found['width'], found['height']) == (2, True, 500, 375)


@pytest.mark.parametrize('words, expected', [
    (['--peer-python', '/home/a/python', '--windows', '31'], '--peer-python PEER --windows 31'),
    (['--peer-python=/home/a/python', '--images=/data/photos', '--output', '/tmp/x.json'],
     '--peer-python PEER --images FOLDER --output FILE')])
def test_no_path_of_the_machine_is_written(words, expected):
    private = {'/home/a/python': 'PEER', '/data/photos': 'FOLDER', '/tmp/x.json': 'FILE'}
    assert data_pipeline().command(words, private) == f'python benchmarks/data_pipeline.py {expected}'


def test_sizes_are_medians(tmp_path):
    paths = []
    for number, size in enumerate([(10, 20), (30, 40), (35, 90)]):
        paths.append(str(tmp_path / f'{number}.png'))
        Image.new('RGB', size).save(paths[-1])
    assert data_pipeline().sizes(paths) == {'width': 30, 'height': 40}


@pytest.mark.skipif(importlib.util.find_spec('timm') is not None, reason='timm is here')
def test_a_peer_that_lacks_timm_is_one_line(tmp_path):
    result = subprocess.run([sys.executable, str(SCRIPT), '--peer-python', sys.executable, '--output',
                             str(tmp_path / 'x.json')], text=True, check=False, capture_output=True)
    assert result.returncode == 2 and result.stderr.count('\n') == 1 and 'No module named' in result.stderr
