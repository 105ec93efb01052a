# SPDX-License-Identifier: Apache-2.0
"""Write the list files of a dataset from its class folders.

    python -m CaiT.tools.make_lists dataset/LSVRC2012                     every image
    python -m CaiT.tools.make_lists dataset/LSVRC2012 --fraction 0.1      a tenth of each class
    python -m CaiT.tools.make_lists dataset/LSVRC2012 --per-class 50      at most 50 of each class
    python -m CaiT.tools.make_lists dataset/flowers --val-split 0.2       no valid/ folder: a fifth goes to validation

Looks for DATA_PATH/train/<class>/<image> and DATA_PATH/valid/<class>/<image> (or val/). A class id is the place of
the folder's name in sorted order, from 0. Writes train_list.txt, val_list.txt and test_list.txt (the validation
images' paths, for -pred) into DATA_PATH, and classes.txt (the folders' names) when there is none. Lists that are
there already are kept unless --force, which renames them to <name>.bak-<time>. Subsets are drawn with --seed.
"""
from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

if __name__ == '__main__' and not __package__:  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT.cli import Parser
from CaiT.data.datasets import CLASS_FILE
from CaiT.data.lists import IMAGE_EXTENSIONS, LIST_FILES
from CaiT.errors import InputError, run
from CaiT.files import atomic_write

ClassImages = Dict[str, List[str]]  # class folder -> its images, paths relative to DATA_PATH, both sorted


def class_images(root: Path, split: str) -> ClassImages:
    """The images below ``root/split/<class>/``, at any depth."""
    classes: ClassImages = {}
    for folder in sorted(entry for entry in (root / split).iterdir() if entry.is_dir()):
        found = [Path(place, name).relative_to(root).as_posix() for place, _, names in os.walk(folder, followlinks=True)
                 for name in names if name.lower().endswith(IMAGE_EXTENSIONS)]
        if not found:
            raise InputError(f'{folder}: found no images in this class folder')
        classes[folder.name] = sorted(found)
    if not classes:
        raise InputError(f'{root / split}: found no class folders, expected {split}/<class>/<image>')
    return classes


def draw(classes: ClassImages, fraction: float, per_class: Optional[int], seed: int) -> ClassImages:
    """The wanted share of each class (at least one image), chosen at random; what is chosen stays sorted."""
    rng = np.random.Generator(np.random.PCG64(seed))
    chosen: ClassImages = {}
    for name, images in classes.items():
        count = max(1, round(len(images) * fraction))
        count = count if per_class is None else min(count, per_class)
        chosen[name] = [images[i] for i in sorted(rng.permutation(len(images))[:count].tolist())]
    return chosen


def split_off(classes: ClassImages, share: float, seed: int) -> Tuple[ClassImages, ClassImages]:
    """(training, validation): ``share`` of each class goes to validation, at least one image stays on either side."""
    small = [name for name, images in classes.items() if len(images) < 2]
    if small:
        raise InputError(f'--val-split: class {small[0]} has a single image, expected at least 2')
    sizes = {name: min(max(1, round(len(images) * share)), len(images) - 1) for name, images in classes.items()}
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    held = {name: set(rng.permutation(len(images))[:sizes[name]].tolist()) for name, images in classes.items()}
    return tuple({name: [image for i, image in enumerate(images) if (i in held[name]) == wanted]
                  for name, images in classes.items()} for wanted in (False, True))


def lines(classes: ClassImages, names: Sequence[str]) -> List[str]:
    """``path class_id`` lines, by class."""
    ids = {name: index for index, name in enumerate(names)}
    unknown = [name for name in classes if name not in ids]
    if unknown:
        raise InputError(f'class folder {unknown[0]} of the validation images is not among the training classes')
    return [f'{image} {ids[name]}' for name, images in classes.items() for image in images]


def write_lists(root: Path, texts: Dict[str, List[str]], force: bool) -> List[str]:
    """Write the files; returns the names of those moved out of the way."""
    present = [name for name in texts if (root / name).exists()]
    if present and not force:
        raise InputError(f'{root / present[0]}: is there already, expected no list files (--force renames them)')
    moved = []
    for name in present:
        kept = f'{name}.bak-{time.strftime("%Y%m%d-%H%M%S")}'
        while (root / kept).exists():
            kept += '+'
        os.replace(root / name, root / kept)
        moved.append(kept)
    for name, text in texts.items():
        with atomic_write(root / name) as file:
            file.writelines(line + '\n' for line in text)
    return moved


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.add_argument('data_path', help='folder with train/ and, when there is one, valid/ or val/')
    parser.flag('fraction', type=float, default=1.0, help='share of each class to list, in (0, 1]')
    parser.flag('per_class', type=int, default=None, help='largest number of images to list for each class')
    parser.flag('val_split', type=float, default=0.0, help='share of train/ that becomes the validation list')
    parser.flag('seed', type=int, default=0, help='of the random choice of a subset or split')
    parser.switch('force', help='replace lists that are there; the old ones are renamed')
    args = parser.parse_args(argv)

    root = Path(args.data_path)
    if not (root / 'train').is_dir():
        raise InputError(f'{root / "train"}: no such folder, expected {root}/train/<class>/<image>')
    if not 0 < args.fraction <= 1:
        raise InputError(f'--fraction: found {args.fraction}, expected a number above 0, at most 1')
    if args.per_class is not None and args.per_class < 1:
        raise InputError(f'--per-class: found {args.per_class}, expected at least 1')
    if not 0 <= args.val_split < 1:
        raise InputError(f'--val-split: found {args.val_split}, expected a number from 0 to below 1')
    held = next((name for name in ('valid', 'val') if (root / name).is_dir()), None)
    if args.val_split and held:
        raise InputError(f'--val-split: there is a folder {root / held} already, expected one or the other')

    train = class_images(root, 'train')
    names = list(train)
    valid = class_images(root, held) if held else {}
    if args.val_split:
        train, valid = split_off(train, args.val_split, args.seed)
    train = draw(train, args.fraction, args.per_class, args.seed)
    texts = {LIST_FILES['train']: lines(train, names)}
    if valid:
        valid = draw(valid, args.fraction, args.per_class, args.seed)
        texts[LIST_FILES['val']] = lines(valid, names)
        texts[LIST_FILES['test']] = [image for images in valid.values() for image in images]
    for kept in write_lists(root, texts, args.force):
        print(f'kept the old list as {root / kept}')
    if not (root / CLASS_FILE).exists():
        write_lists(root, {CLASS_FILE: names}, force=False)
    for name, text in texts.items():
        print(f'{root / name}: {len(text)} images')
    print(f'{len(names)} classes; train with -data_path={root} -num_classes={len(names)}')
    if not valid:
        print('no valid/ folder: no validation list (--val-split 0.2 takes a fifth of train/)')
    return 0


if __name__ == '__main__':
    run(main)
