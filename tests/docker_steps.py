# SPDX-License-Identifier: Apache-2.0
"""Execute the COPY and RUN steps of a Dockerfile without Docker, for machines that have none.

    python tests/docker_steps.py [Dockerfile]

A new virtual environment with the Paddle of the base image's tag takes the place of the image, an empty folder that of
its WORKDIR. Paddle is that of the running interpreter where it has this version, else it is installed. The exit status
is that of the first step that fails.
"""
from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import List, Optional, Tuple

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.errors import run

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ('ARG', 'FROM', 'WORKDIR', 'COPY', 'RUN', 'CMD')


def steps(text: str) -> List[Tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, lines joined; ValueError for an instruction that is not KNOWN."""
    found = []
    for line in re.sub(r'\\\n', ' ', text).splitlines():
        if line.strip() and not line.startswith('#'):
            word, _, rest = line.strip().partition(' ')
            if word not in KNOWN:
                raise ValueError(f'{word}: expected one of {", ".join(KNOWN)}')
            found.append((word, rest.strip()))
    return found


def copy(arguments: str, folder: Path) -> None:
    *sources, target = shlex.split(arguments)
    for source in sources:
        path, name = ROOT / source, folder / target
        if path.is_dir():
            shutil.copytree(path, name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(path, name)


def borrow_paddle(version: str, site: Path) -> None:
    """Link the running interpreter's Paddle, if it has this version, into the folder of packages ``site``."""
    try:
        found = importlib.metadata.distribution('paddlepaddle')
    except importlib.metadata.PackageNotFoundError:
        return
    if found.version == version:
        for name in ('paddle', f'paddlepaddle-{version}.dist-info'):
            (site / name).symlink_to(Path(found.locate_file(name)).resolve())


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument('dockerfile', nargs='?', default='Dockerfile')
    dockerfile = parser.parse_args(arguments).dockerfile
    listed = steps((ROOT / dockerfile).read_text(encoding='utf-8'))
    version = re.search(r'paddle:(\d+\.\d+\.\d+)$', dict(listed)['FROM']).group(1)
    with tempfile.TemporaryDirectory() as name:
        folder, environment = Path(name) / 'work', Path(name) / 'venv'
        folder.mkdir()
        venv.create(environment, with_pip=True)
        for site in environment.glob('lib/python*/site-packages'):
            borrow_paddle(version, site)
        path = f'{environment}/bin:{os.environ["PATH"]}'
        variables = {**os.environ, 'PATH': path, 'PIP_DISABLE_PIP_VERSION_CHECK': '1'}
        variables.pop('PYTHONPATH', None)
        image = f'python -m pip install --quiet -c constraints.txt paddlepaddle=={version}'
        commands = [('RUN', image), *[step for step in listed if step[0] in ('COPY', 'RUN')]]
        shutil.copy(ROOT / 'constraints.txt', folder)
        for word, arguments in commands:
            started = time.monotonic()
            if word == 'COPY':
                copy(arguments, folder)
            else:
                status = subprocess.run(['bash', '-euo', 'pipefail', '-c', arguments], cwd=folder, env=variables,
                                        stdout=subprocess.DEVNULL).returncode
                if status:
                    print(f'{dockerfile}: status {status}: {arguments}', file=sys.stderr)
                    return status
            print(f'{time.monotonic() - started:6.1f} s  {word} {arguments[:100]}', flush=True)
    return 0


if __name__ == '__main__':
    run(main)
