# SPDX-License-Identifier: Apache-2.0
"""The three jobs of the main scripts: train, evaluate, predict. Each takes a frozen config and writes to one folder.

Each sets Paddle's global device to DEVICE.
"""
from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Callable, Iterable, List, Optional, Tuple

import numpy as np
import paddle
from paddle import nn
from yacs.config import CfgNode

from CaiT import runtime
from CaiT.config import get_config, model_with_weights, with_values
from CaiT.data.class_numbers import read_thresholds
from CaiT.data.datasets import CLASS_FILE
from CaiT.data.label_map import name_lines
from CaiT.data.loader import worker_failures
from CaiT.data.prediction_rows import BEST, PRESENT, TOP5, best_values, present_ids, top5_values
from CaiT.data.text import csv_line, display_width, padded, quoted
from CaiT.errors import InputError, NonFiniteError
from CaiT.files import atomic_write
from CaiT.training import distributed, evaluator
from CaiT.training.acceleration import accelerate_for
from CaiT.training.amp import Amp
from CaiT.training.collector import Collector, MultiLabelCollector
from CaiT.training.data import build_prediction_loader, build_val_loader
from CaiT.training.evaluator import EvalResult
from CaiT.training.logger import RunLogger, show
from CaiT.training.meter import report_freq
from CaiT.training.notices import evaluation_notices
from CaiT.training.resume import differences
from CaiT.training.run_folder import open_folder
from CaiT.training.train_state import TrainState
from CaiT.training.trainer import Trainer
from CaiT.weights.load_report import brief

MAX_NAME_WIDTH = 30  # columns of a class name in the printed table; longer names are printed whole


@worker_failures()
def train(config: CfgNode, refresher: Optional[Callable[[Path], Callable[..., str]]] = None) -> TrainState:
    """Train; the run's folder gets checkpoints, logs and the config.

    ``refresher(folder)`` makes what the first process calls after each epoch, and at the end with ``finished=True``;
    the line that the last call returns is logged (``CaiT.report.run_page.Refresher``: run.html, curves.png).

    Raises InputError for bad input, before anything is written when a resume is refused; NonFiniteError when training
    has diverged; WorkerError when a data worker died.
    """
    _check_images(config)
    _set_device(config)
    with open_folder(config, 'train') as folder:
        if (folder / 'last.pdstate').exists() and not config.RESUME:
            raise InputError(f'-output_dir {folder}: holds a run already; add -resume auto to go on with it, '
                             'or name another folder')
        logger = _open_logger(config, folder, 'train', hold=True)
        trainer = Trainer(config, folder, logger)
        logger.release()
        _write_config(config, folder / 'config.yaml', logger.active)
        _write_class_names(config, folder, trainer.loader.dataset.class_names, logger.active)
        refresh = refresher(folder) if refresher and logger.active else None
        state = trainer.fit(refresh)
        best = f'weights: {folder}/best.pdparams' if state.best_epoch else 'no epoch was evaluated'
        criterion = evaluator.criterion_name(config.DATA.MULTI_LABEL)
        logger.info(f'best {criterion} {state.best_top1:.4f} (epoch {state.best_epoch}), {best}')
        if refresh:
            logger.info(refresh(finished=True))
    return state


@worker_failures()
def evaluate(config: CfgNode, report: Optional[Callable[..., Any]] = None) -> EvalResult:
    """Evaluate MODEL.PRETRAINED on the validation split.

    ``report(folder, collected, dataset, config)`` writes about the predictions, in the first process
    (``CaiT.report.evaluation.write_for_job``).
    """
    _check_images(config)
    _set_device(config)
    with open_folder(config, 'eval') as folder:
        _thresholds(config)  # for the report: refused now, not at the end
        amp, logger = Amp(config, 'evaluating'), _open_logger(config, folder, 'eval')
        model, config = _pretrained_model(config, logger, amp)
        loader = build_val_loader(config)
        for note in [*loader.notes, *evaluation_notices(config.MODEL.NUM_CLASSES, loader.dataset)]:
            logger.info(note)
        multi_label = config.DATA.MULTI_LABEL
        collector = (MultiLabelCollector() if multi_label else Collector()) if report else None
        if report:  # said before: the last line of an evaluation is its result, which tools read
            logger.info(f'report: {folder / "report.html"}, at the end')
        with amp.autocast():
            result = evaluator.evaluate(model, loader, logger, report_freq(config, len(loader)), collect=collector,
                                        multi_label=multi_label)
        if not math.isfinite(result.loss):
            raise NonFiniteError(f'-pretrained {config.MODEL.PRETRAINED}: the validation loss is {result.loss}, '
                                 'expected weights whose logits are finite')
        if report:
            collected = collector.gather(len(loader.dataset))
            if logger.active:
                report(folder, collected, loader.dataset, config)
    return result


