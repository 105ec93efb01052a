# SPDX-License-Identifier: Apache-2.0
"""The three jobs of the main scripts: train, evaluate, predict. Each takes a frozen config and owns a folder."""
from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import paddle
from paddle import nn
from yacs.config import CfgNode

from CaiT import runtime
from CaiT.config import build_model
from CaiT.data.loader import worker_deaths
from CaiT.errors import InputError
from CaiT.files import atomic_write
from CaiT.models import ops
from CaiT.training import curves, distributed
from CaiT.training.data import build_prediction_loader, build_val_loader
from CaiT.training.evaluator import Score, evaluate, predict
from CaiT.training.journal import Journal
from CaiT.training.trainer import Progress, Trainer
from CaiT.weights.translate import load_weights


@worker_deaths()
def train(config: CfgNode) -> Progress:
    """Train into the run's folder: checkpoints, logs, the config and, at the end, the curves."""
    _set_device(config)
    folder = _folder(config, 'train')
    if (folder / 'last.pdstate').exists() and not config.RESUME:
        raise InputError(f'-output_dir {folder}: holds a run already; add -resume auto to go on with it, '
                         'or name another folder')
    journal = _open(config, folder, 'train')
    trainer = Trainer(config, folder, journal)
    progress = trainer.fit()
    journal.line(f'best Acc@1 {progress.best_top1:.4f} (epoch {progress.best_epoch}), weights: {folder}/best.pdparams')
    if journal.active:
        journal.line(curves.draw(journal.records(), folder / 'curves.png'))
    return progress


@worker_deaths()
def score(config: CfgNode) -> Score:
    """Evaluate MODEL.PRETRAINED on the validation list."""
    _set_device(config)
    journal = _open(config, _folder(config, 'eval'), 'eval')
    return evaluate(_weighted(config), build_val_loader(config), journal, config.REPORT_FREQ)


@worker_deaths()
def classify(config: CfgNode) -> Path:
    """Predict with MODEL.PRETRAINED: a table on the console and ``predictions.csv``, whose path is returned."""
    _set_device(config)
    folder = _folder(config, 'pred')
    _open(config, folder, 'pred')
    model = _weighted(config)
    loader, paths, names = build_prediction_loader(config)
    width = max(len(path) for path in paths)
    print(f'{"image":<{width}}  class_id  prob    {"class_name  " if names else ""}top-5 class_id:prob')
    with atomic_write(folder / 'predictions.csv') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['path', 'class_id', 'class_name', 'prob', 'top5_class_ids', 'top5_probs'])
        for path, (ids, probabilities) in zip(paths, predict(model, loader)):
            name = names[ids[0]] if names else ''
            best = ' '.join(f'{i}:{p:.4f}' for i, p in zip(ids, probabilities))
            print(f'{path:<{width}}  {ids[0]:<8}  {probabilities[0]:.4f}  {name + "  " if name else ""}{best}')
            writer.writerow([path, ids[0], name, repr(float(probabilities[0])), ' '.join(map(str, ids)),
                             ' '.join(repr(float(p)) for p in probabilities)])
    print(f'{len(paths)} pictures, table: {folder / "predictions.csv"}')
    return folder / 'predictions.csv'


def _set_device(config: CfgNode) -> None:
    device = config.DEVICE
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if device == 'auto':
        device = 'gpu' if gpus else 'cpu'
    if device.startswith('gpu') and not gpus:
        raise InputError(f'-device {device}: found no GPU that this Paddle ({paddle.__version__}) can use, '
                         'expected cpu, or paddlepaddle-gpu and a CUDA device')
    if device == 'gpu' and distributed.world() > 1:
        device = f'gpu:{paddle.distributed.ParallelEnv().device_id}'
    try:
        paddle.set_device(device)
    except ValueError:
        raise InputError(f'-device: found {device!r}, expected auto, cpu, gpu or gpu:N') from None


def _folder(config: CfgNode, job: str) -> Path:
    """The run's folder: the one asked for, the one of the checkpoint to resume, or a new one named by the time."""
    if config.OUTPUT_DIR:
        return Path(config.OUTPUT_DIR)
    if job == 'train' and config.RESUME not in ('', 'auto'):
        path = Path(config.RESUME)
        return path if path.is_dir() else path.parent
    if job == 'train' and config.RESUME == 'auto':
        runs = sorted(Path('output').glob('train-*/last.pdstate'), key=lambda path: path.stat().st_mtime)
        if runs:
            return runs[-1].parent
    return Path('output') / time.strftime(f'{job}-%Y%m%d-%H-%M-%S')


def _open(config: CfgNode, folder: Path, job: str) -> Journal:
    """The journal of a job, opened with the settings in force; the config is saved beside it.

    Training's is ``config.yaml``, which belongs to the weights it makes: other jobs in the same folder leave it alone.
    """
    journal = Journal(folder, f'log_{job}.txt', active=distributed.rank() == 0)
    saved = folder / ('config.yaml' if job == 'train' else f'config_{job}.yaml')
    if journal.active:
        with atomic_write(saved) as file:
            file.write(config.dump())
    journal.line(f'config ({saved}):\n{config.dump().rstrip()}')
    journal.line(f'{runtime.prepare()}; {ops.note()}; paddle {paddle.__version__} on {paddle.get_device()}, '
                 f'python {sys.version.split()[0]}')
    return journal


def _weighted(config: CfgNode) -> nn.Layer:
    """The model with the weights of -pretrained, all of them: a head left at random would score and classify noise."""
    if not config.MODEL.PRETRAINED:
        raise InputError('-pretrained: found nothing, expected the weights to use (output/<run>/best, for one)')
    model = build_model(config, pretrained=False)
    strict = config.MODEL.STRICT
    print('\n'.join(load_weights(model, config.MODEL.PRETRAINED, strict, whole=strict).lines()))
    return model
