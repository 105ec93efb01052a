# SPDX-License-Identifier: Apache-2.0
"""Training of the compiled model equals training of the dynamic model."""
from __future__ import annotations

import json

import pytest
from paddle.jit.dy2static.program_translator import StaticFunction

from CaiT.training.logger import RunLogger
from CaiT.training.trainer import Trainer


def test_static_graph_has_the_same_losses(config, tmp_path):
    losses = {}
    for static in (False, True):
        folder = tmp_path / str(static)
        settings = config('TRAIN.TO_STATIC', static, 'MODEL.DROP_PATH_RATE', 0.1, epochs=1)
        trainer = Trainer(settings, folder, RunLogger(folder, 'log_train.txt'))
        assert isinstance(trainer.model.forward, StaticFunction) == static
        trainer.fit()
        lines = (folder / 'log.jsonl').read_text(encoding='utf-8').splitlines()
        losses[static] = [[json.loads(line)[name] for name in ('train_loss', 'val_loss')] for line in lines]
    assert len(losses[True]) == 1
    for static, dynamic in zip(losses[True], losses[False]):
        assert static == pytest.approx(dynamic, rel=1e-6)
