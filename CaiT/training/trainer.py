# SPDX-License-Identifier: Apache-2.0
"""Training: epochs of updates, evaluated, saved and resumable to the bit.

Every random choice is a function of (SEED, epoch, step, rank): the data's through its sampler, the model's by seeding
Paddle's generator before each micro-batch. So a checkpoint needs no generator's inner state to go on exactly.
"""
from __future__ import annotations

import dataclasses
import itertools
import math
import signal
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List

import numpy as np
import paddle
from yacs.config import CfgNode

from CaiT.config import build_model
from CaiT.errors import InputError
from CaiT.training import checkpoint, distributed
from CaiT.training.clock import Clock
from CaiT.training.data import build_train_loader, build_val_loader
from CaiT.training.ema import Ema
from CaiT.training.evaluator import evaluate
from CaiT.training.journal import Journal
from CaiT.training.losses import build_loss, correct
from CaiT.training.optim import build_optimizer, build_schedule, clip_gradients, optimizer_arrays, restore_optimizer
from CaiT.training.precision import Precision


@dataclasses.dataclass
class Progress:
    """Where training stands: ``step`` micro-batches of ``epoch`` are done, with these sums over their pictures."""
    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    pictures: float = 0
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
        paddle.seed(config.SEED)
        self.model = build_model(config)
        self.model.set_grad_checkpointing(config.TRAIN.RECOMPUTE)
        self.loader, self.sampler = build_train_loader(config)
        self.val_loader = build_val_loader(config)
        self.loss = build_loss(config.TRAIN.LOSS, config.TRAIN.LABEL_SMOOTHING)
        self.optimizer, decay_line = build_optimizer(self.model, config)
        self.schedule, rate_line = build_schedule(
            config, config.DATA.BATCH_SIZE * config.TRAIN.ACCUM_ITER * distributed.world())
        self.precision = Precision(config)
        self.ema = Ema(self.model, config.TRAIN.EMA_DECAY) if config.TRAIN.EMA_DECAY else None
        self.progress = Progress(epoch=config.TRAIN.LAST_EPOCH + 1)
        for line in filter(None, (decay_line, rate_line, self.precision.note)):
            self.journal.line(line)
        found = checkpoint.find(config.RESUME, folder) if config.RESUME else None
        if found:
            self._resume(found)
        net, self.optimizer = self.precision.decorate(self.model, self.optimizer)
        self.net = distributed.wrap(net)
        self.stopping = False

    def fit(self) -> Progress:
        """Train to the last epoch; returns where training stands. SIGTERM saves ``last`` and ends the run."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, 'stopping', True))
        epochs, progress = self.config.TRAIN.EPOCHS, self.progress
        self.journal.line(f'Start training from epoch {progress.epoch}.')
        while progress.epoch <= epochs:
            record, improved = self._epoch(), False
            if progress.epoch % self.config.VALIDATE_FREQ == 0 or progress.epoch == epochs:
                improved = self._validate(record)
            progress.next_epoch()
            self.journal.record(record)
            self._save(*['best', 'last'] if improved else ['last'])
        return progress

    def _epoch(self) -> Dict[str, Any]:
        config, progress, steps = self.config, self.progress, len(self.sampler)
        started, clock, norm, rate = time.time(), Clock(), 0.0, self._rate()
        title = f'Epoch[{progress.epoch:03d}/{config.TRAIN.EPOCHS:03d}]'
        self.journal.line(f'Now training epoch {progress.epoch}. LR={rate:.6f}')
        self.sampler.set_epoch(progress.epoch, progress.step)
        self.model.train()
        batches = self.journal.progress(clock.watch(self.loader), steps - progress.step, title)
        for update, group in enumerate(grouped(batches, config.TRAIN.ACCUM_ITER), 1):
            rate, first = self._rate(), progress.step
            norm = self._update(group, rate)
            mean = progress.averages()
            for step in range(first, progress.step):
                if step % config.REPORT_FREQ == 0:
                    self.journal.line('{}, Step[{:04d}/{:04d}], Avg Loss: {loss:.4f}, Avg Acc: {acc:.4f}'.format(
                        title, step, steps, **mean))
                    self.journal.line(clock.report(progress.epoch, config.TRAIN.EPOCHS, step, steps, rate,
                                                   mean['loss'], mean['acc']))
            due = config.SAVE_STEPS and update % config.SAVE_STEPS == 0 and progress.step < steps
            if due or self.stopping:
                self._save('last')
            if self.stopping:
                raise SystemExit(self.journal.line(f'stopped by SIGTERM after step {progress.step} of epoch '
                                                   f'{progress.epoch}; go on with -resume {self.folder}') or 143)
        totals = distributed.total([progress.loss_sum, progress.correct, progress.pictures])
        progress.loss_sum, progress.correct, progress.pictures = totals
        mean = progress.averages()
        self.journal.line('----- {}, Train Loss: {loss:.4f}, Train Acc: {acc:.4f}, time: {:.2f}'.format(
            title, time.time() - started, **mean))
        return {'epoch': progress.epoch, 'train_loss': mean['loss'], 'train_acc': mean['acc'], 'lr': rate,
                'grad_norm': norm, **clock.totals()}

    def _rate(self) -> float:
        return self.schedule.at(self.progress.epoch - 1 + self.progress.step / len(self.sampler))

    def _update(self, group: List[Any], rate: float) -> float:
        """One update from the micro-batches of ``group``; returns the gradients' global norm."""
        progress, config = self.progress, self.config
        for number, (pictures, targets) in enumerate(group, 1):
            paddle.seed(step_seed(config.SEED, progress.epoch, progress.step, distributed.rank()))
            with distributed.accumulating(self.net, number < len(group)), self.precision.autocast():
                logits = self.net(pictures)
                loss = self.loss(logits, targets)
                # The mean over the update's pictures: without the division n micro-batches would step n times as far.
                self.precision.backward(loss / len(group))
            value = loss.item()
            if not math.isfinite(value):
                raise InputError(self._blown_up(value, rate))
            progress.step += 1
            progress.loss_sum += value * len(targets)
            progress.correct += correct(logits, targets)
            progress.pictures += len(targets)
        self.optimizer.set_lr(rate)
        self.precision.unscale(self.optimizer)
        norm = clip_gradients(self.model.parameters(), config.TRAIN.GRAD_CLIP)
        self.precision.step(self.optimizer)
        self.optimizer.clear_grad()
        if self.ema:
            self.ema.update(self.model)
        return norm

    def _validate(self, record: Dict[str, Any]) -> bool:
        """Score the weights, and their average, into ``record``; True when the weights are the best so far."""
        progress, report = self.progress, self.config.REPORT_FREQ
        score = evaluate(self.model, self.val_loader, self.journal, report)
        record.update(val_loss=score.loss, val_top1=score.top1, val_top5=score.top5)
        if self.ema:
            with self.ema.applied(self.model):
                averaged = evaluate(self.model, self.val_loader, self.journal, report, 'EMA')
            record.update(ema_loss=averaged.loss, ema_top1=averaged.top1, ema_top5=averaged.top5)
            if averaged.top1 > progress.best_ema_top1:
                progress.best_ema_top1 = averaged.top1
                if self.journal.active:
                    checkpoint.write_weights(self.folder / 'best_ema.pdparams', self.ema.arrays())
        if score.top1 <= progress.best_top1:
            return False
        progress.best_top1, progress.best_epoch = score.top1, progress.epoch
        return True

    def _blown_up(self, value: float, rate: float) -> str:
        good = [str(path) for path in (self.folder / 'last.pdstate', self.folder / 'best.pdstate') if path.exists()]
        return (f'loss is {value} at epoch {self.progress.epoch}, step {self.progress.step}, LR {rate:g}; '
                f'last good checkpoint: {good[0] if good else "none yet"}')

    def _save(self, *tags: str) -> None:
        """Write the state of now under ``tags``. All processes take part in the sums, the first one writes."""
        sums = distributed.total([self.progress.loss_sum, self.progress.correct, self.progress.pictures])
        if not self.journal.active:
            return
        progress = dataclasses.asdict(self.progress)
        if self.progress.step:  # inside an epoch; at its end the sums are over all processes already
            progress.update(zip(('loss_sum', 'correct', 'pictures'), sums))
        state = {
            'model': checkpoint.weights(self.model),
            'ema': self.ema.arrays() if self.ema else {},
            'optimizer': optimizer_arrays(self.optimizer, self.model),
            'scaler': self.precision.state(),
            'progress': progress,
            'steps': len(self.sampler),
            'random': {'seed': self.config.SEED},  # with the position above, all that any generator needs
            'config': self.config.dump(),
        }
        for tag in tags:
            checkpoint.write(self.folder, tag, state)

    def _resume(self, path: Path) -> None:
        state = checkpoint.read(path)
        checkpoint.check_same_model(path, state, self.config)
        self.model.set_state_dict(state['model'])
        restore_optimizer(self.optimizer, self.model, state['optimizer'])
        self.precision.restore(state['scaler'])
        if self.ema and state['ema']:
            self.ema.restore(state['ema'])
        self.progress = Progress(**state['progress'])
        # With another number of processes an epoch has another number of steps: the same share of it is done.
        self.progress.step = self.progress.step * len(self.sampler) // state['steps']
        if distributed.rank():
            self.progress.loss_sum = self.progress.correct = self.progress.pictures = 0
        self.journal.rewind(self.progress.epoch - 1)
        self.journal.line(f'resumed from {path}: epoch {self.progress.epoch}, step {self.progress.step}, '
                          f'best Acc@1 {self.progress.best_top1:.4f} (epoch {self.progress.best_epoch})')
