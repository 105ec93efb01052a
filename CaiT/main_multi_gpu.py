# SPDX-License-Identifier: Apache-2.0
"""Train or evaluate on several devices, with the flags of main_single_gpu.py.

python -m paddle.distributed.launch --devices 0,1 CaiT/main_multi_gpu.py -cfg='CaiT/configs/cait_xxs24_224.yaml' …
python -m paddle.distributed.launch --nproc_per_node 2 CaiT/main_multi_gpu.py …     (CPU)
mpirun -n 8 python CaiT/main_multi_gpu.py …
srun python CaiT/main_multi_gpu.py …

-batch_size is per device.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import List, Optional

if not __package__:  # run by path: find the package, and keep the files beside this one from shadowing other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT import main_single_gpu
from CaiT.errors import run
from CaiT.training.launchers import join_job


def main(arguments: Optional[List[str]] = None) -> int:
    line = join_job(os.environ)
    if line and os.environ['PADDLE_TRAINER_ID'] == '0':
        print(line, flush=True)
    return main_single_gpu.main(arguments, __doc__)


if __name__ == '__main__':
    run(main)
