# SPDX-License-Identifier: Apache-2.0
"""A copy of the certification scripts with a small dataset, run with a stub interpreter."""
from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).with_name('stub_python.py')
CONFIG = 'test_tipc/configs/CaiT/train_infer_python.txt'
LITE = 'lite_train_lite_infer'


@dataclasses.dataclass
class Result:
    """A script's status, output and the command lines it ran."""

    status: int
    output: str
    commands: List[str]  # CUDA_VISIBLE_DEVICES in brackets, then the words; test_tipc/output/ is written as …/

    @property
    def error(self) -> str:
        """The last line of the output."""
        return self.output.rstrip('\n').rpartition('\n')[2]


class Tree:
    """A checkout with test_tipc in it: ``root`` is its folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / 'test_tipc', root / 'test_tipc', ignore=shutil.ignore_patterns('output', '__pycache__'))
        for name in ('CaiT', 'export_model.py', 'infer.py'):
            (root / name).symlink_to(ROOT / name)
        for data in ('dataset/lite_data', 'dataset/digits', 'dataset/LSVRC2012'):
            self.write_data(data)
        self.python = root / 'stub_python'
        self.python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {STUB} "$@"\n', encoding='utf-8')
        self.python.chmod(0o755)

    def write_data(self, folder: str) -> None:
        """Two images (empty files) of two classes, and their lists."""
        for class_id in (0, 1):
            image = self.root / folder / 'valid' / str(class_id) / f'{class_id}_0001.png'
            image.parent.mkdir(parents=True)
            image.touch()
        lines = ''.join(f'valid/{k}/{k}_0001.png {k}\n' for k in (0, 1))
        for name in ('train_list.txt', 'val_list.txt', 'test_list.txt'):
            (self.root / folder / name).write_text(lines, encoding='utf-8')

    def write(self, path: str, text: str) -> None:
        """Write a file below the root."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding='utf-8')

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding='utf-8')

    def edit(self, path: str, number: int, line: str) -> None:
        """Replace a line, counted from 1, of a file."""
        lines = self.read(path).splitlines()
        lines[number - 1] = line
        self.write(path, '\n'.join(lines) + '\n')

    def run(self, script: str, *arguments: str, **environment: str) -> Result:
        """Run a script of test_tipc, the stub in the interpreter's place."""
        log = self.root / 'commands.jsonl'
        log.unlink(missing_ok=True)
        inherited = {key: value for key, value in os.environ.items() if key != 'CUDA_VISIBLE_DEVICES'}
        done = subprocess.run(['bash', f'test_tipc/{script}', *arguments], cwd=self.root, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**inherited, 'PYTHON': str(self.python), 'STUB_LOG': str(log), **environment})
        commands = []
        if log.exists():
            for line in log.read_text(encoding='utf-8').splitlines():
                cards, *words = json.loads(line)
                commands.append(f'[{"unset" if cards is None else cards}] {shlex.join(words)}'
                                .replace('test_tipc/output/', '…/'))
        return Result(done.returncode, done.stdout, commands)

    def chain(self, config: str = CONFIG, mode: str = LITE, **environment: str) -> Result:
        """Run the main chain."""
        return self.run('test_train_inference_python.sh', config, mode, **environment)
