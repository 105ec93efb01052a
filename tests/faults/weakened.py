# SPDX-License-Identifier: Apache-2.0
"""Scripts of this project with one protection taken away, to see that a check of tests/faults fails without it.

    python -m tests.faults.weakened seeds CaiT/main_single_gpu.py …     a step's seed depends on the time
    python -m tests.faults.weakened done infer.py …                     a resumed file of results starts anew
    python -m tests.faults.weakened moves export_model.py …             files of an export are copied, slowly

By monkeypatching in this process and those it forks: nothing of it is in the product.
"""
from __future__ import annotations

import argparse
import runpy
import shutil
import sys
import time
from pathlib import Path


def seeds() -> None:
    from CaiT.training import train_state, trainer
    trainer.step_seed = train_state.step_seed = lambda *_: time.time_ns() % 2 ** 31


def done() -> None:
    from CaiT.deploy.results import ResultFile
    ResultFile._read_existing = lambda self: None


def moves() -> None:
    from CaiT.deploy import folder

    def copied(temporary: Path, target: Path, last: str) -> None:
        for file in sorted(temporary.iterdir(), key=lambda one: one.name != last):
            shutil.copyfile(file, target / file.name)
            time.sleep(2)
    folder._move = copied


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('protection', choices=('seeds', 'done', 'moves'))
    parser.add_argument('script')
    parser.add_argument('words', nargs=argparse.REMAINDER, help='the arguments of the script')
    flags = parser.parse_args()
    globals()[flags.protection]()
    sys.argv = [flags.script, *flags.words]
    runpy.run_path(flags.script, run_name='__main__')
