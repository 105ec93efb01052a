#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mutated and odd images through all four paths: training, evaluation, prediction (infer), calibration of an export.

    python tests/faults/odd_images.py --images 2000

Every path must give an array of the model's size with finite numbers, or an InputError of one line that names the
image; all four must agree on which; training and evaluation must decode the same pixels. No image may take more than
SECONDS or MEGABYTES. The exit status is 1 when a check failed.

Seen to fail: with --weakened OpenCV decodes without looking at the end of the file (decode._scans says yes, by
monkeypatching in this process), so that training reads half an image that evaluation refuses.
"""
from __future__ import annotations

import argparse
import collections
import io
import random
import resource
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.faults.fuzz_readers import mutated, too_long  # noqa: E402

SECONDS, MEGABYTES, SIZE = 20, 2000, 32


def whole_images() -> List[Tuple[str, bytes]]:
    """(ending, content): every format and mode that is read, and sizes that nobody expects."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:60, 0:80]
    color = Image.fromarray(np.stack([x * 3, y * 4, (x * y) % 256], -1).astype(np.uint8))
    deep = Image.fromarray((x * 800).astype(np.uint16))
    wide = Image.new('RGB', (65_000, 1), (9, 99, 199))
    frames = dict(save_all=True, append_images=[color.rotate(90)])
    table = [(color, 'png', {}), (color, 'jpg', {}), (color, 'jpg', {'progressive': True, 'quality': 30}),
             (color.convert('L'), 'jpg', {}), (color.convert('CMYK'), 'jpg', {}), (color, 'bmp', {}),
             (color, 'gif', frames), (color, 'webp', {}), (color, 'webp', {'lossless': True}), (color, 'tiff', {}),
             (color, 'tiff', {'compression': 'tiff_lzw'}), (color, 'tiff', {'compression': 'jpeg'}), (color, 'ppm', {}),
             (color.convert('L'), 'pgm', {}), (color.convert('1'), 'png', {}), (color.convert('P'), 'png', {}),
             (color.convert('P'), 'png', {'transparency': 3}), (color.convert('RGBA'), 'png', {}),
             (color.convert('LA'), 'png', {}), (deep, 'png', {}), (deep, 'tiff', {}), (wide, 'png', {}),
             (wide, 'jpg', {}), (wide.rotate(90, expand=True), 'png', {}), (Image.new('RGB', (1, 1)), 'png', {}),
             (color, 'jpg', {'exif': b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0'}),
             (color, 'jpg', {'icc_profile': bytes(rng.integers(0, 256, 500, dtype=np.uint8))}), (color, 'jp2', {}),
             (color.convert('F'), 'tiff', {})]
    found = []
    for image, ending, options in table:
        file = io.BytesIO()
        names = {'jpg': 'JPEG', 'jp2': 'JPEG2000', 'pgm': 'PPM'}
        image.save(file, names.get(ending, ending.upper()), **options)
        found.append((ending, file.getvalue()))
    return found


def paths() -> Dict[str, Callable[[Path], Any]]:
    """Each path's own entry point, giving the array of one image."""
    from CaiT.data.datasets import ListDataset
    from CaiT.data.lists import Samples
    from CaiT.data.train_transforms import TrainOptions, train_transform
    from CaiT.data.transforms import DataConfig, eval_transform
    from CaiT.deploy import feed, parity
    data = DataConfig(SIZE, 0.875, 'bicubic', (0.5,) * 3, (0.5,) * 3)
    train, evaluation = train_transform(data, TrainOptions()), eval_transform(data)

    def listed(transform: Any, key: Any) -> Callable[[Path], Any]:
        return lambda path: ListDataset('list', Samples('', [(str(path), 0, 1)]), transform)[key][0]

    def infer(path: Path) -> np.ndarray:
        found = next(iter(feed.decode_all([str(path)], evaluation, 0)))[1]
        if isinstance(found, Exception):
            raise found
        return found
    return {'train': listed(train, (0, 7)), 'eval': listed(evaluation, 0), 'infer': infer,
            'calibration': lambda path: parity.from_folder(str(path), data, 1).array('float')[0]}


def check(path: Path, readers: Dict[str, Callable[[Path], Any]]) -> Tuple[bool, str]:
    """(whether the image is read, what is wrong)."""
    from CaiT.data.decode import decode_fast, load_image
    from CaiT.errors import InputError
    results: Dict[str, Any] = {}
    for name, read in readers.items():
        signal.alarm(SECONDS)
        try:
            results[name] = read(path)
        except InputError as error:
            results[name] = None
            if '\n' in str(error) or path.name not in str(error):
                return False, f'{name}: message {str(error)[:200]!r}'
        except BaseException as error:
            return False, f'{name}: {type(error).__name__}: {str(error)[:200]}'
        finally:
            signal.alarm(0)
        array = results[name]
        if array is not None and (array.shape != (3, SIZE, SIZE) or not np.isfinite(array).all()):
            return False, f'{name}: an array of shape {array.shape}, finite: {np.isfinite(array).all()}'
    said = {name: result is not None for name, result in results.items()}
    if len(set(said.values())) > 1:
        return False, f'read by some only: {said}'
    if not said['eval']:
        return False, ''
    if not np.array_equal(results['eval'], results['infer']):
        return True, 'eval and infer give different arrays'
    if not np.array_equal(np.asarray(load_image(path)), decode_fast(path)):
        return True, 'training and evaluation decode different pixels'
    return True, ''


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument('--images', type=int, default=2000)
    flags.add_argument('--seed', type=int, default=0)
    flags.add_argument('--findings', default='', metavar='FOLDER', help='keep the images that failed')
    flags.add_argument('--weakened', action='store_true')
    args = flags.parse_args()
    signal.signal(signal.SIGALRM, too_long)
    warnings.simplefilter('ignore')
    if args.weakened:
        from CaiT.data import decode
        decode._scans = lambda jpeg: (1, True)
    rng, seeds, readers = random.Random(args.seed), whole_images(), paths()
    others, counts, wrong = [content for _, content in seeds], collections.Counter(), []
    with tempfile.TemporaryDirectory(prefix='odd-images-') as folder:
        for number in range(args.images):
            ending, content = seeds[number] if number < len(seeds) else rng.choice(seeds)
            if number >= len(seeds):
                content = mutated(content, others, rng, 1 << 20)
            path = Path(folder) / f'{number:05}.{ending}'
            path.write_bytes(content)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            is_read, problem = check(path, readers)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
            counts['read' if is_read else 'refused'] += 1
            if problem or grown > MEGABYTES:
                wrong.append(f'{path.name}: {problem or f"{grown} MB more"}')
                print(wrong[-1], flush=True)
                if args.findings:
                    Path(args.findings).mkdir(parents=True, exist_ok=True)
                    (Path(args.findings) / path.name).write_bytes(content)
            path.unlink()
    print(f'{args.images} images through {len(readers)} paths: {counts["read"]} read, {counts["refused"]} refused, '
          f'{len(wrong)} wrong')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
