# SPDX-License-Identifier: Apache-2.0
"""``--help`` of every program of the repository answers, also where no optional package is installed."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a process for each program
ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('.', 'CaiT/**', 'benchmarks/**', 'test_tipc/**', 'tests/**')
PROGRAM = re.compile(r"^if __name__ == '__main__':|^\w.*\bsys\.argv\[", re.M)
NO_PROGRAMS = {'tests/test_tipc/stub_python.py': 'stands in for an interpreter'}
OPTIONAL = ('fastapi', 'gradio', 'httptools', 'ipykernel', 'matplotlib', 'multipart', 'nbclient', 'nncf', 'onnx',
            'onnxruntime', 'openvino', 'paddle2onnx', 'paddlex', 'prometheus_client', 'pyarrow', 'pytest', 'reprod_log',
            'tensorboardX', 'timm', 'torch', 'torchvision', 'tritonclient', 'uvicorn', 'visualdl')


def programs():
    paths = {path for folder in FOLDERS for path in ROOT.glob(f'{folder}/*.py') if not path.name.startswith('test_')}
    names = sorted(path.relative_to(ROOT).as_posix() for path in paths if PROGRAM.search(path.read_text('utf-8')))
    return [name for name in names if name not in NO_PROGRAMS]


def without_help(text):
    """The flags of an argparse help that have no text: neither beside them nor in a deeper line below."""
    found = re.findall(r'^  (-\S.*(?:\n {20,}\S.*)*)', text, re.M)
    return [entry for entry in found if '\n' not in entry and not re.search(r'\S {2,}\S', entry)]


@pytest.fixture(scope='module')
def absent(tmp_path_factory):
    """A folder for PYTHONPATH that hides the optional packages."""
    folder = tmp_path_factory.mktemp('absent')
    for name in OPTIONAL:
        text = f'raise ModuleNotFoundError("No module named {name!r}", name={name!r})\n'
        (folder / f'{name}.py').write_text(text, encoding='utf-8')
    return folder


@pytest.mark.parametrize('program', programs())
def test_help_is_given(program, absent):
    tool = re.fullmatch(r'(CaiT/tools/\w+)\.py', program)
    words = ['-m', tool.group(1).replace('/', '.')] if tool else [program]
    done = subprocess.run([sys.executable, *words, '--help'], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, env={**os.environ, 'PYTHONPATH': f'{absent}:{ROOT}'})
    assert (done.returncode, done.stderr) == (0, '') and len(done.stdout) > 150, done.stderr[-500:]
    assert program.startswith('tests/') or without_help(done.stdout) == []


def test_programs_are_found():
    found = programs()
    assert {'infer.py', 'CaiT/main_single_gpu.py', 'CaiT/tools/align_reference.py', 'benchmarks/bare_onnxruntime.py',
            'benchmarks/torch_peer.py', 'test_tipc/compare_results.py', 'tests/mutants.py'} <= set(found)
    assert len(found) >= 60 and 'CaiT/config.py' not in found


def test_a_flag_without_text_is_found():
    assert without_help('  -h, --help  show this\n  -x X\n  --long LONG\n                        text\n') == ['-x X']
