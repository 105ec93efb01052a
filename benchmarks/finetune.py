# SPDX-License-Identifier: Apache-2.0
"""The recipe for fine-tuning against five runs tuned by hand, on few images of few classes.

    python benchmarks/finetune.py -data_path dataset/imagenette/train -val_path dataset/imagenet_val/valid \\
        -pretrained weights/vit_tiny_patch16_224.safetensors
    python benchmarks/finetune.py -table

``-data_path`` and ``-val_path`` are folders with one folder of images per class, of the same names. A cell is the first
5 or 10 of these classes with the first 40 or 100 images of each; every run of a cell has three epochs and is evaluated
once, after the last. Results, one by one as they come, go to benchmarks/results/finetune.json and the logs beside it;
a run that is there already is not repeated.
"""
from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

if not __package__:  # run by path: find the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT import runtime
from CaiT.cli import Parser
from CaiT.data.lists import list_images
from CaiT.errors import InputError, run
from CaiT.files import atomic_write, write_json

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / 'CaiT' / 'configs' / 'recipes' / 'finetune.yaml'
RESULTS = ROOT / 'benchmarks' / 'results'
CELLS = [(5, 40), (10, 40), (5, 100), (10, 100)]  # classes, images of each
# The recipe, and what someone tries who tunes by hand: other layer decays, other learning rates, optimizers, crops.
RUNS = {
    'recipe': [],
    'adamw-1e-4': ['TRAIN.BASE_LR', '1e-4', 'TRAIN.LAYER_DECAY', '1.0', 'TRAIN.WARMUP_FRACTION', '0',
                   'TRAIN.LABEL_SMOOTHING', '0.1'],
    'adamw-3e-4': ['TRAIN.BASE_LR', '3e-4', 'TRAIN.LAYER_DECAY', '1.0', 'TRAIN.LABEL_SMOOTHING', '0'],
    'adamw-5e-4-decay': ['TRAIN.BASE_LR', '5e-4', 'TRAIN.LAYER_DECAY', '0.8', 'TRAIN.LABEL_SMOOTHING', '0'],
    'momentum-1e-2': ['TRAIN.OPTIMIZER.NAME', 'Momentum', 'TRAIN.BASE_LR', '1e-2', 'TRAIN.LAYER_DECAY', '1.0',
                      'TRAIN.WEIGHT_DECAY', '0', 'TRAIN.LABEL_SMOOTHING', '0'],
    'batch-8-large-crops': ['DATA.BATCH_SIZE', '8', 'TRAIN.BASE_LR', '2e-4', 'TRAIN.LAYER_DECAY', '0.75',
                            'TRAIN.LABEL_SMOOTHING', '0.1', 'AUG.SCALE', '(0.7, 1.0)'],
}


def write_lists(folder: Path, train: Path, val: Path, num_classes: int, images_per_class: int) -> None:
    """A dataset of the first classes in ``folder``: list files, and links to the two folders of images."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in train.iterdir() if path.is_dir())[:num_classes]
    for split, source, count in (('train', train, images_per_class), ('val', val, None)):
        link = folder / split
        if not link.is_symlink():
            link.symlink_to(source.resolve())
        lines = []
        for label, name in enumerate(names):
            images = list_images(source / name)[:count]
            if count and len(images) < count:
                raise InputError(f'{source / name}: found {len(images)} images, expected {count}')
            lines += [f'{split}/{name}/{Path(image).name} {label}\n' for image in images]
        (folder / f'{split}_list.txt').write_text(''.join(lines), encoding='utf-8')


def train(name: str, opts: List[str], folder: Path, num_classes: int, flags: Any) -> Dict[str, Any]:
    """One run; returns its record and copies its log, without the paths of the machine."""
    from CaiT.config import get_config
    from CaiT.training import jobs
    output = folder.parent / f'{folder.name}-{flags.image_size}-{name}'
    start = time.monotonic()
    jobs.train(get_config(str(RECIPE), ['MODEL.NAME', 'vit_tiny_patch16_224', 'VALIDATE_FREQ', '3', *opts], epochs=3,
                          data_path=str(folder), num_classes=num_classes, pretrained=flags.pretrained,
                          image_size=flags.image_size, output_dir=str(output), resume='auto'))
    record = [json.loads(line) for line in (output / 'log.jsonl').open(encoding='utf-8')][-1]
    text = (output / 'log_train.txt').read_text(encoding='utf-8')
    with atomic_write(RESULTS / 'finetune' / f'{output.name}.txt') as file:
        file.write(re.sub(r'(?:\.{0,2}/)(?:[\w.-]+/)+(?=[\w.-]+)', '', text))
    return {'top1': record['val_top1'], 'train_loss': record['train_loss'], 'seconds': time.monotonic() - start}


def table(results: Dict[str, Dict[str, Any]]) -> List[str]:
    """A row per cell: top-1 of the recipe and of the runs tuned by hand, in percent."""
    rows = [f'| classes x images, pixels | {" | ".join(RUNS)} |', f'|---|{"---|" * len(RUNS)}']
    for cell, runs in results.items():
        values = [f'{100 * runs[name]["top1"]:.1f}' if name in runs else '' for name in RUNS]
        rows.append(f'| {cell} | {" | ".join(values)} |')
    return rows


def main() -> None:
    parser = Parser(__doc__)
    parser.flag('data_path', metavar='FOLDER', help='training images, a folder per class')
    parser.flag('val_path', metavar='FOLDER', help='validation images, a folder per class')
    parser.flag('pretrained', metavar='FILE', help='weights of a ViT-Tiny')
    parser.flag('image_size', type=int, default=224, help='side of the images in pixels (default 224)')
    parser.flag('work', default=str(ROOT / 'output' / 'finetune'), metavar='FOLDER', help='runs and lists')
    parser.switch('table', help='print the table of the available results')
    flags = parser.parse_args()
    stored = RESULTS / 'finetune.json'
    results = json.loads(stored.read_text(encoding='utf-8')) if stored.is_file() else {}
    if not flags.table:
        for name in ('data_path', 'val_path', 'pretrained'):
            if not getattr(flags, name):
                raise InputError(f'-{name}: missing')
        runtime.prepare()
        for classes, images in CELLS:
            cell = f'{classes} x {images}, {flags.image_size}'
            folder = Path(flags.work) / f'{classes}x{images}'
            write_lists(folder, Path(flags.data_path), Path(flags.val_path), classes, images)
            for name, opts in RUNS.items():
                if name not in results.setdefault(cell, {}):
                    results[cell][name] = train(name, opts, folder, classes, flags)
                    write_json(stored, results)
    print('\n'.join(table(results)))


if __name__ == '__main__':
    run(main)
