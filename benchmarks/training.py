# SPDX-License-Identifier: Apache-2.0
r"""Training experiments on a small machine: run them, store their logs, print the result table.

python benchmarks/training.py imagenette -data_path dataset/imagenette -pretrained weights/vit_tiny_patch16_224
python benchmarks/training.py cait_grown -data_path dataset/imagenette -pretrained weights/grown_cait.pdparams
python benchmarks/training.py cait_grown_frozen -data_path dataset/imagenette_ids -pretrained weights/grown_cait
python benchmarks/training.py cait_grown_mixed -data_path dataset/imagenette -pretrained weights/grown_cait.pdparams
python benchmarks/training.py cifar10 -data_path dataset/cifar10 -pretrained weights/vit_tiny_patch16_224
python benchmarks/training.py digits -data_path dataset/digits
python benchmarks/training.py cait_grown_distilled -data_path dataset/imagenette \
    -pretrained weights/grown_cait.pdparams -teacher output/benchmark/imagenette-0/last
python benchmarks/training.py distillation -data_path dataset/imagenette \
    -pretrained weights/grown_cait.pdparams -teacher output/benchmark/imagenette-0/last
python benchmarks/training.py -table

A run is ``output/benchmark/<name>-<seed>``; an interrupted run is resumed, one whose results are there is not run
again. Its config, log.jsonl and log are copied to benchmarks/results/training, without the paths of the machine. Data:
any dataset in ImageNet layout with ten classes (docs/data.md), the CIFAR-10 archive, the embedded digits. The table has
the accuracy of the last epoch, which is not selected on the validation set, and that of the best epoch. -amp: the same
runs in bfloat16, every experiment.
"""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Dict, List

if not __package__:  # run by path: find the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.errors import InputError, run

ROOT = Path(__file__).resolve().parents[1]
RECIPES = Path(__file__).resolve().parent / 'recipes'
RESULTS = ROOT / 'benchmarks' / 'results' / 'training'
BF16 = '-bf16'  # in the names of runs with -amp
# experiment -> (its runs' recipes, seeds)
EXPERIMENTS = {
    'imagenette': (['imagenette'], [0, 1, 2]),
    'cait_grown': (['cait_grown'], [0, 1, 2]),
    'cait_grown_frozen': (['cait_grown_frozen'], [0]),
    'cait_grown_mixed': (['cait_grown_mixed'], [0]),
    'cait_grown_distilled': (['cait_grown_distilled'], [0]),
    'cifar10': (['cifar10'], [0, 1, 2]),
    'digits': (['digits_cait', 'digits_deit', 'digits_vit'], [0, 1, 2]),
    'distillation': (['distillation_none', 'distillation_soft', 'distillation_hard'], [0, 1, 2]),
}


def train(recipe: str, seed: int, flags: Dict[str, Any]) -> None:
    """Run one training to its end and copy its logs to ``RESULTS``, where it is not done yet."""
    name = f'{recipe}{BF16 if flags["amp"] else ""}-{seed}'
    if (RESULTS / name / 'log.jsonl').is_file():
        print(f'{RESULTS / name}: done')
        return
    folder = ROOT / 'output' / 'benchmark' / name
    words = [sys.executable, str(ROOT / 'CaiT' / 'main_single_gpu.py'), '-cfg', str(RECIPES / f'{recipe}.yaml'),
             '-data_path', flags['data_path'], '-seed', str(seed), '-output_dir', str(folder), '-resume', 'auto']
    if flags['amp']:
        words.append('-amp')
    if flags['pretrained']:
        words += ['-pretrained', flags['pretrained']]
    if flags['teacher'] and recipe != 'distillation_none':
        words += ['-opts', 'TRAIN.DISTILL.TEACHER_WEIGHTS', flags['teacher']]
    subprocess.run(words, check=True, cwd=ROOT)
    copy_logs(folder, RESULTS / name)


def copy_logs(folder: Path, target: Path) -> None:
    """Copy a run's text files; paths are reduced to their last component."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ('config.yaml', 'log.jsonl', 'log_train.txt'):
        text = (folder / name).read_text(encoding='utf-8')
        (target / name).write_text(re.sub(r'(?:\.{0,2}/)(?:[\w.-]+/)+(?=[\w.-]+)', '', text), encoding='utf-8')


def last_and_best(folders: List[Path]) -> List[str]:
    """Mean and spread, over runs, of the accuracy of the last epoch and of the best: percent."""
    accuracies = [[100 * record['val_top1'] for record in map(json.loads, (folder / 'log.jsonl').open())
                   if 'val_top1' in record] for folder in folders]
    return [_mean_std([one[-1] for one in accuracies]), _mean_std([max(one) for one in accuracies])]


def minutes(folders: List[Path]) -> float:
    """Mean minutes of training and evaluation, over runs."""
    return mean(sum(map(float, re.findall(r', time: ([\d.]+)', (folder / 'log_train.txt').read_text()))) / 60
                for folder in folders)


def runs(recipe: str) -> List[Path]:
    return sorted(RESULTS.glob(f'{recipe}-[0-9]*'))


def table() -> List[str]:
    """One row per recipe, over the available seeds; below it the recipes that ran in both precisions."""
    rows = ['| recipe | seeds | last epoch, top-1 % | best epoch, top-1 % | minutes per run |', '|---|---|---|---|---|']
    pairs = ['', '| recipe | seeds | float32, last epoch | bfloat16, last epoch | float32, best | bfloat16, best |',
             '|---|---|---|---|---|---|']
    for recipe in [recipe for recipes, _ in EXPERIMENTS.values() for recipe in recipes]:
        fp32, bf16 = runs(recipe), runs(recipe + BF16)
        if fp32:
            rows.append(f'| {recipe} | {len(fp32)} | {" | ".join(last_and_best(fp32))} | {minutes(fp32):.0f} |')
        if fp32 and bf16:
            last, best = zip(last_and_best(fp32), last_and_best(bf16))
            pairs.append(f'| {recipe} | {len(fp32)}, {len(bf16)} | {" | ".join([*last, *best])} |')
    return rows + (pairs if len(pairs) > 3 else [])


def _mean_std(values: List[float]) -> str:
    return f'{mean(values):.2f}' + (f' ± {stdev(values):.2f}' if len(values) > 1 else '')


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument('experiment', nargs='?', choices=sorted(EXPERIMENTS), help='experiment to run')
    parser.flag('data_path', help='folder of its dataset')
    parser.flag('pretrained', default='', help='initial weights, for experiments that need them')
    parser.flag('teacher', default='', help='weights of the teacher: the result of the first experiment')
    parser.switch('amp', help='in bfloat16; the runs have names of their own')
    parser.switch('table', help='print the table of all available results')
    flags = vars(parser.parse_args())
    if flags['experiment']:
        if not flags['data_path']:
            raise InputError('-data_path: found nothing, expected the folder of the dataset')
        recipes, seeds = EXPERIMENTS[flags['experiment']]
        for seed in seeds:
            for recipe in recipes:
                train(recipe, seed, flags)
    if flags['table'] or not flags['experiment']:
        print('\n'.join(table()))


if __name__ == '__main__':
    run(main)
