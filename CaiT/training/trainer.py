# SPDX-License-Identifier: Apache-2.0
"""Training: epochs of updates, evaluated, saved and resumable to the bit.

Every random choice is a function of (SEED, epoch, step, rank): the data's through its sampler, the model's by seeding
Paddle's generator before each micro-batch. So a checkpoint needs no generator's inner state to go on exactly.
"""
from __future__ import annotations

import dataclasses
import itertools
import math
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Tuple

import numpy as np
import paddle
from yacs.config import CfgNode

from CaiT.config import build_model
from CaiT.errors import InputError
from CaiT.training import checkpoint, distributed
from CaiT.training.charts import Charts
from CaiT.training.clock import Clock
from CaiT.training.data import build_train_loader, build_val_loader
from CaiT.training.distill import build_teacher
from CaiT.training.ema import Ema
from CaiT.training.evaluator import evaluate
from CaiT.training.journal import Journal
from CaiT.training.losses import build_loss, correct
from CaiT.training.optim import build_optimizer, build_schedule, clip_gradients, optimizer_arrays, restore_optimizer
from CaiT.training.precision import Precision
from CaiT.training.stopping import Stopping, StopSignal


@dataclasses.dataclass
class Progress:
    """Where training stands: ``step`` micro-batches of ``epoch`` are done, with these sums over their pictures."""
    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    pictures: float = 0
    rate: float = 0.0       # of the last update
    grad_norm: float = 0.0  # of the last update
    best_top1: float = -1.0
    best_ema_top1: float = -1.0
    best_epoch: int = 0

    def averages(self) -> Dict[str, float]:
        return {'loss': self.loss_sum / self.pictures, 'acc': self.correct / self.pictures}

    def next_epoch(self) -> None:
        self.epoch, self.step, self.loss_sum, self.correct, self.pictures = self.epoch + 1, 0, 0.0, 0.0, 0


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """The seed of Paddle's generator for one micro-batch."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)[0])


def grouped(batches: Iterable[Any], size: int) -> Iterator[List[Any]]:
    """Lists of ``size`` consecutive batches; the last may be shorter."""
    batches = iter(batches)
    return iter(lambda: list(itertools.islice(batches, size)), [])


class Trainer:
    """One training job in ``folder``, from a frozen config. Raises InputError for what the user can mend."""

    def __init__(self, config: CfgNode, folder: Path, journal: Journal) -> None:
        self.config, self.folder, self.journal = config, Path(folder), journal
        distill = config.TRAIN.DISTILL
        paddle.seed(config.SEED)
        self.model = build_model(config)
        self.model.set_grad_checkpointing(config.TRAIN.RECOMPUTE)
        self.loader, self.sampler = build_train_loader(config)
        self.val_loader = build_val_loader(config)
        self.loss = build_loss(config.TRAIN.LOSS, config.TRAIN.LABEL_SMOOTHING,
                               distill.TYPE, distill.ALPHA, distill.TAU)
        self.teacher = build_teacher(config) if distill.TYPE != 'none' else None
        self.optimizer, decay_line = build_optimizer(self.model, config)
        self.schedule, rate_line = build_schedule(
            config, config.DATA.BATCH_SIZE * config.TRAIN.ACCUM_ITER * distributed.world())
        self.precision = Precision(config)
        self.progress = Progress(epoch=config.TRAIN.LAST_EPOCH + 1)
        for line in filter(None, (decay_line, rate_line, self.precision.note, self.teacher and self.teacher.note)):
            self.journal.line(line)
        checkpoint.sweep(folder, journal.active)
        state = self._resume()
        self.ema = Ema(self.model, config.TRAIN.EMA_DECAY) if config.TRAIN.EMA_DECAY else None
        if self.ema and state.get('ema'):
            self.ema.restore(state['ema'])
        journal.rewind(self.progress.epoch - 1)
        net, self.optimizer = self.precision.decorate(self.model, self.optimizer)
        if config.TRAIN.TO_STATIC:
            net = paddle.jit.to_static(net, full_graph=True)
        self.net = distributed.wrap(net)
        self.charts = Charts(self.folder, config.TRAIN.VISUALDL and journal.active)

    def fit(self) -> Progress:
        """Train to the last epoch; returns where training stands. SIGTERM saves ``last`` and leaves with status 143."""
        epochs, progress = self.config.TRAIN.EPOCHS, self.progress
        self.journal.line(f'Start training from epoch {progress.epoch}.')
        with StopSignal() as stop:
            while progress.epoch <= epochs:
                record, improved = self._epoch(stop), False
                if progress.epoch % self.config.VALIDATE_FREQ == 0 or progress.epoch == epochs:
                    try:
                        improved = self._validate(record, stop)
                    except Stopping:
                        self._stop()
                self.charts.add({key: value for key, value in record.items() if key != 'epoch'},
                                progress.epoch * len(self.sampler))
                progress.next_epoch()
                self.journal.record(record)
                self._save(*['best', 'last'] if improved else ['last'])
                if progress.epoch <= epochs and stop.agreed():
                    self._stop(save=False)
        self.charts.close()
        return progress

    def _epoch(self, stop: StopSignal) -> Dict[str, Any]:
        """The updates of the epoch that are still to do; returns its record."""
        config, progress, steps = self.config, self.progress, len(self.sampler)
        started, clock = time.time(), Clock()
        title = f'Epoch[{progress.epoch:03d}/{config.TRAIN.EPOCHS:03d}]'
        self.journal.line(f'Now training epoch {progress.epoch}. LR={self._rate():.6f}')
        self.sampler.set_epoch(progress.epoch, progress.step)
        self.model.train()
        batches = self.journal.progress(clock.watch(self.loader), steps - progress.step, title)
        for group in grouped(batches, config.TRAIN.ACCUM_ITER):
            first = progress.step
            self._update(group)
            mean = progress.averages()
            for step in range(first, progress.step):
                if step % config.REPORT_FREQ == 0:
                    self._report(clock, title, step, mean)
            stopping, every = stop.agreed(), config.SAVE_STEPS * config.TRAIN.ACCUM_ITER
            if stopping or (every and progress.step % every == 0 and progress.step < steps):
                self._save('last')
            if stopping:
                self._stop(save=False)
        totals = distributed.total([progress.loss_sum, progress.correct, progress.pictures])
        mean = Progress(loss_sum=totals[0], correct=totals[1], pictures=totals[2]).averages()
        self.journal.line('----- {}, Train Loss: {loss:.4f}, Train Acc: {acc:.4f}, time: {:.2f}'.format(
            title, time.time() - started, **mean))
        times = clock.totals()
        return {'epoch': progress.epoch, 'train_loss': mean['loss'], 'train_acc': mean['acc'], 'lr': progress.rate,
                'grad_norm': progress.grad_norm, **times,
                'eta': (config.TRAIN.EPOCHS - progress.epoch) * steps * times['batch_time']}

    def _report(self, clock: Clock, title: str, step: int, mean: Dict[str, float]) -> None:
        """The two lines about a step, and its charts."""
        progress, epochs, steps = self.progress, self.config.TRAIN.EPOCHS, len(self.sampler)
        self.journal.line('{}, Step[{:04d}/{:04d}], Avg Loss: {loss:.4f}, Avg Acc: {acc:.4f}'.format(
            title, step, steps, **mean))
        self.journal.line(clock.report(progress.epoch, epochs, step, steps, progress.rate, mean['loss'], mean['acc']))
        self.charts.add({'step_loss': mean['loss'], 'step_acc': mean['acc'], 'step_lr': progress.rate,
                         'step_grad_norm': progress.grad_norm}, (progress.epoch - 1) * steps + step)

    def _rate(self) -> float:
        return self.schedule.at(self.progress.epoch - 1 + self.progress.step / len(self.sampler))

    def _update(self, group: List[Any]) -> None:
        """One update from the micro-batches of ``group``."""
        progress, config = self.progress, self.config
        progress.rate = self._rate()
        apart = config.TRAIN.RECOMPUTE  # averages gradients after the backward pass, not in it
        for number, (pictures, targets) in enumerate(group, 1):
            paddle.seed(step_seed(config.SEED, progress.epoch, progress.step, distributed.rank()))
            with distributed.local(self.net, apart or number < len(group)), self.precision.autocast():
                value, hits = self._backward(pictures, targets, len(group))
            if not math.isfinite(value):
                raise InputError(self._blown_up(value))
            progress.step += 1
            progress.loss_sum += value * len(targets)
            progress.correct += hits
            progress.pictures += len(targets)
        if apart:
            distributed.average_gradients(self.model.parameters())
        self.optimizer.set_lr(progress.rate)
        self.precision.unscale(self.optimizer)
        progress.grad_norm = clip_gradients(self.model.parameters(), config.TRAIN.GRAD_CLIP)
        self.precision.step(self.optimizer)
        self.optimizer.clear_grad()
        if self.ema:
            self.ema.update(self.model)

    def _backward(self, pictures: paddle.Tensor, targets: paddle.Tensor, share: int) -> Tuple[float, int]:
        """Add the gradients of one micro-batch, one of ``share``; returns its loss and how many it has right."""
        told = self.teacher(pictures) if self.teacher else None
        logits = self.net(pictures)
        loss = self.loss(logits, targets, told)
        # The mean over the update's pictures: without the division n micro-batches would step n times as far.
        self.precision.backward(loss / share)
        return loss.item(), correct(logits, targets)

    def _validate(self, record: Dict[str, Any], stop: StopSignal) -> bool:
        """Score the weights, and their average, into ``record``; True when the weights are the best so far."""
        progress, report, pictures = self.progress, self.config.REPORT_FREQ, stop.watch(self.val_loader)
        score = evaluate(self.model, pictures, self.journal, report)
        record.update(val_loss=score.loss, val_top1=score.top1, val_top5=score.top5)
        if self.ema:
            with self.ema.applied(self.model):
                averaged = evaluate(self.model, pictures, self.journal, report, 'EMA')
            record.update(ema_loss=averaged.loss, ema_top1=averaged.top1, ema_top5=averaged.top5)
            if averaged.top1 > progress.best_ema_top1:
                progress.best_ema_top1 = averaged.top1
                if self.journal.active:
                    checkpoint.write_weights(self.folder / 'best_ema.pdparams', self.ema.arrays())
        if score.top1 <= progress.best_top1:
            return False
        progress.best_top1, progress.best_epoch = score.top1, progress.epoch
        return True

    def _blown_up(self, value: float) -> str:
        good = [str(path) for path in (self.folder / 'last.pdstate', self.folder / 'best.pdstate') if path.exists()]
        progress = self.progress
        return (f'loss is {value} at epoch {progress.epoch}, step {progress.step}, LR {progress.rate:g}; '
                f'last good checkpoint: {good[0] if good else "none yet"}')

    def _stop(self, save: bool = True) -> None:
        if save:
            self._save('last')
        self.journal.line(f'stopped by SIGTERM at epoch {self.progress.epoch}, step {self.progress.step}; '
                          f'go on with -resume {self.folder}')
        raise SystemExit(143)  # 128 + SIGTERM, as a shell reports it

    def _save(self, *tags: str) -> None:
        """Write the state of now under ``tags``. All processes take part in the sums, the first one writes."""
        sums = distributed.total([self.progress.loss_sum, self.progress.correct, self.progress.pictures])
        if not self.journal.active:
            return
        state = {
            'model': checkpoint.weights(self.model),
            'ema': self.ema.arrays() if self.ema else {},
            'optimizer': optimizer_arrays(self.optimizer, self.model),
            'scaler': self.precision.state(),
            'progress': {**dataclasses.asdict(self.progress), **dict(zip(('loss_sum', 'correct', 'pictures'), sums))},
            'steps': len(self.sampler),
            'random': {'seed': self.config.SEED},  # with the position above, all that any generator needs
            'config': self.config.dump(),
        }
        for tag in tags:
            checkpoint.write(self.folder, tag, state)

    def _resume(self) -> Dict[str, Any]:
        """Take up the state that RESUME names, if it names any; returns it, or {}."""
        path = checkpoint.find(self.config.RESUME, self.folder) if self.config.RESUME else None
        found = distributed.total([path is not None])[0]
        if 0 < found < distributed.world():
            raise InputError(f'-resume {self.config.RESUME}: found by {found:g} of {distributed.world()} processes '
                             f'under {self.folder}, expected a folder that all of them share')
        if path is None:
            return {}
        state = checkpoint.read(path)
        checkpoint.check_same_run(path, state, self.config)
        self.model.set_state_dict(state['model'])
        restore_optimizer(self.optimizer, self.model, state['optimizer'])
        self.precision.restore(state['scaler'])
        self.progress = Progress(**state['progress'])
        # With another number of processes an epoch has another number of steps: the same share of it is done.
        self.progress.step = self.progress.step * len(self.sampler) // state['steps']
        if distributed.rank():
            self.progress.loss_sum = self.progress.correct = self.progress.pictures = 0
        self.journal.line(f'resumed from {path}: epoch {self.progress.epoch}, step {self.progress.step}, '
                          f'best Acc@1 {self.progress.best_top1:.4f} (epoch {self.progress.best_epoch})')
        return state
