# SPDX-License-Identifier: Apache-2.0
"""The three jobs of the main scripts: train, evaluate, predict. Each takes a frozen config and writes to one folder.

Each sets Paddle's global device to DEVICE.
"""
from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Tuple

import paddle
from paddle import nn
from yacs.config import CfgNode

from CaiT import runtime
from CaiT.config import build_model, load_options, with_data_of
from CaiT.data.loader import worker_failures
from CaiT.errors import InputError
from CaiT.files import atomic_write
from CaiT.training import distributed, evaluator, plots
from CaiT.training.acceleration import accelerate_for
from CaiT.training.data import build_prediction_loader, build_val_loader
from CaiT.training.evaluator import EvalResult
from CaiT.training.logger import RunLogger
from CaiT.training.trainer import Trainer, TrainState
from CaiT.weights.load_report import brief
from CaiT.weights.translate import load_weights


@worker_failures()
def train(config: CfgNode) -> TrainState:
    """Train; the run's folder gets checkpoints, logs, the config and, at the end, curves.png."""
    _set_device(config)
    folder = _run_folder(config, 'train')
    if (folder / 'last.pdstate').exists() and not config.RESUME:
        raise InputError(f'-output_dir {folder}: holds a run already; add -resume auto to go on with it, '
                         'or name another folder')
    logger = _open_logger(config, folder, 'train')
    state = Trainer(config, folder, logger).fit()
    logger.info(f'best Acc@1 {state.best_top1:.4f} (epoch {state.best_epoch}), weights: {folder}/best.pdparams')
    if logger.active:
        logger.info(plots.plot_curves(logger.records(), folder / 'curves.png'))
    return state


@worker_failures()
def evaluate(config: CfgNode) -> EvalResult:
    """Evaluate MODEL.PRETRAINED on the validation split."""
    _set_device(config)
    logger = _open_logger(config, _run_folder(config, 'eval'), 'eval')
    model, config = _pretrained_model(config, logger)
    return evaluator.evaluate(model, build_val_loader(config), logger, config.REPORT_FREQ)


@worker_failures()
def predict(config: CfgNode) -> Path:
    """Predict with MODEL.PRETRAINED; prints a table and returns the path of the ``predictions.csv`` it writes."""
    _set_device(config)
    folder = _run_folder(config, 'pred')
    model, config = _pretrained_model(config, _open_logger(config, folder, 'pred'))
    loader, paths, class_names = build_prediction_loader(config)
    width = max(len(path) for path in paths)
    print(f'{"image":<{width}}  class_id  prob    {"class_name  " if class_names else ""}top-5 class_id:prob')
    with atomic_write(folder / 'predictions.csv') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['path', 'class_id', 'class_name', 'prob', 'top5_class_ids', 'top5_probs'])
        for path, (ids, probabilities) in zip(paths, evaluator.predict(model, loader)):
            name = class_names[ids[0]] if class_names else ''
            top5 = ' '.join(f'{i}:{p:.4f}' for i, p in zip(ids, probabilities))
            print(f'{path:<{width}}  {ids[0]:<8}  {probabilities[0]:.4f}  {name + "  " if name else ""}{top5}')
            writer.writerow([path, ids[0], name, repr(float(probabilities[0])), ' '.join(map(str, ids)),
                             ' '.join(repr(float(p)) for p in probabilities)])
    print(f'{len(paths)} images, table: {folder / "predictions.csv"}')
    return folder / 'predictions.csv'


def _set_device(config: CfgNode) -> None:
    """Set Paddle's global device to DEVICE."""
    device = config.DEVICE
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if device == 'auto':
        device = 'gpu' if gpus else 'cpu'
    if device.startswith('gpu') and not gpus:
        raise InputError(f'-device {device}: found no GPU that this Paddle ({paddle.__version__}) can use, '
                         'expected cpu, or paddlepaddle-gpu and a CUDA device')
    if device == 'gpu' and distributed.world_size() > 1:
        device = f'gpu:{paddle.distributed.ParallelEnv().device_id}'
    try:
        paddle.set_device(device)
    except ValueError:
        raise InputError(f'-device: found {device!r}, expected auto, cpu, gpu or gpu:N') from None


def _run_folder(config: CfgNode, job: str) -> Path:
    """OUTPUT_DIR; else the folder of the checkpoint to resume; else a new one named by job and time."""
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


def _open_logger(config: CfgNode, folder: Path, job: str) -> RunLogger:
    """The logger of a job; logs the settings and writes the config into ``folder``.

    Training writes ``config.yaml``, which describes the weights beside it; other jobs write ``config_<job>.yaml``.
    """
    logger = RunLogger(folder, f'log_{job}.txt', active=distributed.rank() == 0)
    config_file = folder / ('config.yaml' if job == 'train' else f'config_{job}.yaml')
    if logger.active:
        with atomic_write(config_file) as file:
            file.write(config.dump())
    logger.info(f'config ({config_file}):\n{config.dump().rstrip()}')
    logger.info(f'{runtime.prepare()}; paddle {paddle.__version__} on {paddle.get_device()}, '
                f'python {sys.version.split()[0]}')
    return logger


def _pretrained_model(config: CfgNode, logger: RunLogger) -> Tuple[nn.Layer, CfgNode]:
    """The accelerated model with the weights of -pretrained, and the config with the data config of these weights.

    With MODEL.STRICT no parameter may stay at its initial value: evaluating a randomly initialized head would give
    meaningless numbers. Without, a warning names those that do.
    """
    if not config.MODEL.PRETRAINED:
        raise InputError('-pretrained: found nothing, expected the weights to use (output/<run>/best, for one)')
    model = build_model(config, pretrained=False)
    strict = config.MODEL.STRICT
    report = load_weights(model, config.MODEL.PRETRAINED, strict, whole=strict, **load_options(config))
    logger.info('\n'.join(report.lines()))
    if report.initial:
        logger.info(f'WARNING: {len(report.initial)} parameters are random, because {report.path} lacks them '
                    f'({", ".join(brief(report.initial)[:3])}): the results below say nothing about these weights')
    config, line = with_data_of(config, report.data, report.data_source)
    if line:
        logger.info(line)
    logger.info(accelerate_for(config, model))
    return model, config
