# SPDX-License-Identifier: Apache-2.0
"""The training loop: epochs of optimizer updates, evaluated, checkpointed, and resumable bit for bit.

Every random choice is a function of (SEED, epoch, step, rank): in the data through its sampler, in the model by seeding
Paddle's generator before each micro-batch. A checkpoint therefore needs no generator state to resume exactly.
"""
from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import paddle
from yacs.config import CfgNode

from CaiT.errors import NonFiniteError
from CaiT.training import checkpoint, distributed, resume, retention
from CaiT.training.background import Background
from CaiT.training.build import build
from CaiT.training.evaluator import criterion_name, evaluate
from CaiT.training.logger import RunLogger
from CaiT.training.losses import num_correct
from CaiT.training.meter import Meter, report_freq
from CaiT.training.optim import clip_gradients
from CaiT.training.pending import Pending
from CaiT.training.preemption import Preempted, PreemptionSignal
from CaiT.training.run_state import snapshot
from CaiT.training.tensorboard_writer import TensorBoardWriter
from CaiT.training.train_state import TrainState, step_seed
from CaiT.training.visualdl_writer import VisualDLWriter


def grouped(batches: Iterable[Any], size: int) -> Iterator[List[Any]]:
    """Lists of ``size`` consecutive batches; the last may be shorter."""
    batches = iter(batches)
    return iter(lambda: list(itertools.islice(batches, size)), [])


