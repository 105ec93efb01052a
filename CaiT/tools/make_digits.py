# SPDX-License-Identifier: Apache-2.0
"""Write the embedded dataset: 1,797 scanned handwritten digits, as images in ImageNet layout.

    python -m CaiT.tools.make_digits                      into dataset/digits
    python -m CaiT.tools.make_digits --output elsewhere   into another folder

The digits come with scikit-learn (``sklearn.datasets.load_digits``: the test part of UCI's "Optical Recognition of
Handwritten Digits", 8x8 pixels, 0 to 16 ink, CC BY 4.0). They are stored as 8x8 grayscale PNG files, with ink 16 as
level 255; the transform enlarges them. Every fifth image of a class is for validation, so both splits are balanced and
fixed. The output is deterministic; the lists are written last, so they never name a missing image.
"""
from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

if __name__ == '__main__' and not __package__:  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from PIL import Image

from CaiT.cli import Parser
from CaiT.data.datasets import CLASS_FILE
from CaiT.data.lists import LIST_FILES
from CaiT.errors import InputError, run
from CaiT.files import atomic_write

OUTPUT = Path('dataset/digits')
NAMES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
EVERY = 5  # every fifth image is for validation: an 80/20 split


def digits() -> Tuple[np.ndarray, np.ndarray]:
    """(gray levels [1797, 8, 8] uint8, digit [1797]) in scikit-learn's order."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError('make_digits needs scikit-learn, found none: pip install scikit-learn') from None
    data = load_digits()
    return np.rint(data.images * (255 / 16)).astype(np.uint8), data.target


def split_paths(targets: Sequence[int]) -> Iterator[Tuple[str, str]]:
    """(split, path) of each image: numbered within its class, every fifth one for validation."""
    seen = [0] * len(NAMES)
    for digit in targets:
        split = 'valid' if seen[digit] % EVERY == EVERY - 1 else 'train'
        yield split, f'{split}/{digit}/{seen[digit]:04d}.png'
        seen[digit] += 1


def list_lines(targets: Sequence[int]) -> Dict[str, List[str]]:
    """The lines of the three list files, sorted by class as in make_lists."""
    found = [(split, path, int(digit)) for (split, path), digit in zip(split_paths(targets), targets)]
    train, valid = (sorted(f'{path} {digit}' for split, path, digit in found if split == name)
                    for name in ('train', 'valid'))
    return {LIST_FILES['train']: train, LIST_FILES['val']: valid,
            LIST_FILES['test']: [line.rpartition(' ')[0] for line in valid]}


def write_digits(output: Path) -> Dict[str, int]:
    """Write the dataset into ``output``; returns the number of lines of each list."""
    images, targets = digits()
    for image, (_, path) in zip(images, split_paths(targets)):
        content = io.BytesIO()
        Image.fromarray(image).save(content, 'PNG')
        if not (output / path).is_file() or (output / path).read_bytes() != content.getvalue():
            with atomic_write(output / path, 'wb') as file:
                file.write(content.getvalue())
    texts = {**list_lines(targets), CLASS_FILE: list(NAMES)}
    for name, text in texts.items():
        with atomic_write(output / name) as file:
            file.writelines(line + '\n' for line in text)
    return {name: len(text) for name, text in texts.items()}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.flag('output', type=Path, default=OUTPUT, help=f'folder to write, {OUTPUT} unless given')
    args = parser.parse_args(argv)
    for name, count in write_digits(args.output).items():
        print(f'{args.output / name}: {count} lines')
    return 0


if __name__ == '__main__':
    run(main)