@worker_failures()
def predict(config: CfgNode) -> Tuple[Path, int]:
    """Predict with MODEL.PRETRAINED; prints a table and returns (the path of the ``predictions.csv`` it writes, the
    number of images that could not be read: they are named in the log and have no row).

    Several processes predict a share of the images each, and the first prints and writes them all.
    """
    _check_images(config)
    _set_device(config)
    with open_folder(config, 'pred') as folder:
        thresholds = _thresholds(config)
        amp, logger = Amp(config, 'predicting'), _open_logger(config, folder, 'pred')
        model, config = _pretrained_model(config, logger, amp)
        loader, paths, class_names = build_prediction_loader(config)
        for note in loader.notes:
            logger.info(note)
        with amp.autocast():  # predictions are computed when they are written
            predictions = evaluator.predict(model, loader, multi_label=config.DATA.MULTI_LABEL)
            if distributed.world_size() > 1:
                predictions = evaluator.gather_predictions(predictions, len(paths))
            left_out = []
            if logger.active:
                left_out = _write_predictions(folder / 'predictions.csv', paths, class_names, predictions, thresholds)
        for index in left_out:
            logger.info(f'left out: {loader.dataset.error(index)}')
        if left_out:
            logger.info(f'{len(left_out)} of {len(paths)} images could not be decoded')
    return folder / 'predictions.csv', len(left_out)


def _write_predictions(table: Path, paths: List[str], class_names: Optional[List[str]],
                       predictions: Iterable[Tuple[np.ndarray, np.ndarray]],
                       thresholds: Optional[np.ndarray] = None) -> List[int]:
    """Print and write a row per image; ``predictions`` are those of ``evaluator.predict``. Returns the indices of the
    images without a prediction.

    With ``thresholds`` [K] of images with several classes, also the classes whose probability is at least that.
    """
    names, is_multi = class_names or [], thresholds is not None
    path_width = max(display_width(quoted(path)) for path in [*paths, 'image'])
    name_width = min(max(map(display_width, [*names, 'class_name'])), MAX_NAME_WIDTH)
    name_title = padded('class_name', name_width) + '  ' if names else ''
    show(f'{padded("image", path_width)}  class_id  prob    {name_title}top-5 class_id:prob'
         + ('  class_ids' if is_multi else ''))
    left_out = []
    with atomic_write(table) as file:
        file.write(csv_line([*BEST, *TOP5, *([PRESENT] if is_multi else [])]))
        for index, (path, (ids, probabilities)) in enumerate(zip(paths, predictions)):
            if np.isnan(probabilities[0]):
                left_out.append(index)
                continue
            best = list(zip(ids.tolist(), probabilities.tolist()))
            name = padded(names[ids[0]], name_width) + '  ' if names else ''
            top5 = ' '.join(f'{i}:{p:.4f}' for i, p in best[:5])
            present = [present_ids(best, thresholds)] if is_multi else []
            show('  '.join([padded(quoted(path), path_width), f'{ids[0]:<8}', f'{probabilities[0]:.4f}',
                            f'{name}{top5}', *present]))
            file.write(csv_line([*best_values(path, best, lambda i: names[i] if names else ''), *top5_values(best),
                                 *present]))
    show(f'{len(paths) - len(left_out)} images, table: {table}')
    return left_out


def _thresholds(config: CfgNode) -> Optional[np.ndarray]:
    """[K] where images have several classes, else None."""
    data = config.DATA
    return read_thresholds(data.THRESHOLDS, config.MODEL.NUM_CLASSES) if data.MULTI_LABEL else None


def _check_images(config: CfgNode) -> None:
    channels = config.MODEL.IN_CHANNELS
    if channels != 3:
        raise InputError(f'MODEL.IN_CHANNELS: found {channels}, expected 3: images are read as RGB (for a training '
                         'loop of your own: create_model(..., in_channels=1))')


