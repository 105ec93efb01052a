# SPDX-License-Identifier: Apache-2.0
"""Images per second of this project's data pipeline and of timm's, on one core, and whether their pixels agree.

    python benchmarks/data_pipeline.py --peer-python peers/bin/python
    python benchmarks/data_pipeline.py --peer-python peers/bin/python --images some/folder

Both process the same JPEG files sequentially in one thread, from the file to the normalized float32 array of a model's
input: `train` is random resized crop to 224 (bilinear or bicubic at random, timm's default), flip,
rand-m9-mstd0.5-inc1 and random erasing 0.25 (pixel); `train bicubic` the same with DeiT's bicubic; `eval` is Pillow's
bicubic to the short side 248 and the center 224. Without --images the files are generated from a fixed seed:
500x375, quality 90, about 44 KB, with the spectrum of photographs. Each side is a separate process; they are measured
in turn, in windows of about a second. Results are medians over the windows, and a ratio is the median of the windows'
ratios, because the machine's speed drifts. The result is written to benchmarks/results/data_pipeline.json.

`bash benchmarks/make_peers.sh peers` creates the environment with timm.
"""
from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

if __name__ == '__main__':  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.errors import InputError, run
from CaiT.files import write_json
from CaiT.tools.benchmark import processor

SIZE, CROP_PCT = 224, 0.9
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RECIPE, ERASE = 'rand-m9-mstd0.5-inc1', 0.25
TARGETS = {'train': 1.5, 'train bicubic': 1.5, 'eval': 1.0}
RESULT = Path(__file__).resolve().parent / 'results' / 'data_pipeline.json'
Task = Callable[[str], Any]


def own_tasks() -> Dict[str, Task]:
    """This project's transforms, as a dataset applies them to each sample. Sets OpenCV's number of threads to 0."""
    import cv2
    import numpy as np

    from CaiT.data.train_transforms import TrainOptions, train_transform
    from CaiT.data.transforms import DataConfig, eval_transform
    cv2.setNumThreads(0)
    data = DataConfig(SIZE, CROP_PCT, 'bicubic', MEAN, STD)
    sample_seeds = iter(range(2**62))

    def training(interpolation: str) -> Task:
        transform = train_transform(data, TrainOptions(auto_augment=RECIPE, erase_prob=ERASE,
                                                       interpolation=interpolation))
        return lambda path: transform(path, np.random.Generator(np.random.PCG64(next(sample_seeds))))
    return {'train': training('random'), 'train bicubic': training('bicubic'), 'eval': eval_transform(data),
            'levels': eval_transform(data, normalize=False)}


def timm_tasks() -> Dict[str, Task]:
    """timm's transforms, as its ImageDataset applies them (its prefetcher works on batches on a GPU).

    Sets PyTorch's number of threads to 1 and replaces Pillow's ``posterize``."""
    import torch
    from PIL import Image, ImageOps
    from timm.data import create_transform
    torch.set_num_threads(1)
    posterize = ImageOps.posterize  # timm 1.0.31 sometimes passes 0 bits, an error in Pillow 13
    ImageOps.posterize = lambda image, bits: posterize(image, max(1, bits))

    def opened(transform: Callable) -> Task:
        return lambda path: transform(Image.open(path).convert('RGB'))

    def training(interpolation: str) -> Task:
        return opened(create_transform(SIZE, is_training=True, auto_augment=RECIPE, re_prob=ERASE, re_mode='pixel',
                                       interpolation=interpolation, mean=MEAN, std=STD))

    evaluation = dict(is_training=False, interpolation='bicubic', crop_pct=CROP_PCT, mean=MEAN, std=STD)
    levels = opened(create_transform(SIZE, normalize=False, **evaluation))
    return {'train': training('random'), 'train bicubic': training('bicubic'),
            'eval': opened(create_transform(SIZE, **evaluation)),
            'levels': lambda path: levels(path).permute(1, 2, 0)}


def serve(side: str, images: Sequence[str]) -> int:
    """The process of one side: a JSON request per line on stdin, a JSON response per line on stdout."""
    import numpy as np
    tasks = {'ours': own_tasks, 'timm': timm_tasks}[side]()
    for request in map(json.loads, sys.stdin):
        task = tasks[request['task']]
        if 'save' in request:
            np.save(request['save'], np.stack([np.asarray(task(path)) for path in images]))
            response: Dict[str, float] = {}
        else:
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < request['seconds']:
                task(images[count % len(images)])
                count += 1
            response = {'images/s': count / (time.perf_counter() - start)}
        print(json.dumps(response), flush=True)
    return 0


class Side:
    """A running ``serve`` process."""

    def __init__(self, name: str, python: str, images: Sequence[str]) -> None:
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
        self.name = name
        self.process = subprocess.Popen([python, __file__, '--serve', name, *images], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)

    def request(self, **request: Any) -> Dict[str, float]:
        """Send a request and wait for the response."""
        try:
            self.process.stdin.write(json.dumps(request) + '\n')
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise InputError(f'the process of {self.name} ended (its own message is above); is its Python complete?'
                             ) from None


def make_images(folder: Path, count: int, width: int = 500, height: int = 375) -> None:
    """``count`` JPEG files, quality 90: noise with the 1/f spectrum of photographs, and some edges."""
    import cv2
    import numpy as np
    rng = np.random.Generator(np.random.PCG64(2021))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width)
    amplitude = 1 / np.maximum(frequency, 1) ** 1.6
    for index in range(count):
        planes = []
        for _ in range(3):
            noise = np.fft.fft2(rng.standard_normal((height, width))) * amplitude
            plane = np.fft.ifft2(noise).real
            planes.append((plane - plane.mean()) / plane.std())
        gray = planes[0]
        levels = rng.uniform(80, 170, 3)
        image = np.stack([gray * 45 + plane * 18 + level for plane, level in zip(planes, levels)], -1)
        for _ in range(6):
            corners = (rng.random((4, 2)) * (width, height)).astype(np.int32)
            mask = np.zeros((height, width), np.uint8)
            cv2.fillConvexPoly(mask, cv2.convexHull(corners), 1)
            image[mask > 0] += rng.uniform(-50, 50, 3)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f'{index:04d}.jpg'), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])


