# SPDX-License-Identifier: Apache-2.0
"""Scalars for VisualDL, Paddle's dashboard: ``visualdl --logdir output`` shows all runs below ``output``."""
from __future__ import annotations

from pathlib import Path

from CaiT.errors import InputError
from CaiT.training.scalar_writer import ScalarWriter


class VisualDLWriter(ScalarWriter):
    """Writes scalars to ``folder/visualdl``, indexed by the number of micro-batches; a no-op when not ``active``."""

    def __init__(self, folder: Path, active: bool) -> None:
        if active:
            try:
                from visualdl import LogWriter  # optional
            except ImportError:
                raise InputError('TRAIN.VISUALDL True: visualdl is not installed; pip install visualdl') from None
            self.writer = LogWriter(logdir=str(folder / 'visualdl'))
