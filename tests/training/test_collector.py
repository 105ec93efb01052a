# SPDX-License-Identifier: Apache-2.0
"""Every image's prediction, in the split's order, on one process and on several."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from CaiT.data.sampler import EvalSampler
from CaiT.training import distributed
from CaiT.training.collector import Collector


def softmax(x):
    exp = np.exp(x.astype(np.float64))
    return exp / exp.sum(1, keepdims=True)


@pytest.mark.parametrize('classes, world_size', [(7, 1), (3, 1), (7, 3)])
def test_in_order(monkeypatch, classes, world_size):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(11, classes)).astype('float32'), rng.integers(0, classes, 11)
    tables = []
    for rank in range(world_size):
        collector = Collector()
        for batch in EvalSampler(11, 2, rank, world_size):
            collector(paddle.to_tensor(logits[batch]), paddle.to_tensor(labels[batch]))
        with monkeypatch.context() as patch:
            patch.setattr(distributed, 'gather_rows', lambda rows, total: tables.append(rows) or np.zeros((total, 4)))
            collector.gather(11)
    whole = np.zeros((11, len(tables[0][0])))
    for rank, rows in enumerate(tables):  # what gather_rows makes of them
        whole[rank::world_size] = rows
    monkeypatch.setattr(distributed, 'gather_rows', lambda *_: whole)
    found = collector.gather(11)
    probs, k = softmax(logits), min(5, classes)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.ids, np.argsort(-logits, 1)[:, :k])
    np.testing.assert_allclose(found.probs, -np.sort(-probs, 1)[:, :k], rtol=1e-5)
    np.testing.assert_allclose(found.label_probs, probs[np.arange(11), labels], rtol=1e-5)
