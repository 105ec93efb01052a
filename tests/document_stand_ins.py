# SPDX-License-Identifier: Apache-2.0
"""Files in the place of those that a reader brings: random weights under the name of published ones, small made images
in the place of a dataset, as few as will do. With them a command of the documents runs as it stands; its numbers mean
nothing. With CAIT_REAL_DATA set the ViT-Tiny is the trained one in it: stored results are compared with its numbers.
"""
from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Callable, List, Tuple

import numpy as np
from PIL import Image

CLASSES, IMAGES = 4, 2  # of a made dataset: folders, images in each of its splits; training takes one step per epoch
FLOWERS = 6
TRAINED = 'weights/{}_augreg_in21k_ft_in1k.safetensors'  # in CAIT_REAL_DATA


def weights(model: str) -> Callable[[Path], None]:
    """Makes a file of random weights; beside those of a run also its config.yaml."""
    def make(path: Path) -> None:
        from CaiT import create_model
        from CaiT.config import get_config
        from CaiT.deploy.export import load
        from CaiT.weights import writers
        suffix = path.suffix if path.suffix in ('.pdparams', '.safetensors') else '.pdparams'
        target = path if path.suffix else path.with_suffix(suffix)
        network, trained = create_model(model), Path(os.environ.get('CAIT_REAL_DATA', '')) / TRAINED.format(model)
        if trained.is_file():
            load(network, trained)
        arrays = {name: one.numpy() for name, one in network.state_dict().items()}
        with open(target, 'wb') as file:
            writers.write(file, suffix, arrays)
        if path.parts[-3:-2] == ('output',):
            config = get_config(f'{model}.yaml', data_path='dataset/LSVRC2012')
            (path.parent / 'config.yaml').write_text(config.dump(), encoding='utf-8')
    return make


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(coarse).resize((96, 72), Image.BICUBIC).save(path, 'JPEG')


def images(count: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        for index in range(count):
            image(path / f'{index}.jpg', index)
    return make


def folders(splits: Tuple[str, ...], classes: int, count: int, ending: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        for number in range(len(splits) * classes * count):
            split, rest = divmod(number, classes * count)
            image(path / splits[split] / f'n{rest // count:08d}' / f'{number:05d}.{ending}', number)
    return make


def imagenet(path: Path) -> None:
    """As of the documents, lists included."""
    folders(('train', 'valid'), CLASSES, IMAGES, 'JPEG')(path)
    for split, name in (('train', 'train'), ('valid', 'val'), ('valid', 'test')):
        files = sorted((path / split).glob('*/*.JPEG'))
        lines = [f'{file.relative_to(path).as_posix()} {int(file.parent.name[1:])}\n' for file in files]
        (path / f'{name}_list.txt').write_text(''.join(lines), encoding='utf-8')


def several_classes(path: Path) -> None:
    """Images of any number of classes."""
    for split in ('train', 'valid'):
        images(10)(path / split)
    for split, name in (('train', 'train'), ('valid', 'val'), ('valid', 'test')):
        lines = [f'{split}/{index}.jpg {"-" if index % 9 == 8 else f"{index % 80},{(index * 7 + 1) % 80}"}\n'
                 for index in range(10)]
        (path / f'{name}_list.txt').write_text(''.join(lines), encoding='utf-8')


def run_of_digits(path: Path) -> None:
    """A run under another name."""
    shutil.copytree(path.parent / 'digits', path)


def names(count: int) -> Callable[[Path], None]:
    return lambda path: path.write_text(''.join(f'class {index}\n' for index in range(count)), encoding='utf-8')


# (path in a command, what makes it)
STAND_INS: Tuple[Tuple[str, Callable[[Path], None]], ...] = (
    ('weights/XXS24_224.pth', weights('cait_xxs24_224')), ('weights/S24_224.pth', weights('cait_s24_224')),
    ('weights/vit_tiny_patch16_224.safetensors', weights('vit_tiny_patch16_224')),
    ('weights/vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors', weights('vit_tiny_patch16_224')),
    ('CaiT/vit_tiny_patch16_224', weights('vit_tiny_patch16_224')),
    ('output/xxs24/best', weights('cait_xxs24_224')), ('output/other/best', weights('cait_xxs24_224')),
    ('output/RUN', run_of_digits), ('output/RUN_A', run_of_digits), ('output/RUN_B', run_of_digits),
    ('dataset/LSVRC2012', imagenet), ('dataset/flowers', folders(('',), FLOWERS, 3, 'jpg')),
    ('dataset/coco', several_classes), ('my.jpg', lambda path: image(path, 0)),
    ('dog.jpg', lambda path: image(path, 1)), ('photos', images(3)), ('images', images(3)), ('IMAGES', images(3)),
    ('names.txt', names(10)),
)


def needed(lines: List[str]) -> List[str]:
    """The paths of STAND_INS that lines read; of a run's files only if no earlier line of the page makes the run."""
    found = []
    for path, _ in STAND_INS:
        pattern = rf'(?<![\w/.]){re.escape(path)}(?![\w-])(?!\.(?!pdparams))'
        first = next((line for line in lines if re.search(pattern, line)), '')
        run = path[:-len('/best')] if path.endswith('/best') else path
        if first and not re.search(rf'-output_dir={re.escape(run)}(?!\S)', '\n'.join(lines[:lines.index(first)])):
            found.append(path)
    return found


def make(folder: Path, lines: List[str]) -> List[str]:
    """Make what ``lines`` need; the paths."""
    paths = needed(lines)
    for path, maker in STAND_INS:
        if path in paths and not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            maker(folder / path)
            if any(f'make_lists {path}' in line for line in lines):  # the page writes them
                for file in (folder / path).glob('*_list.txt'):
                    file.unlink()
    return paths