def sizes(images: Sequence[str]) -> Dict[str, int]:
    """Median width and height in pixels."""
    from PIL import Image
    found = [Image.open(path).size for path in images]
    return {name: round(statistics.median(side)) for name, side in zip(('width', 'height'), zip(*found))}


def compare_pixels(sides: Sequence[Side], folder: Path) -> Dict[str, float]:
    """Largest differences between the two sides' evaluation arrays, over all images."""
    import numpy as np
    result = {}
    for task in ('levels', 'eval'):
        arrays = []
        for side in sides:
            path = folder / f'{side.name}-{task}.npy'
            side.request(task=task, save=str(path))
            arrays.append(np.load(path).astype(np.float64))
        if arrays[0].shape != arrays[1].shape:
            raise InputError(f'{task}: found shapes {arrays[0].shape} and {arrays[1].shape}, expected the same')
        result[f'largest difference of {task}'] = float(np.abs(arrays[0] - arrays[1]).max())
    return result


def measure(sides: Sequence[Side], windows: int, seconds: float) -> Dict[str, Dict[str, Any]]:
    """Images per second of both sides, measured in turn, for each task."""
    result = {}
    for task, target in TARGETS.items():
        speeds: Dict[str, List[float]] = {side.name: [] for side in sides}
        for window in range(windows + 1):
            for side in sides if window % 2 else sides[::-1]:
                speed = side.request(task=task, seconds=seconds)['images/s']
                if window:  # the first is a warm-up
                    speeds[side.name].append(speed)
        ratio = statistics.median(ours / timms for ours, timms in zip(speeds['ours'], speeds['timm']))
        result[task] = {**{f'{name} (images/s)': round(statistics.median(found), 1) for name, found in speeds.items()},
                        'ratio': round(ratio, 2), 'target': target,
                        'windows': {name: [round(speed, 1) for speed in found] for name, found in speeds.items()}}
    return result


def versions(python: str, modules: Sequence[str]) -> Dict[str, str]:
    """Versions of Python and of ``modules`` in an interpreter."""
    code = ('import importlib, json, platform, sys; print(json.dumps({"python": platform.python_version(), '
            '**{m: importlib.import_module(m).__version__ for m in sys.argv[1:]}}))')
    result = subprocess.run([python, '-c', code, *modules], capture_output=True, text=True, check=False)
    if result.returncode:
        raise InputError(f'--peer-python: {python} lacks something: {result.stderr.strip().splitlines()[-1]}')
    return json.loads(result.stdout)


def command(words: Sequence[str], private: Dict[str, str]) -> str:
    """The command line for the result file, with other names in the place of this machine's paths."""
    parts = (part for word in words for part in word.split('=', 1))
    return ' '.join(['python benchmarks/data_pipeline.py', *(private.get(part, part) for part in parts)])


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['--serve']:  # the process of one side
        return serve(argv[1], argv[2:])
    parser = Parser(__doc__)
    parser.flag('peer_python', required=True, help='the interpreter that has timm')
    parser.flag('images', 'pictures', default='', help='folder of JPEG files to use instead of generated ones')
    parser.flag('count', type=int, default=64, help='number of images to generate')
    parser.flag('windows', type=int, default=9, help='windows for each side and task')
    parser.flag('seconds', type=float, default=1.0, help='length of a window')
    parser.flag('output', type=Path, default=RESULT, help='JSON file to write')
    args = parser.parse_args(argv)

    from CaiT.data.lists import list_images
    peer = versions(args.peer_python, ['timm', 'torch', 'torchvision', 'PIL'])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not args.images:
            make_images(folder, args.count)
        images = list_images(args.images or folder)
        kilobytes = statistics.mean(os.path.getsize(path) for path in images) / 1024
        about = {'count': len(images), 'mean KB': round(kilobytes, 1), 'made': not args.images, **sizes(images)}
        sides = [Side('ours', sys.executable, images), Side('timm', args.peer_python, images)]
        differences = compare_pixels(sides, folder)
        tasks = measure(sides, args.windows, args.seconds)
        for side in sides:
            side.process.stdin.close()
            side.process.wait()

    print(f'{len(images)} images of {kilobytes:.0f} KB on average, one core of {processor()}')
    print(f'{"":14s} {"ours":>8s} {"timm":>8s}  images/s   ratio  target')
    for task, row in tasks.items():
        ours, timms = row['ours (images/s)'], row['timm (images/s)']
        print(f'{task:14s} {ours:8.0f} {timms:8.0f}  {"":10s} {row["ratio"]:7.2f} {row["target"]:7.1f}')
    for name, value in differences.items():
        print(f'{name}: {value:g}')
    report = {
        'what': __doc__.splitlines()[0], 'command': command(argv, {
            args.peer_python: 'PEER', args.images: 'FOLDER', str(args.output): 'FILE'}),
        'machine': {'processor': processor(), 'cores': os.cpu_count(), 'system': platform.system()},
        'versions': {'ours': versions(sys.executable, ['cv2', 'PIL', 'numpy']), 'peer': peer},
        'images': about, 'tasks': tasks, 'pixels': differences,
    }
    write_json(args.output, report)
    print(f'written to {args.output}')
    return 0


if __name__ == '__main__':
    run(main)
