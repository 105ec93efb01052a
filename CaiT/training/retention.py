# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that stay beside ``last`` and ``best``: ``epoch_0012.pdstate`` and ``.pdparams``."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any, List, Mapping, Sequence, Set

from yacs.config import CfgNode

from CaiT.files import PathLike
from CaiT.training import checkpoint

_NAME = re.compile(r'epoch_(\d{4,})\.(?:pdparams|pdstate)')


def tag_of(epoch: int) -> str:
    return f'epoch_{epoch:04d}'


def kept_epochs(save: CfgNode, records: Sequence[Mapping[str, Any]], epoch: int) -> Set[int]:
    """The epochs whose checkpoints stay after ``epoch``.

    Every SAVE.EVERY-th, of these the last SAVE.KEEP (0: all), and the SAVE.TOP best by validation accuracy (mAP with
    DATA.MULTI_LABEL), of equal ones the later. ``records`` are the lines of log.jsonl, which a resumed run has as well.
    """
    epochs: List[int] = list(range(save.EVERY, epoch + 1, save.EVERY)) if save.EVERY else []
    epochs = epochs[-save.KEEP:] if save.KEEP else epochs
    found = [(record.get('val_top1', record.get('val_map')), record['epoch']) for record in records]
    scores = sorted((value, number) for value, number in found if value is not None and number <= epoch)
    return {*epochs, *(number for _, number in scores[-save.TOP:] if save.TOP)}


def keep(folder: PathLike, save: CfgNode, records: Sequence[Mapping[str, Any]], epoch: int) -> None:
    """Keep the checkpoint ``last``, which is of the end of ``epoch``, where the settings say so; remove those of other
    epochs that do not stay."""
    if not (save.EVERY or save.TOP):
        return
    epochs = kept_epochs(save, records, epoch)
    if epoch in epochs:
        checkpoint.link(folder, 'last', tag_of(epoch))
    for path in Path(folder).iterdir():
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) not in epochs:
            path.unlink()
