# SPDX-License-Identifier: Apache-2.0
"""Run the ``bash`` blocks of the documents, in order, each page in a fresh copy of the repository.

    python tests/run_documents.py                             all pages (hours on two cores: trainings run to their end)
    python tests/run_documents.py docs/data.md --epochs 1     one page, its trainings cut to an epoch
    python tests/run_documents.py --list                      what is not run, and why

A line is run by bash; its status must be 0 or the one of STATUS. What needs data, weights or devices that a fresh copy
lacks is in NOT_RUN with the reason. Pages that use the results of the README's five commands get them.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from tests.commands import ROOT, blocks

PAGES = sorted(path.relative_to(ROOT).as_posix() for pattern in
               ('*.md', 'docs/*.md', 'dataset/README.md', 'test_tipc/*.md', 'test_tipc/docs/*.md')
               for path in ROOT.glob(pattern) if '```bash' in path.read_text(encoding='utf-8'))
# (pattern of a line, why it is not run)
NOT_RUN = (
    (r'--devices|gpu_check|gpu-check|paddlepaddle-gpu|requirements-gpu|float16|fleet|normal_amp', 'needs a GPU'),
    (r'LSVRC2012|dataset/(wds|imagenet-1k|goldens)', 'needs ImageNet or published golden values'),
    (r'(dataset|output)/(flowers|imagenette|imagenet_val|cifar|coco)|dataset=cifar|Downloads|(my|dog)\.jpg|=images\b|=IMAGES|photos|other\.csv',
     "needs the user's images"),
    (r'weights/|=zoo|weights get|weights verify|CaiT/vit_tiny|resnet152', 'needs published weights'),
    (r'[Pp]eer|make_peers|-live|paddle2onnx|quantiz', 'needs packages beside those of the tests; hours'),
    (r'output/(RUN|xxs24|benchmark|meanpool|paddle2|other)', "needs the user's run"),
    (r'^(git|source|cd|pip|docker)\b|-m venv|YOUR_FORK|REPOSITORY', 'sets up an environment: .ci/run does it'),
    (r'^make\b', 'a target of its own, most of them in .ci/run'),
    (r'^(mpirun|srun|ssh)\b', 'needs MPI or Slurm'),
    (r'^cait serve|curl|--port', 'runs until it is stopped: tests/serve'),
    (r'http\.server|^python app\.py', 'runs until it is stopped: make web-test, make gradio-test'),
    (r'^npm|^tar|--ort-web', 'needs a package of npm: make web-test'),
    (r'benchmarks/|tools\.benchmark|tools\.figures|tests/faults|pytest|make_shards', 'a long measurement or test'),
    (r'test_tipc/(test_|benchmark_|prepare|compare)|lite_data', 'a certification chain: make tipc, make tipc-all'),
)
STATUS = {r'-perturb': 1, r'tools\.memory': (0, 1)}  # lines that are to fail, or may
FIVE = 5  # lines of the README's first block that make output/digits


def lines(page: str) -> Iterator[Tuple[int, str]]:
    """(line number, command line without comment) of a page's bash blocks; continued lines are one."""
    for start, block in blocks((ROOT / page).read_text(encoding='utf-8'), 'bash'):
        joined = re.sub(r'\\\n\s*', lambda match: ' ' + '\0' * match.group().count('\n'), block)
        number = start
        for line in joined.splitlines():
            text = re.sub(r'(^|\s)#.*$', '', line.replace('\0', '')).strip()
            if text:
                yield number, text
            number += 1 + line.count('\0')


def reason(line: str) -> Optional[str]:
    """Why a line is not run, or None."""
    return next((why for pattern, why in NOT_RUN if re.search(pattern, line)), None)


def run(line: str, folder: Path, epochs: int) -> Tuple[int, str]:
    """(status, output) of a line in ``folder``."""
    if epochs and re.search(r'main_(single|multi)_gpu\.py|cait train', line) and not re.search('-eval|-pred', line):
        head, opts, rest = line.partition(' -opts ')
        line = f'{head} -epochs={epochs}{opts}{rest}'
    tools = folder / '.tools'
    tools.mkdir(exist_ok=True)
    for name, command in (('python', sys.executable), ('cait', f'{sys.executable} -m CaiT')):
        (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding='utf-8')
        (tools / name).chmod(0o755)
    done = subprocess.run(['bash', '-c', line], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, 'PATH': f'{tools}:{os.environ["PATH"]}', 'PYTHONPATH': str(folder)})
    return done.returncode, done.stdout


def is_expected(line: str, status: int) -> bool:
    allowed = next((value for pattern, value in STATUS.items() if re.search(pattern, line)), 0)
    return status in allowed if isinstance(allowed, tuple) else status == allowed


def copy(folder: Path) -> None:
    """The files of the repository that git knows or would add."""
    command = ['git', 'ls-files', '-co', '--exclude-standard', '-z']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\0')
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def uses_digits(found: List[str]) -> bool:
    """Whether a page reads output/digits before it makes it."""
    first = next((line for line in found if 'output/digits' in line), '')
    return bool(first) and not re.search(r'-output_dir=output/digits\b(?!_)', first) or any(
        'resume auto' in line for line in found if 'output/digits ' in line)


def prepare(folder: Path, found: List[str], epochs: int) -> None:
    """What the README's five commands leave: the dataset, and output/digits if the page uses it."""
    five = [line for _, line in lines('README.md') if 'digits' in line and not reason(line)][:FIVE]
    for line in five if uses_digits(found) else five[:1]:
        status, output = run(line, folder, epochs)
        if status:
            raise SystemExit(f'{line}\n{output}')


def run_page(page: str, epochs: int, report=print) -> int:
    """Run a page's lines; the number of those that failed."""
    failed = 0
    found = [(number, line, reason(line)) for number, line in lines(page)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / 'CaiT'
        folder.mkdir()
        copy(folder)
        if page not in ('README.md', 'README_cn.md') and any(not why for _, _, why in found):
            prepare(folder, [line for _, line, why in found if not why], epochs)
        for number, line, why in found:
            if why:
                report(f'{page}:{number}: not run, {why}: {line}')
                continue
            started = time.time()
            status, output = run(line, folder, epochs)
            good = is_expected(line, status)
            failed += not good
            report(f'{page}:{number}: {"ran" if good else f"STATUS {status}"}, {time.time() - started:.0f} s: {line}')
            if not good:
                report('\n'.join(output.splitlines()[-15:]))
    return failed


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument('pages', nargs='*', default=[], help='default: all')
    parser.flag('epochs', type=int, default=0, metavar='N', help='cut trainings to N epochs; 0: not')
    parser.switch('list', help='only list what is not run')
    options = parser.parse_args(arguments)
    failed = 0
    for page in options.pages or PAGES:
        if options.list:
            for number, line in lines(page):
                if reason(line):
                    print(f'{page}:{number}: {reason(line)}: {line}')
        else:
            failed += run_page(page, options.epochs, lambda text: print(text, flush=True))
    print(f'{failed} lines failed' if failed else 'no line failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
