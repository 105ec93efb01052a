# SPDX-License-Identifier: Apache-2.0
"""Scripts of this project with one protection taken away, to see that a check of tests/faults fails without it.

    python -m tests.faults.weakened seeds CaiT/main_single_gpu.py …     a step's seed depends on the time
    python -m tests.faults.weakened done infer.py …                     a resumed file of results starts anew
    python -m tests.faults.weakened spaced export_model.py …            as it is, with a second after each rename

By monkeypatching in this process and those it forks: nothing of it is in the product.
"""
from __future__ import annotations

import argparse
import os
import runpy
import sys
import time


def seeds() -> None:
    from CaiT.training import train_state, trainer
    trainer.step_seed = train_state.step_seed = lambda *_: time.time_ns() % 2 ** 31


def done() -> None:
    from CaiT.deploy.results import ResultFile
    ResultFile._read_existing = lambda self: None


def spaced() -> None:
    """No weakness: kills come between two renames more often."""
    replace = os.replace

    def slow(source: str, target: str) -> None:
        replace(source, target)
        time.sleep(1)
    os.replace = slow


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('protection', choices=('seeds', 'done', 'spaced'))
    parser.add_argument('script')
    parser.add_argument('words', nargs=argparse.REMAINDER, help='the arguments of the script')
    flags = parser.parse_args()
    globals()[flags.protection]()
    sys.argv = [flags.script, *flags.words]
    runpy.run_path(flags.script, run_name='__main__')
