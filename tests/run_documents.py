# SPDX-License-Identifier: Apache-2.0
"""Run the ``bash`` blocks of the documents, in order, each page in a fresh copy of the repository.

    python tests/run_documents.py                             all pages (hours on two cores: trainings run to their end)
    python tests/run_documents.py docs/data.md --epochs 2     one page, its trainings cut to two epochs
    python tests/run_documents.py --epochs 2 --write          what ran, when, and what did not: tests/run_documents.tsv
    python tests/run_documents.py --list                      what is not run, and why
    python tests/run_documents.py --sync                      only bring tests/run_documents.tsv to the pages' lines

The table has a row for each line of the pages; a line that ran on another page, but not yet on its own, names it.

A line is run by bash; its status must be 0 or the one of STATUS. A server runs until the page ends or the next one
starts. In the place of weights and datasets that a reader brings there are random weights and made images
(document_stand_ins.py). What has no such place is in NOT_RUN with the reason. Pages that use the results of the
README's five commands get them.
"""
from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.errors import run as run_program
from tests.repository_copy import ROOT, copy

PAGES = sorted(path.relative_to(ROOT).as_posix() for pattern in
               ('*.md', 'docs/*.md', 'dataset/README.md', 'test_tipc/*.md', 'test_tipc/docs/*.md')
               for path in ROOT.glob(pattern) if '```bash' in path.read_text(encoding='utf-8'))
# (pattern of a line, why it is not run)
NOT_RUN = (
    (r'launch --devices|gpu_check|gpu-check|paddlepaddle-gpu|requirements-gpu|float16|fleet|normal_amp', 'needs a GPU'),
    (r'dataset/(wds|imagenet-1k|goldens)', 'needs shards of ImageNet, or published golden values'),
    (r'(dataset|output)/(imagenette|imagenet_val|cifar)|dataset=cifar|Downloads', 'needs a dataset to be downloaded'),
    (r'=zoo|weights get|resnet152', 'needs a network'),
    (r'[Pp]eer|make_peers|-live|paddle2onnx|quantiz|paddleclas', 'needs packages beside those of the tests; hours'),
    (r'output/(benchmark/|meanpool|paddle2\b)|shipped_model|tools\.build_kernel', "needs the reader's own model"),
    (r'^(git|source|cd|pip|docker)\b|-m venv|YOUR_FORK|REPOSITORY', 'sets up an environment: .ci/run does it'),
    (r'^make\b', 'a target of its own, most of them in .ci/run'),
    (r'^(mpirun|srun|ssh)\b', 'needs MPI or Slurm'),
    (r'^python app\.py', 'needs Gradio: make gradio-test'),
    (r'^npm|^tar|--ort-web|infer/web', 'needs a package of npm: make web-test'),
    (r'benchmarks/|tests/faults|pytest|whole_train|benchmark_train|tools\.benchmark', 'a long measurement or test'),
)
SERVER = r'^(cait serve|python -m http\.server)\b'
READY = r'serve: ready|Serving HTTP'
SECONDS = 120  # for a server to be ready
TABLE = ROOT / 'tests/run_documents.tsv'
STATUS = {r'-perturb': 1, r'tools\.memory': (0, 1)}  # lines that are to fail, or may
FIVE = 5  # lines of the README's first block that make output/digits


def lines(page: str) -> Iterator[Tuple[int, str]]:
    """(line number, command line without comment) of a page's bash blocks; continued lines are one."""
    from tests.commands import blocks  # here, and below: what it imports takes seconds, which --help need not
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


def environment(folder: Path) -> Dict[str, str]:
    """With this interpreter as ``python`` and the copy's command ``cait``."""
    tools = folder / '.tools'
    tools.mkdir(exist_ok=True)
    for name, command in (('python', sys.executable), ('cait', f'{sys.executable} -m CaiT')):
        (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding='utf-8')
        (tools / name).chmod(0o755)
    return {**os.environ, 'PATH': f'{tools}:{os.environ["PATH"]}', 'PYTHONPATH': str(folder), 'PYTHONUNBUFFERED': '1'}


def run(line: str, folder: Path, epochs: int) -> Tuple[int, str]:
    """(status, output) of a line in ``folder``."""
    if epochs and re.search(r'main_(single|multi)_gpu\.py|cait train', line) and not re.search('-eval|-pred', line):
        head, opts, rest = line.partition(' -opts ')
        line = f'{head} -epochs={epochs}{opts}{rest}'
    done = subprocess.run(['bash', '-c', line], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment(folder))
    return done.returncode, done.stdout


class Server:
    """A program of a page that runs until it is stopped."""

    def __init__(self, line: str, folder: Path) -> None:
        variables = environment(folder)
        self.log = folder / '.tools/server.log'
        with open(self.log, 'w', encoding='utf-8') as log:
            self.process = subprocess.Popen(['bash', '-c', f'exec {line}'], cwd=folder, stdout=log, stderr=log,
                                            env=variables, start_new_session=True)

    def wait(self) -> Tuple[int, str]:
        """(0 when it is ready, output so far)"""
        until = time.time() + SECONDS
        while time.time() < until and self.process.poll() is None:
            if re.search(READY, self.log.read_text(encoding='utf-8')):
                return 0, ''
            time.sleep(0.2)
        return self.process.poll() or 124, self.log.read_text(encoding='utf-8')

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(30)


def is_expected(line: str, status: int) -> bool:
    allowed = next((value for pattern, value in STATUS.items() if re.search(pattern, line)), 0)
    return status in allowed if isinstance(allowed, tuple) else status == allowed


def uses_digits(found: List[str]) -> bool:
    """Whether a page reads output/digits before it makes it."""
    first = next((line for line in found if 'output/digits' in line), '')
    return bool(first) and not re.search(r'-output_dir=output/digits\b(?!_)', first) or any(
        'resume auto' in line for line in found if 'output/digits ' in line)