def _set_device(config: CfgNode) -> None:
    """Set Paddle's global device to DEVICE."""
    device = config.DEVICE
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if device == 'auto':
        device = 'gpu' if gpus else 'cpu'
    if device.startswith('gpu') and not gpus:
        raise InputError(f'-device {device}: found no GPU that this Paddle ({paddle.__version__}) can use, '
                         'expected cpu, or paddlepaddle-gpu and a CUDA device')
    number = device[len('gpu:'):] if device.startswith('gpu:') else '0'
    if device.startswith('gpu') and number.isdecimal() and (len(number) > 9 or int(number) >= gpus):
        # Paddle would exit without a message
        raise InputError(f'-device {device}: found {gpus} GPUs, expected gpu:0 to gpu:{gpus - 1}')
    if device == 'gpu' and distributed.world_size() > 1:
        device = f'gpu:{paddle.distributed.ParallelEnv().device_id}'
    try:
        paddle.set_device(device)
    except ValueError:
        raise InputError(f'-device: found {device!r}, expected auto, cpu, gpu or gpu:N') from None


def _open_logger(config: CfgNode, folder: Path, job: str, hold: bool = False) -> RunLogger:
    """The logger of a job, with the settings as its first lines.

    Training writes ``config.yaml``, which describes the weights beside it, when it starts. Other jobs write
    ``config_<job>.yaml``.
    """
    logger = RunLogger(folder, f'log_{job}.txt', active=distributed.rank() == 0, hold=hold)
    config_file = folder / ('config.yaml' if job == 'train' else f'config_{job}.yaml')
    if not hold:
        _write_config(config, config_file, logger.active)
    logger.info(f'config ({config_file}):\n{config.dump().rstrip()}', _settings_line(config, config_file))
    runtime.prepare(device=paddle.get_device())
    logger.info(f'{runtime.follow(paddle.get_device())}; paddle {paddle.__version__} on {paddle.get_device()}, '
                f'python {sys.version.split()[0]}')
    return logger


def _settings_line(config: CfgNode, file: Path) -> str:
    """The settings that differ from the defaults of this model and dataset; the log and ``file`` hold all."""
    default = get_config(opts=['MODEL.NAME', config.MODEL.NAME, 'DATA.DATASET', config.DATA.DATASET])
    chosen = {'MODEL.NAME': config.MODEL.NAME, 'DATA.DATASET': config.DATA.DATASET}
    chosen.update((key, mine) for key, _, mine in differences(default, config))
    return '\n'.join([f'config ({file}), without what is the default:',
                      *(f'  {key}: {value}' for key, value in chosen.items())])


def _write_config(config: CfgNode, path: Path, active: bool) -> None:
    """The settings but RESUME_ANYWAY, which is said once for one start: the file serves as -cfg of others."""
    if not active:
        return
    with atomic_write(path) as file:
        file.write(with_values(config, {'RESUME_ANYWAY': False}).dump())


def _write_class_names(config: CfgNode, folder: Path, names: Optional[List[str]], active: bool) -> None:
    """classes.txt, for whoever uses the weights; not into the folder of the dataset, whose file may have that name."""
    if active and names and folder.resolve() != Path(config.DATA.DATA_PATH).resolve():
        with atomic_write(folder / CLASS_FILE) as file:
            file.writelines(line + '\n' for line in name_lines([' '.join(name.split()) for name in names]))


def _pretrained_model(config: CfgNode, logger: RunLogger, amp: Amp) -> Tuple[nn.Layer, CfgNode]:
    """The accelerated model with the weights of -pretrained in the precision of ``amp``, and the config with the data
    config of these weights.

    With MODEL.STRICT no parameter may stay at its initial value: evaluating a randomly initialized head would give
    meaningless numbers. Without, a warning names those that do.
    """
    if not config.MODEL.PRETRAINED:
        raise InputError('-pretrained: found nothing, expected the weights to use (output/<run>/best, for one)')
    model, config, report, line = model_with_weights(config)
    logger.info('\n'.join(report.lines()))
    if report.initial:
        logger.info(f'warning: {", ".join(brief(report.initial))} left at random initial values (MODEL.STRICT False): '
                    'the figures are not those of the weights')
    if line:
        logger.info(line)
    if amp.note:
        logger.info(amp.note)
    amp.decorate(model)
    logger.info(accelerate_for(config, model))
    return model, config
