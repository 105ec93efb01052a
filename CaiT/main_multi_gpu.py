# SPDX-License-Identifier: Apache-2.0
"""Train or evaluate on several devices, with the flags of main_single_gpu.py.

python -m paddle.distributed.launch --devices 0,1 CaiT/main_multi_gpu.py -cfg='CaiT/configs/cait_xxs24_224.yaml' …
python -m paddle.distributed.launch --nproc_per_node 2 CaiT/main_multi_gpu.py …     (CPU)

-batch_size is per device.
"""
from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run by path: find the package, and keep the files beside this one from shadowing other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.errors import run
from CaiT.main_single_gpu import main

if __name__ == '__main__':
    run(main)
