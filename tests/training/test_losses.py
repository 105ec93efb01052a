# SPDX-License-Identifier: Apache-2.0
"""Losses and accuracy."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from CaiT.training.losses import build_loss, num_correct, target_distribution

LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]], 'float32')


def softmax_log(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_by_value(smoothing):
    target = np.full((2, 3), smoothing / 3)
    target[[0, 1], [0, 1]] += 1 - smoothing
    expected = -(target * softmax_log(LOGITS)).sum(-1).mean()
    loss = build_loss('CE', smoothing)
    assert loss(paddle.to_tensor(LOGITS), paddle.to_tensor([0, 1])).item() == pytest.approx(expected, rel=1e-6)
    soft = paddle.to_tensor(target.astype('float32'))
    assert loss(paddle.to_tensor(LOGITS), soft).item() == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_by_value():
    target = np.array([[1, 0, 0], [0, 1, 0]], 'float64')
    expected = -(target * np.log(1 / (1 + np.exp(-LOGITS))) + (1 - target) * np.log(1 / (1 + np.exp(LOGITS)))).mean()
    found = build_loss('BCE', 0.0)(paddle.to_tensor(LOGITS), paddle.to_tensor([0, 1])).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_two_heads_learn_the_labels_in_equal_parts():
    one, two, labels = paddle.to_tensor(LOGITS), paddle.to_tensor(-LOGITS), paddle.to_tensor([0, 1])
    loss = build_loss('CE', 0.0)
    expected = (loss(one, labels).item() + loss(two, labels).item()) / 2
    assert loss((one, two), labels).item() == pytest.approx(expected)


def test_soft_targets_are_left_as_they_are():
    soft = paddle.to_tensor([[0.3, 0.7, 0.0]])
    assert target_distribution(soft, 3, 0.1) is soft


def test_count_correct_of_class_ids_and_distributions():
    logits = paddle.to_tensor(LOGITS)
    assert num_correct(logits, paddle.to_tensor([0, 1])) == 1
    assert num_correct(logits, paddle.to_tensor([[0.6, 0.4, 0.0], [0.1, 0.1, 0.8]])) == 2
    assert num_correct((logits, -3 * logits), paddle.to_tensor([0, 2])) == 0
