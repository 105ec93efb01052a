# SPDX-License-Identifier: Apache-2.0
"""One reader of scale.py, in a process of its own: opens a dataset, reads an epoch of it, prints what that took.

    python benchmarks/scale_reader.py '{"reader": "ours", "kind": "tar", "data": "...", "batch": 256, ...}'

Readers: ours; timm (ImageFolder and its reader of tars, under torch's DataLoader); paddleclas (ImageNetDataset from a
checkout, under Paddle's DataLoader). Images are read but not decoded: the transform returns a constant.
"""
from __future__ import annotations

import json
import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.process_memory import status  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.errors import run  # noqa: E402

MB = 1 << 20
SAMPLES = 10  # times that the memory of the workers is looked at in an epoch
CLASSES = 1000


class Read:
    """A transform that reads an image, and returns three numbers in its place."""

    def __call__(self, image: Any, rng: Any = None) -> Any:
        import numpy as np
        if isinstance(image, str):
            with open(image, 'rb') as file:
                image = file.read()
        assert len(getattr(image, 'content', image)) > 1000
        return np.zeros((3, 1, 1), np.float32)


def ours(job: Dict[str, Any]) -> Tuple[Callable, Callable]:
    """(opens the dataset, makes its loader): as training does."""
    from CaiT import runtime
    runtime.prepare()
    from CaiT.data.datasets import build_dataset
    from CaiT.data.loader import build_loader
    from CaiT.data.sampler import TrainSampler
    name = {'list': 'imagenet2012'}.get(job['kind'], job['kind'])

    def loader(dataset: Any) -> Any:
        sampler = TrainSampler(len(dataset), job['batch'], seed=0, block=job['block'])
        return build_loader(dataset, sampler, job['workers'], True)
    return lambda: build_dataset(name, job['data'], 'train', Read(), CLASSES), loader


def timm(job: Dict[str, Any]) -> Tuple[Callable, Callable]:
    """timm's ImageDataset, which finds images by walking folders, or in tars (with its cache of them)."""
    import numpy as np
    import torch
    from timm.data.dataset import ImageDataset
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar
    torch.set_num_threads(1)

    def dataset() -> Any:
        reader = ReaderImageInTar(job['data']) if job['kind'] == 'tar' else None
        return ImageDataset(job['data'], reader, load_bytes=True, transform=lambda data: torch.tensor(Read()(data)),
                            target_transform=np.int64)

    def loader(dataset: Any) -> Any:
        return torch.utils.data.DataLoader(dataset, job['batch'], shuffle=True, num_workers=job['workers'],
                                           drop_last=True)
    return dataset, loader


def paddleclas(job: Dict[str, Any]) -> Tuple[Callable, Callable]:
    """ImageNetDataset from the two files of a checkout that define it; what decodes images is not imported."""
    import importlib

    import paddle
    root = Path(job['checkout']) / 'ppcls'
    for name in ('ppcls', 'ppcls.data', 'ppcls.data.dataloader'):
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split('.')[1:]))]
    stub = sys.modules['ppcls.data.preprocess'] = types.ModuleType('ppcls.data.preprocess')
    stub.Read, stub.transform = Read, lambda image, operators: operators[0](image)
    sys.modules['ppcls.data'].preprocess = stub
    sys.modules['ppcls.utils'] = types.ModuleType('ppcls.utils')
    sys.modules['ppcls.utils'].logger = None
    found = importlib.import_module('ppcls.data.dataloader.imagenet_dataset').ImageNetDataset

    def loader(dataset: Any) -> Any:
        sampler = paddle.io.DistributedBatchSampler(dataset, job['batch'], shuffle=True, drop_last=True)
        return paddle.io.DataLoader(dataset, batch_sampler=sampler, num_workers=job['workers'], return_list=True)
    lines = os.path.join(job['data'], 'train_list.txt')
    return lambda: found(job['data'], lines, [{'Read': None}]), loader


def private(pid: int) -> float:
    """Memory that a process shares with no other, MB."""
    fields = (line.split() for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines())
    return sum(int(words[1]) for words in fields if words[0].startswith('Private_')) * 1024 / MB


def workers() -> List[int]:
    """The process ids of this process's children."""
    return [int(word) for task in Path('/proc/self/task').iterdir() for word in (task / 'children').read_text().split()]


def timed(run: Callable) -> Tuple[Any, Dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, {'seconds': time.perf_counter() - wall, 'CPU seconds': time.process_time() - cpu}


def measure(job: Dict[str, Any]) -> Dict[str, Any]:
    """The row of a reader: see scale.py. The peak is counted from after the imports."""
    open_dataset, make_loader = {'ours': ours, 'timm': timm, 'paddleclas': paddleclas}[job['reader']](job)
    make_loader([0] * job['batch'])  # imports what a loader needs
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts here
    before = status('VmRSS')
    dataset, row = timed(open_dataset)
    row.update({'images': len(dataset), 'peak of opening MB': status('VmHWM') - before,
                'kept MB': status('VmRSS') - before})
    if job['open only']:
        return row
    loader = make_loader(dataset)
    start, steps, private_mb = time.perf_counter(), 0, []
    total = min(len(loader), job['steps'] or len(loader))
    for _ in loader:
        steps += 1
        if steps == 1:
            row['first batch seconds'] = row['seconds'] + time.perf_counter() - start
            first = time.perf_counter()
        if steps % max(1, total // SAMPLES) == 0 or steps == 1:
            private_mb.append(max(map(private, workers()), default=0.0))
        if steps == total:
            break
    row.update({'steps': steps, 'epoch steps': len(loader),
                'images/s': (steps - 1) * job['batch'] / max(time.perf_counter() - first, 1e-9),
                'peak of parent MB': status('VmHWM') - before,
                'worker at first batch MB': private_mb[0], 'peak of a worker MB': max(private_mb)})
    return row


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument('job', type=json.loads, help='what to read, as JSON: see scale.py, which starts this program')
    flags = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # output of libraries must not mix with the answer
    print(json.dumps(measure(flags.job)), file=answers, flush=True)
    for worker in workers():  # which some loaders leave alone, and which would keep the output open
        os.kill(worker, signal.SIGKILL)
    os._exit(0)


if __name__ == '__main__':
    run(main)
