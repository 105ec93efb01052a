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
    monkeypatch.setattr(distributed, 'world_size', lambda: world_size)
    sent = []

    def collected(rank):
        monkeypatch.setattr(distributed, 'rank', lambda: rank)
        collector = Collector()
        for batch in EvalSampler(11, 2, rank, world_size):
            collector(paddle.to_tensor(logits[batch]), paddle.to_tensor(labels[batch]))
        return collector.gather(11)
    monkeypatch.setattr(distributed, 'all_reduce_sum', lambda values: sent.append(values) or values)
    for rank in range(world_size):
        found = collected(rank)
    if world_size > 1:
        monkeypatch.setattr(distributed, 'all_reduce_sum', lambda _: np.sum(sent, axis=0))
        found = collected(0)
    probs, k = softmax(logits), min(5, classes)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.ids, np.argsort(-logits, 1)[:, :k])
    np.testing.assert_allclose(found.probs, -np.sort(-probs, 1)[:, :k], rtol=1e-5)
    np.testing.assert_allclose(found.label_probs, probs[np.arange(11), labels], rtol=1e-5)
