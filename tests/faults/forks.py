#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loaders whose workers are forked while Paddle's threads of another loader of the same process still run.

    python tests/faults/forks.py --rounds 1000

Each round reads an epoch in this process, which leaves such threads behind, then one with two workers. A round that
takes longer than SECONDS of the clock waits for ever: a worker was forked while one of the threads held a lock, and
waits for it at its first batch (Paddle 3.3.1). Then the exit status is 1.

Seen to fail: with --weakened nothing waits for the threads before the fork.
"""
from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SECONDS, BATCHES, BATCH = 60, 6, 4


class Images:
    def __len__(self) -> int:
        return BATCHES * BATCH

    def __getitem__(self, _: Any) -> Tuple[np.ndarray, np.int64]:
        return np.zeros((3, 64, 64), np.float32), np.int64(1)


def one_round() -> int:
    """The number of batches read."""
    from CaiT.data.loader import build_loader
    from CaiT.data.sampler import EvalSampler
    read = 0
    for workers in (0, 2):
        for _ in build_loader(Images(), EvalSampler(len(Images()), BATCH), workers, True):
            read += 1
    return read


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument('--rounds', type=int, default=1000)
    flags.add_argument('--weakened', action='store_true')
    args = flags.parse_args()
    if args.weakened:
        from CaiT.data import loader
        loader._wait_for_other_readers = lambda: None
    progress = [0, time.monotonic()]

    def watch() -> None:
        while time.monotonic() - progress[1] < SECONDS:
            time.sleep(1)
        print(f'round {progress[0] + 1} waits for ever', flush=True)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
    for number in range(args.rounds):
        progress[:] = number, time.monotonic()
        if one_round() != 2 * BATCHES:
            print(f'round {number + 1}: batches are missing')
            return 1
    print(f'{args.rounds} rounds, none waits for ever')
    return 0


if __name__ == '__main__':
    sys.exit(main())