def prepare(folder: Path, found: List[str], epochs: int) -> None:
    """What the README's five commands leave: the dataset, and output/digits if the page uses it."""
    digits = uses_digits(found) or any('output/RUN' in line for line in found)
    made = Path(five_commands(FIVE if digits else 1, epochs).name) / 'clone'
    for name in ('dataset', 'output'):
        if (made / name).is_dir():
            shutil.copytree(made / name, folder / name, dirs_exist_ok=True)


@functools.lru_cache(maxsize=None)
def five_commands(count: int, epochs: int) -> 'tempfile.TemporaryDirectory[str]':
    """A folder that lasts as long as this program: in its ``clone``, a copy of the repository, the first ``count`` of
    the README's commands were run."""
    temporary = tempfile.TemporaryDirectory()
    folder = copy(temporary.name)
    for line in [line for _, line in lines('README.md') if 'digits' in line and not reason(line)][:count]:
        status, output = run(line, folder, epochs)
        if status:
            raise SystemExit(f'{line}\n{output}')
    return temporary


class Outcome(NamedTuple):
    """Of a line: what happened ('ran', 'ran on stand-ins', with ', on PAGE' for a line that ran on another page,
    'STATUS n', 'not run: why', 'not run yet'), on which day, in how many seconds."""
    page: str
    result: str
    day: str
    seconds: str
    line: str


def run_page(page: str, epochs: int, report: Callable[[str], None] = print) -> List[Outcome]:
    """Run a page's lines."""
    from tests import document_stand_ins
    found = [(number, line, reason(line)) for number, line in lines(page)]
    outcomes, server = [], None
    with tempfile.TemporaryDirectory() as name:
        folder = copy(name)
        runnable = [line for _, line, why in found if not why]
        if page not in ('README.md', 'README_cn.md') and runnable:
            prepare(folder, runnable, epochs)
        stand_ins = document_stand_ins.make(folder, runnable)
        for number, line, why in found:
            if why:
                report(f'{page}:{number}: not run, {why}: {line}')
                outcomes.append(Outcome(page, f'not run: {why}', '', '', line))
                continue
            started = time.time()
            if re.search(SERVER, line):
                if server:
                    server.stop()
                server = Server(line, folder)
                status, output = server.wait()
            else:
                status, output = run(line, folder, epochs)
            good, seconds = is_expected(line, status), f'{time.time() - started:.0f}'
            made = ' on stand-ins' if document_stand_ins.needed([line]) and stand_ins else ''
            result = f'ran{made}' if good else f'STATUS {status}'
            outcomes.append(Outcome(page, result, time.strftime('%Y-%m-%d'), seconds, line))
            report(f'{page}:{number}: {result}, {seconds} s: {line}')
            if not good:
                report('\n'.join(output.splitlines()[-15:]))
        if server:
            server.stop()
    return outcomes


def recorded() -> List[Outcome]:
    text = TABLE.read_text(encoding='utf-8') if TABLE.is_file() else ''
    return [Outcome(*row.split('\t', 4)) for row in text.splitlines() if row and not row.startswith('#')]


def rows_of_the_pages(outcomes: List[Outcome]) -> List[Outcome]:
    """A row for each line of the pages, in their order: its outcome, the reason why it is not run, else that of another
    page where it ran."""
    commands = [(page, line) for page in PAGES for _, line in lines(page)]
    own, elsewhere = defaultdict(list), {}
    for one in outcomes:
        own[one.page, one.line].append(one)
        if re.fullmatch('ran( on stand-ins)?', one.result) and (one.page, one.line) in commands:
            elsewhere.setdefault(one.line, one._replace(result=f'{one.result}, on {one.page}'))
    rows = []
    for page, line in commands:
        mine, why = own[page, line], reason(line)
        row = mine[0] if mine else Outcome(page, 'not run yet', '', '', line)
        del mine[:1]
        if why:
            row = Outcome(page, f'not run: {why}', '', '', line)
        elif not re.fullmatch('ran( on stand-ins)?|STATUS .*', row.result):
            row = elsewhere.get(line, Outcome(page, 'not run yet', '', '', line))._replace(page=page)
        rows.append(row)
    return rows


def record(outcomes: List[Outcome]) -> None:
    """Put outcomes into the table, in the place of earlier ones of their pages."""
    pages = {one.page for one in outcomes}
    rows = rows_of_the_pages(outcomes + [one for one in recorded() if one.page not in pages])
    header = '# page, result, day, seconds, command; written by: python tests/run_documents.py --epochs 2 --write\n'
    TABLE.write_text(header + ''.join('\t'.join(one) + '\n' for one in rows), encoding='utf-8')


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument('pages', nargs='*', default=[], help='default: all')
    parser.flag('epochs', type=int, default=0, metavar='N', help='cut trainings to N epochs; 0: not')
    parser.switch('list', help='only list what is not run')
    parser.switch('sync', help=f'only write a row of {TABLE.name} for each line of the pages')
    parser.switch('write', help=f'record the outcomes in {TABLE.name}')
    options = parser.parse_args(arguments)
    if options.sync:
        record([])
        return 0
    failed = 0
    for page in options.pages or PAGES:
        if options.list:
            for number, line in lines(page):
                if reason(line):
                    print(f'{page}:{number}: {reason(line)}: {line}')
            continue
        outcomes = run_page(page, options.epochs, lambda text: print(text, flush=True))
        failed += sum(one.result.startswith('STATUS') for one in outcomes)
        if options.write:
            record(outcomes)
    print(f'{failed} lines failed' if failed else 'no line failed')
    return 1 if failed else 0


if __name__ == '__main__':
    run_program(main)
