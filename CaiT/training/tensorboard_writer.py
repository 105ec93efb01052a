# SPDX-License-Identifier: Apache-2.0
"""Scalars for TensorBoard: ``tensorboard --logdir output`` shows all runs below ``output``."""
from __future__ import annotations

from pathlib import Path

from CaiT.errors import InputError
from CaiT.training.scalar_writer import ScalarWriter

FLUSH_SECONDS = 10  # at most so much is lost when a run is killed


class TensorBoardWriter(ScalarWriter):
    """Writes scalars to ``folder/tensorboard``, indexed by the number of micro-batches; a no-op when not ``active``."""

    def __init__(self, folder: Path, active: bool) -> None:
        if active:
            try:
                from tensorboardX import SummaryWriter  # optional
            except ImportError:
                raise InputError('TRAIN.TENSORBOARD True: tensorboardX is not installed; pip install tensorboardX'
                                 ) from None
            self.writer = SummaryWriter(logdir=str(folder / 'tensorboard'), flush_secs=FLUSH_SECONDS)
