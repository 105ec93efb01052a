# SPDX-License-Identifier: Apache-2.0
"""`make figures`: which files it writes and from what, what it leaves out, faults."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import paddle
import pytest
from PIL import Image

from CaiT.errors import InputError
from CaiT.tools import figures
from tests.models.small import small_model

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """MODEL: {NAME: cait, EMBED_DIM: 24, DEPTH: 3, NUM_HEADS: 3, PATCH_SIZE: 8, NUM_CLASSES: 5}
DATA: {IMAGE_SIZE: 32}
"""


@pytest.fixture
def folder(tmp_path):
    """A small config, and results of which one file is a benchmark against peers and three are others."""
    (tmp_path / 'small.yaml').write_text(CONFIG)
    (tmp_path / 'results').mkdir()
    row = {'model': 'm', 'threads': 1, 'batch': 8, 'limits': {}, 'rates': {'ours paddle fp32': {'median': 12.34}}}
    other = {'rows': [{'model': 'm', 'threads': 1, 'rates': {'kernel': 1}}]}
    for name, content in (('speed', {'rows': [row]}), ('other', other), ('tasks', {'tasks': {}}), ('list', [1])):
        (tmp_path / 'results' / f'{name}.json').write_text(json.dumps(content))
    return tmp_path


def words(folder, *more):
    return [f'-architecture={folder}/small.yaml', f'-results={folder}/results', f'-output_dir={folder}/images', *more]


def test_without_weights(folder, capsys):
    assert figures.main(words(folder)) == 0
    assert sorted(path.name for path in folder.rglob('*.*g')) == ['cait.svg', 'speed.svg']
    assert 'scores 3 x 16 x 16' in (folder / 'images/cait.svg').read_text()
    assert '>12<' in (folder / 'results/speed.svg').read_text()
    assert capsys.readouterr().out.splitlines()[-1] == 'attention.png: skipped, it needs -pretrained=PATH'


def test_attention(folder):
    pytest.importorskip('sklearn')
    model = small_model('cait_xxs24_224', image_size=32, patch_size=8, embed_dim=24, num_heads=3)
    paddle.save(model.state_dict(), str(folder / 'w.pdparams'))
    assert figures.main(words(folder, f'-pretrained={folder}/w.pdparams', f'-cfg={folder}/small.yaml')) == 0
    with Image.open(folder / 'images/attention.png') as sheet, Image.open(ROOT / 'docs/images/attention.png') as ours:
        assert sheet.size == ours.size  # two photographs, three cells each
    assert sorted(path.name for path in (folder / 'images').iterdir()) == ['attention.png', 'cait.svg']


def test_curves(folder, capsys):
    """Of the run's committed logs; the size follows from the number of panels."""
    pytest.importorskip('matplotlib')
    shutil.copytree(ROOT / 'benchmarks/results/training' / figures.RUN, folder / 'results/training' / figures.RUN)
    assert figures.main(words(folder)) == 0
    assert f'curves: {folder}/images/cait_grown.png' in capsys.readouterr().out
    with Image.open(folder / 'images/cait_grown.png') as made, Image.open(ROOT / 'docs/images/cait_grown.png') as ours:
        assert made.size == ours.size and len(made.convert('RGB').getcolors(1 << 24)) > 100


@pytest.mark.parametrize('word, message', [
    ('-architecture=vit_tiny_patch16_224', '-architecture: found vit_tiny_patch16_224, expected a CaiT'),
    ('-results=nowhere', '-results: found no folder nowhere, expected benchmarks/results of a clone')])
def test_faults(folder, word, message):
    with pytest.raises(InputError) as error:
        figures.main(words(folder, word))
    assert str(error.value) == message and not (folder / 'images').exists()


def test_make_figures():
    done = subprocess.run(['make', '-n', 'figures', 'PRETRAINED=a.pdparams', 'FLAGS=-notebook'], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert 'python -m CaiT.tools.figures -pretrained=a.pdparams -notebook' in done.stdout


@pytest.mark.parametrize('path', sorted((ROOT / 'docs/images').iterdir()), ids=lambda path: path.name)
def test_every_image_is_shown_and_whole(path):
    """A document shows it (with words for those who cannot see it), and it can be read to its end."""
    shown = [re.search(rf'!\[([^]]+)\]\([^)]*images/{re.escape(path.name)}\)', page.read_text(encoding='utf-8'))
             for page in (*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'))]
    assert any(shown), f'no document shows {path.name}'
    if path.suffix == '.svg':
        assert ElementTree.parse(path).getroot().get('aria-label')
    else:
        with Image.open(path) as image:
            image.load()
            assert max(image.size) <= 2000
