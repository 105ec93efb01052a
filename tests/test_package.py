# SPDX-License-Identifier: Apache-2.0
"""What the package declares; `.ci/package` builds, installs and tries it."""
from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from CaiT.errors import InputError
from CaiT.tools import align, make_digits

ROOT = Path(__file__).resolve().parents[1]
PACKAGING = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')


def ranges(block: str) -> dict:
    """{package: its range} of a list of requirements."""
    text = PACKAGING.split(f'\n{block} = [', 1)[1].split(']', 1)[0]
    return {name: limits for name, limits in re.findall(r'"([\w-]+)([^";]*)', text)}


def test_no_dependency_is_pinned():
    found = ranges('dependencies')
    assert found['paddlepaddle'] == '>=3.0,<3.4'  # the versions of `make versions`: a user's own is kept
    assert {name for name, limits in found.items() if '==' in limits or '<' in limits} == {'paddlepaddle'}
    assert {'setuptools', 'matplotlib', 'scikit-learn'} <= set(found) and 'reprod_log' not in found
    assert found['numpy'] == '>=1.23' and found['PyYAML'] == '>=6'
    assert ranges('onnxruntime')['onnxruntime'] == '>=1.19'  # 1.18 ends the process


def test_metadata():
    assert 'license = "Apache-2.0"' in PACKAGING and '[project.urls]' in PACKAGING and 'authors = ' in PACKAGING
    assert (ROOT / 'CaiT/py.typed').is_file() and '"py.typed"' in PACKAGING


@pytest.mark.parametrize('module, package, call', [
    ('reprod_log', 'reprod_log', lambda path: align.report('loss', {}, {}, path)),
    ('sklearn.datasets', 'scikit-learn', lambda path: make_digits.digits())])
def test_a_missing_package_is_one_line_with_its_name_on_the_index(monkeypatch, tmp_path, module, package, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f'needs {package}, found none: pip install {package}$'):
        call(tmp_path)


def test_no_message_suggests_this_package_from_the_index():
    """It is not there."""
    found = [path.name for path in [*(ROOT / 'CaiT').rglob('*.py'), *ROOT.glob('*.py'), *(ROOT / 'docs').glob('*.md')]
             if re.search(r'pip install [\'"]?paddle-cait', path.read_text(encoding='utf-8'))]
    assert found == []
