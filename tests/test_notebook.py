# SPDX-License-Identifier: Apache-2.0
"""The quick-start notebook: stored without outputs, bilingual, valid commands, its page up to date; slow: run."""
from __future__ import annotations

import ast
import io
import json
import re
import shlex
import subprocess
import sys
from typing import Iterator, List

import numpy as np
import pytest
from PIL import Image

from CaiT.tools import run_notebook
from tests.commands import ROOT, Fault, check

CELLS = json.loads(run_notebook.NOTEBOOK.read_text(encoding='utf-8'))['cells']
CODE = [''.join(cell['source']) for cell in CELLS if cell['cell_type'] == 'code']
TEXT = [''.join(cell['source']) for cell in CELLS if cell['cell_type'] == 'markdown']
MAX_IMAGE_BYTES = 100_000  # bytes


def commands() -> Iterator[List[str]]:
    """The words of every ``run('…')`` in the notebook, its variables filled in."""
    for source in CODE:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'run':
                expression = compile(ast.Expression(node.args[0]), 'notebook', 'eval')
                names = {'OUTPUT': 'output/notebook', 'EPOCHS': 1, 'published': ['weights/XXS24_224.pth']}
                yield shlex.split(eval(expression, names))


def test_outputs_are_not_stored():
    for cell in CELLS:
        if cell['cell_type'] == 'code':
            assert cell['outputs'] == [] and cell['execution_count'] is None


def test_headings_are_in_both_languages():
    headings = [line for text in TEXT for line in text.splitlines() if line.startswith('#')]
    assert len(headings) >= 11
    for heading in headings:
        assert re.search('[\u4e00-\u9fff]', heading) and re.search('[A-Za-z]{3}', heading), heading


def test_commands_would_be_understood():
    found = list(commands())
    programs = {word for words in found for word in words if word.endswith('.py') or word.startswith('CaiT.')}
    assert {'CaiT.tools.make_digits', 'CaiT/main_single_gpu.py', 'export_model.py', 'infer.py',
            'CaiT.tools.convert_weights'} <= programs
    for words in found:
        check(words)
    with pytest.raises(Fault):
        check([*found[-1], '--unknown'])


def test_the_page_shows_this_notebook():
    page = run_notebook.PAGE.read_text(encoding='utf-8')
    for source in CODE:
        assert f'```python\n{source}\n```' in page, 'run python -m CaiT.tools.run_notebook --write'
    for text in TEXT:
        assert text.replace('](../docs/', '](') in page
    images = re.findall(r'\]\(images/(quickstart-\d+\.png)\)', page)
    assert len(images) == sum(bool(re.search(r'\bshow\(', source)) for source in CODE)
    for name in images:
        size = (run_notebook.PAGE.parent / 'images' / name).stat().st_size
        assert size < MAX_IMAGE_BYTES, f'{name}: {size} bytes'
    assert 'Traceback' not in page and str(ROOT) not in page


def test_outputs_become_markdown():
    png = 'iVBORw0KGgo='
    text, images = run_notebook.render([
        {'cell_type': 'markdown', 'source': 'see [data](../docs/data.md)'},
        {'cell_type': 'code', 'source': 'x', 'outputs': [
            {'output_type': 'stream', 'name': 'stdout', 'text': '\x1b[33m one \x1b[0m\n'},
            {'output_type': 'stream', 'name': 'stdout', 'text': 'two\n'},
            {'output_type': 'stream', 'name': 'stderr', 'text': 'noise'},
            {'output_type': 'display_data', 'data': {'image/png': png, 'text/plain': '<Figure>'}}]}])
    assert text == run_notebook.HEAD + ('\nsee [data](data.md)\n\n```python\nx\n```\n\n```\n one \ntwo\n```\n\n'
                                        '![quickstart-1](images/quickstart-1.png)\n')
    assert images == {'quickstart-1.png': b'\x89PNG\r\n\x1a\n'}


def test_images_of_the_page_have_256_colors_at_most():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    small = run_notebook.compact(file.getvalue())
    image = Image.open(io.BytesIO(small))
    assert (image.format, image.mode, image.size) == ('PNG', 'P', (64, 64)) and len(small) < len(file.getvalue()) / 2


@pytest.mark.slow
def test_it_runs_from_top_to_bottom():
    pytest.importorskip('nbclient')
    done = subprocess.run([sys.executable, '-m', 'CaiT.tools.run_notebook', '--timeout=300'], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    assert f'{len(CELLS)} cells ran' in done.stdout