class Trainer:
    """One training job in ``folder``, from a frozen config. Raises InputError for errors in the user's input.

    The constructor writes nothing to the folder: what is refused leaves no trace. Seeds Paddle's global generator with
    SEED.
    """

    def __init__(self, config: CfgNode, folder: Path, logger: RunLogger) -> None:
        self.config, self.folder, self.logger = config, Path(folder), logger
        self.criterion_name = criterion_name(config.DATA.MULTI_LABEL)
        parts = build(config, self.folder, logger)
        self.model, self.net, self.teacher, self.loss = parts.model, parts.net, parts.teacher, parts.loss
        self.loader, self.sampler, self.val_loader = parts.loader, parts.sampler, parts.val_loader
        self.optimizer, self.schedule, self.amp, self.ema = parts.optimizer, parts.schedule, parts.amp, parts.ema
        self.state, self.resumed = parts.state, parts.resumed
        self.background = Background(config.SAVE.BACKGROUND, logger.info)
        self.pending, self.report_freq = Pending(), report_freq(config, len(self.sampler))

    def fit(self, refresh: Optional[Callable[[], str]] = None) -> TrainState:
        """Train to the last epoch and return the final state. ``refresh`` is called after each epoch is saved.

        Handles SIGTERM, SIGINT and SIGHUP while it runs: saves the checkpoint ``last``, then raises SystemExit with the
        signal's status, or KeyboardInterrupt. Raises NonFiniteError when training has diverged.
        """
        epochs, state = self.config.TRAIN.EPOCHS, self.state
        self._start()
        with PreemptionSignal() as preemption, self.background, closing(self.loader), closing(self.val_loader):
            while state.epoch <= epochs and not self._stops_early():
                record, is_best = self._train_epoch(preemption), False
                if state.epoch % self.config.VALIDATE_FREQ == 0 or state.epoch == epochs:
                    try:
                        is_best = self._validate(record, preemption)
                    except Preempted:
                        self._exit_preempted(preemption)
                self._add_scalars({key: value for key, value in record.items() if key != 'epoch'},
                                  state.epoch * len(self.sampler))
                state.next_epoch()
                self.logger.record(record)
                self._save(*['best', 'last'] if is_best else ['last'])
                if refresh:
                    refresh()
                if state.epoch <= epochs and preemption.any_rank():
                    self._exit_preempted(preemption, save=False)
        for writer in self.writers:
            writer.close()
        return state

    def _stops_early(self) -> bool:
        """Whether the epochs since the best one are as many as TRAIN.EARLY_STOP; says so."""
        state, patience = self.state, self.config.TRAIN.EARLY_STOP
        if not (patience and state.best_epoch and state.epoch - 1 - state.best_epoch >= patience):
            return False
        self.logger.info(f'stopped after epoch {state.epoch - 1}: no better {self.criterion_name} for {patience} '
                         f'epochs (TRAIN.EARLY_STOP)')
        return True

    def _add_scalars(self, values: Dict[str, Any], step: int) -> None:
        for writer in self.writers:
            writer.add_scalars(values, step)

    def _start(self) -> None:
        """The first writes to the folder."""
        active = self.logger.active
        if active:
            checkpoint.remove_temporary_files(self.folder)
        if self.resumed:
            if active:
                self.logger.info(resume.carry_best(self.resumed, self.folder, self.state, self.criterion_name))
            self.resumed = self.resumed._replace(state={})  # not needed any more, and as large as the model and more
        self.logger.rewind(self.state.epoch - 1)
        self.writers = (VisualDLWriter(self.folder, self.config.TRAIN.VISUALDL and active),
                        TensorBoardWriter(self.folder, self.config.TRAIN.TENSORBOARD and active))
        self.logger.info(f'Start training from epoch {self.state.epoch}.')
        self.loader.start()  # now: what this process has in memory later is not in the workers
        self.val_loader.start()

    def _train_epoch(self, preemption: PreemptionSignal) -> Dict[str, Any]:
        """Run the remaining updates of the current epoch; returns its log.jsonl record."""
        config, state, steps = self.config, self.state, len(self.sampler)
        start_time, meter = time.monotonic(), Meter(distributed.world_size())
        title = f'Epoch[{state.epoch:03d}/{config.TRAIN.EPOCHS:03d}]'
        self.logger.info(f'Now training epoch {state.epoch}. LR={self._lr():.6f}')
        self.sampler.set_epoch(state.epoch, state.step)
        self.model.train()
        batches = self.logger.progress(meter.measure(self.loader), steps - state.step, title)
        save_steps = config.SAVE_STEPS * config.TRAIN.ACCUM_ITER
        for group in grouped(batches, config.TRAIN.ACCUM_ITER):
            first_step, skipped = state.step, state.skipped
            self._update(group)
            if state.skipped > skipped:
                self.logger.info(f'{title}, Step[{first_step:04d}/{steps:04d}], update skipped: gradients are not '
                                 f'finite in float16, loss scale now {self.amp.scaler.factor:g}')
            for step in range(first_step, state.step):
                if step % self.report_freq == 0:
                    self._look()
                    self._report(meter, title, step, self._totals().averages())
            self.background.check()
            preempted = preemption.any_rank_at_intervals()
            if preempted or (save_steps and state.step % save_steps == 0 and state.step < steps):
                self._save('last')
            if preempted:
                self._exit_preempted(preemption, save=False)
        self._look()
        averages = self._totals().averages()
        self.logger.info('----- {}, Train Loss: {loss:.4f}, Train Acc: {acc:.4f}, time: {:.2f}'.format(
            title, time.monotonic() - start_time, **averages))
        summary = meter.summary()
        scaler = self.amp.scaler
        skipped_updates = {'skipped_steps': state.skipped, 'loss_scale': scaler.factor} if scaler else {}
        return {'epoch': state.epoch, 'train_loss': averages['loss'], 'train_acc': averages['acc'], 'lr': state.lr,
                'grad_norm': state.grad_norm, **summary, **skipped_updates,
                'eta': (config.TRAIN.EPOCHS - state.epoch) * steps * summary['batch_time']}

    def _totals(self) -> TrainState:
        """The state with the sums over the images of all processes: a collective call."""
        sums = distributed.all_reduce_sum([self.state.loss_sum, self.state.correct, self.state.images])
        return dataclasses.replace(self.state, loss_sum=sums[0], correct=sums[1], images=sums[2])

    def _report(self, meter: Meter, title: str, step: int, averages: Dict[str, float]) -> None:
        """Write the two log lines and the scalars of a step."""
        state, epochs, steps = self.state, self.config.TRAIN.EPOCHS, len(self.sampler)
        loss, acc = averages['loss'], averages['acc']
        self.logger.info(f'{title}, Step[{step:04d}/{steps:04d}], Avg Loss: {loss:.4f}, Avg Acc: {acc:.4f}')
        self.logger.info(meter.report(state.epoch, epochs, step, steps, state.lr, loss, acc))
        self._add_scalars({'step_loss': loss, 'step_acc': acc, 'step_lr': state.lr,
                           'step_grad_norm': state.grad_norm}, (state.epoch - 1) * steps + step)

    def _lr(self) -> float:
        return self.schedule.at(self.state.epoch - 1 + self.state.step / len(self.sampler))

    def _update(self, group: List[Any]) -> None:
        """One optimizer update from the micro-batches of ``group``."""
        state, config, amp, parameters = self.state, self.config, self.amp, self.model.parameters()
        state.lr = self._lr()
        # Gradients are averaged over processes after the backward pass, not within it.
        sync_afterwards = config.TRAIN.RECOMPUTE or (amp.stores_half and len(group) > 1)
        for number, (images, targets) in enumerate(group, 1):
            paddle.seed(step_seed(config.SEED, state.epoch, state.step, distributed.rank()))
            with distributed.no_sync(self.net, sync_afterwards or number < len(group)), amp.autocast():
                loss, correct = self._forward_backward(images, targets, len(group))
            self.pending.add_batch(state, loss, correct, len(targets))
            amp.collect(parameters, number == len(group))
            state.step += 1
        if sync_afterwards:
            distributed.average_gradients(parameters)
        self.optimizer.set_lr(state.lr)
        amp.unscale(parameters)
        finite = True
        if config.TRAIN.GRAD_CLIP or amp.skips_overflow or self._is_reported(len(group)):
            norm = clip_gradients(parameters, config.TRAIN.GRAD_CLIP)
            # A loss scale needs to know of each update whether it was finite. It waits, and so sees the loss as well.
            finite = not amp.skips_overflow or math.isfinite(norm)
            if finite:
                self.pending.add_norm(state, norm)
            if amp.skips_overflow:
                self._look()
        if not self._step(finite):
            state.skipped += 1
        self.optimizer.clear_grad()
        if self.ema:
            self.ema.update(self.model)

    def _is_reported(self, size: int) -> bool:
        """Whether the last ``size`` micro-batches are at a log line or at the end of the epoch, whose gradient norm is
        written."""
        step = self.state.step
        return step >= len(self.sampler) or any(done % self.report_freq == 0 for done in range(step - size, step))

    def _step(self, finite: bool) -> bool:
        try:
            return self.amp.step(self.optimizer, finite)
        except NonFiniteError as error:
            raise NonFiniteError(self._diverged(str(error))) from None

    def _look(self) -> None:
        """Look at the numbers that the device has computed since; NonFiniteError for one that is not finite."""
        try:
            self.pending.look(self.state)
        except NonFiniteError as error:
            raise NonFiniteError(f'{error}; {self._last_good()}') from None

    def _forward_backward(self, images: paddle.Tensor, targets: paddle.Tensor,
                          num_micro_batches: int) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Accumulate the gradients of one of ``num_micro_batches``; returns its loss and its number of correct images,
        both tensors [].

        ``images`` [B, 3, S, S]; ``targets`` class ids [B] or distributions [B, K].
        """
        teacher_logits = self.teacher(images) if self.teacher else None
        logits = self.net(images)
        loss = self.loss(logits, targets, teacher_logits)
        # Gradients are those of the mean over the images of all micro-batches, hence the division.
        self.amp.backward(loss / num_micro_batches)
        return loss.detach(), num_correct(logits, targets, self.config.DATA.MULTI_LABEL)

    def _validate(self, record: Dict[str, Any], preemption: PreemptionSignal) -> bool:
        """Evaluate the weights and their EMA into ``record``; True when the weights are the best so far."""
        state, loader = self.state, preemption.guard(self.val_loader)
        freq = report_freq(self.config, len(self.val_loader))
        evaluate_ = functools.partial(evaluate, multi_label=True) if self.config.DATA.MULTI_LABEL else evaluate
        with self.amp.autocast():
            result = evaluate_(self.model, loader, self.logger, freq)
        record.update(result.record('val'))
        if self.ema:
            with self.ema.applied(self.model), self.amp.autocast():
                ema_result = evaluate_(self.model, loader, self.logger, freq, 'EMA')
            record.update(ema_result.record('ema'))
        for name in ('val_loss', 'ema_loss'):
            if not math.isfinite(record.get(name, 0.0)):
                raise NonFiniteError(self._diverged(f'{name} is {record[name]}'))
        if self.ema:
            if ema_result.criterion > state.best_ema_top1:
                state.best_ema_top1 = ema_result.criterion
                if self.logger.active:
                    checkpoint.write_weights(self.folder / 'best_ema.pdparams', self.ema.arrays())
        if result.criterion <= state.best_top1:
            return False
        state.best_top1, state.best_epoch = result.criterion, state.epoch
        return True

    def _diverged(self, found: str) -> str:
        """The message of a NonFiniteError: what was found where, and the checkpoint to go on from."""
        state = self.state
        return f'{found} at epoch {state.epoch}, step {state.step}, LR {state.lr:g}; {self._last_good()}'

    def _last_good(self) -> str:
        paths = [self.folder / f'{tag}{checkpoint.SUFFIX}' for tag in ('last', 'best')]
        good = checkpoint.newest_good([*paths, *([self.resumed.path] if self.resumed else [])])
        return f'last good checkpoint: {good or "none yet"}'

    def _exit_preempted(self, preemption: PreemptionSignal, save: bool = True) -> None:
        if save:
            self._save('last')
        self.background.wait()
        line = (f'stopped by {preemption.name} at epoch {self.state.epoch}, step {self.state.step}; '
                f'go on with -resume {self.folder}')
        self.logger.info(line)
        preemption.leave(line)

    def _save(self, *tags: str) -> None:
        """Write the current state under ``tags``: a collective call, in which only rank 0 writes."""
        self._look()
        totals = self._totals()
        if not self.logger.active:
            return
        state = snapshot(self, totals)
        name = checkpoint.non_finite(state)
        if name:
            raise NonFiniteError(self._diverged(f'{name} is not finite'))
        epoch = 0 if self.state.step else self.state.epoch - 1  # the one that has ended, whose checkpoint may stay
        records = self.logger.records() if epoch else []

        def write() -> None:
            checkpoint.write(self.folder, tags[0], state)
            for tag in tags[1:]:
                checkpoint.link(self.folder, tags[0], tag)
            if epoch:
                retention.keep(self.folder, self.config.SAVE, records, epoch)
        self.background.run(write)
