# SPDX-License-Identifier: Apache-2.0
"""Scalars for VisualDL, Paddle's dashboard: ``visualdl --logdir output`` shows all runs below ``output``."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

from CaiT.errors import InputError


class VisualDLWriter:
    """Writes scalars to ``folder/visualdl``, indexed by the number of micro-batches; a no-op when not ``active``."""

    def __init__(self, folder: Path, active: bool) -> None:
        self.writer: Any = None
        if active:
            try:
                from visualdl import LogWriter  # optional
            except ImportError:
                raise InputError('TRAIN.VISUALDL True: visualdl is not installed; pip install visualdl') from None
            self.writer = LogWriter(logdir=str(folder / 'visualdl'))

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
