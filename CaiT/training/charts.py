# SPDX-License-Identifier: Apache-2.0
"""Scalars for VisualDL, Paddle's dashboard: `visualdl --logdir output` shows every run's."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

from CaiT.errors import InputError


class Charts:
    """Writes numbers against the micro-batches done to ``folder/visualdl``; does nothing when not ``active``."""

    def __init__(self, folder: Path, active: bool) -> None:
        self.writer: Any = None
        if active:
            try:
                from visualdl import LogWriter  # optional
            except ImportError:
                raise InputError('TRAIN.VISUALDL True: visualdl is not installed; pip install visualdl') from None
            self.writer = LogWriter(logdir=str(folder / 'visualdl'))

    def add(self, values: Mapping[str, float], step: int) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
