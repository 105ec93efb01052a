# SPDX-License-Identifier: Apache-2.0
"""The house's own rules: floors, laziness, names, headers."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / 'CaiT').rglob('*.py'))
# Which packages a package may import from, besides the base (errors, files, cli, runtime) and itself.
FLOORS = {'models': {'weights'}, 'config.py': {'models'}, 'data': set(), 'weights': {'models'},
          'accelerate': {'models'}, 'training': {'models', 'config', 'data', 'weights', 'accelerate'},
          'deploy': {'models', 'config', 'data', 'weights'}}
GROUND = {'errors', 'files', 'cli', 'checks', 'runtime', '__version__', 'config_layers', 'pickled_objects', 'safe_json',
          'safe_pickle', 'safe_yaml'}


def imports(path: Path) -> set:
    """Rooms of CaiT that a file imports anywhere, lazily too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        names = []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found.update(name.split('.')[1] for name in names if name.startswith('CaiT.'))
    return found


@pytest.mark.parametrize('path', [path for path in MODULES if path.relative_to(ROOT / 'CaiT').parts[0] in FLOORS],
                         ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_import_runs_upwards(path):
    """The registry alone may enter the weights' room, inside create_model, when there is something to load."""
    room = path.relative_to(ROOT / 'CaiT').parts[0]
    allowed = FLOORS[room] - ({'weights'} if room == 'models' and path.stem != 'registry' else set())
    assert imports(path) - GROUND - {room.replace('.py', '')} <= allowed


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


def test_nothing_shadows_a_module():
    """Scripts of CaiT/ are run by path; a file beside them must not stand in for a module of the same name."""
    names = {path.stem for path in (ROOT / 'CaiT').iterdir() if path.suffix == '.py' or path.is_dir()}
    taken = set(getattr(sys, 'stdlib_module_names', ())) | {'paddle', 'numpy', 'cv2', 'PIL', 'yaml', 'yacs', 'tqdm',
                                                            'torch', 'timm', 'onnx', 'datasets', 'utils'}
    assert not names & taken
