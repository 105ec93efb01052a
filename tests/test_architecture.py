# SPDX-License-Identifier: Apache-2.0
"""The package structure: layers without upward imports, lazy imports, file headers, module names."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / 'CaiT').rglob('*.py'))
# The packages that a package may import, besides the base modules and itself.
LAYERS = {'models': {'weights'}, 'config.py': {'models', 'weights'}, 'data': set(), 'weights': {'models'},
          'accelerate': {'models'}, 'training': {'models', 'config', 'data', 'weights', 'accelerate'},
          'deploy': {'models', 'config', 'data', 'weights', 'accelerate'},
          'serve': {'config', 'data', 'weights', 'deploy'}}
BASE_MODULES = {'checks', 'errors', 'files', 'cli', 'runtime', 'config_layers', 'pickled_objects', 'safe_json',
                'safe_pickle', 'safe_yaml', 'settings', '__version__'}


def imports(path: Path) -> set:
    """The packages and modules of CaiT that a file imports, at its top or within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        names = []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found.update(name.split('.')[1] for name in names if name.startswith('CaiT.'))
    return found


@pytest.mark.parametrize('path', [path for path in MODULES if path.relative_to(ROOT / 'CaiT').parts[0] in LAYERS],
                         ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_upward_import(path):
    """Of models, only the registry may import weights: in create_model, when there are weights to load."""
    package = path.relative_to(ROOT / 'CaiT').parts[0]
    allowed = LAYERS[package] - ({'weights'} if package == 'models' and path.stem != 'registry' else set())
    assert imports(path) - BASE_MODULES - {package.replace('.py', '')} <= allowed


@pytest.mark.parametrize('name', sorted(BASE_MODULES - {'__version__'}))
def test_base_modules_import_base_modules_only(name):
    assert imports(ROOT / 'CaiT' / f'{name}.py') <= BASE_MODULES


@pytest.mark.parametrize('module', ['CaiT', 'CaiT.data.transforms', 'CaiT.data.datasets', 'CaiT.weights.readers',
                                    'CaiT.tools.goldens', 'CaiT.tools.make_lists', 'CaiT.infer'])
def test_paddle_is_not_imported(module):
    code = f'import sys, {module}; assert "paddle" not in sys.modules and "torch" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize('path', MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_header(path):
    """License, docstring, postponed annotations; a package's file may be empty."""
    text = path.read_text(encoding='utf-8')
    if path.name == '__init__.py' and not text:
        return
    tree = ast.parse(text)
    assert text.startswith('# SPDX-License-Identifier: Apache-2.0\n') and ast.get_docstring(tree)
    if len(tree.body) > 1:
        assert isinstance(tree.body[1], ast.ImportFrom) and tree.body[1].module == '__future__'
    assert len(text.splitlines()) <= 400


def test_no_module_shadows_another():
    """Scripts of CaiT/ are run by path, which puts their folder first on the module search path."""
    names = {path.stem for path in (ROOT / 'CaiT').iterdir() if path.suffix == '.py' or path.is_dir()}
    others = set(getattr(sys, 'stdlib_module_names', ())) | {'paddle', 'numpy', 'cv2', 'PIL', 'yaml', 'yacs', 'tqdm',
                                                             'torch', 'timm', 'onnx', 'datasets', 'utils'}
    assert not names & others
