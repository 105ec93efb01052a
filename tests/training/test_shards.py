# SPDX-License-Identifier: Apache-2.0
"""A batch in pieces on two threads: the whole batch's gradients, in every run the same."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from CaiT import create_model
from CaiT.training import shards
from CaiT.training.losses import build_loss
from CaiT.training.shards import Shards

BATCH = 7  # does not divide into equal pieces


def build(drop_path=0.0, name='cait_xxs24_224'):
    model = create_model(name, image_size=32, depth=3, num_classes=9, drop_path_rate=drop_path)
    rng = np.random.default_rng(0)
    for key, parameter in model.named_parameters():
        centre = 0.3 if 'gamma' in key else 1.0 if 'norm' in key and key.endswith('weight') else 0.0
        parameter.set_value(rng.normal(centre, 0.1, parameter.shape).astype('float32'))
    model.train()
    return model


def batch():
    rng = np.random.default_rng(1)
    return paddle.to_tensor(rng.normal(0, 1, (BATCH, 3, 32, 32)).astype('float32')), paddle.arange(BATCH)


def taken(model):
    found = {key: parameter.grad.numpy().copy() for key, parameter in model.named_parameters()}
    model.clear_gradients()
    return found


def assert_close(found, expected):
    largest = max(np.abs(value).max() for value in expected.values())
    for key, value in expected.items():
        size = np.abs(value).max()
        blind = size < 1e-6 * largest  # biases that softmax cannot see: rounding alone
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-6 * largest if blind else 3e-5 * size,
                                   err_msg=key)


@pytest.mark.parametrize('name', ['cait_xxs24_224', 'deit_tiny_distilled_patch16_224'])
@pytest.mark.parametrize('count', [1, 2])
def test_same_as_the_whole_batch(name, count):
    """Loss, decisions and gradients, added to what is there already; with soft targets and a teacher too."""
    model, (pictures, labels) = build(name=name), batch()
    soft = paddle.nn.functional.one_hot(labels, 9) * 0.8 + 0.2 / 9
    told = paddle.to_tensor(np.random.default_rng(2).normal(0, 1, (BATCH, 9)).astype('float32'))
    loss = build_loss('CE', 0.0, 'soft')
    split = Shards(model, loss, 2, count)
    for targets, teacher in ((labels, None), (soft, None), (soft, told)):
        whole = loss(model(pictures), targets, teacher)
        (whole / 2).backward()
        expected = taken(model)
        value, hits = split(pictures, targets, teacher, 2)
        assert value == pytest.approx(whole.item(), rel=1e-6) and 0 <= hits <= BATCH
        assert_close(taken(model), expected)
    split(pictures, labels, None, 1)
    split(pictures, labels, None, 1)
    twice = taken(model)
    split(pictures, labels, None, 1)
    assert_close({key: value / 2 for key, value in twice.items()}, taken(model))


def test_every_run_is_the_same_and_threads_follow_the_weights():
    """Bit for bit, stochastic depth on; whatever moves the weights (updates, loading) moves the copies'."""
    model, (pictures, targets) = build(drop_path=0.4), batch()
    split = Shards(model, build_loss('CE', 0.1), 2, 2)
    start = {key: value.numpy() for key, value in model.state_dict().items()}

    def run(seed):
        model.set_state_dict(start)
        optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
        values = []
        for step in range(3):
            paddle.seed(seed + step)
            values.append(split(pictures, targets, None, 1)[0])
            optimizer.step()
            found = taken(model)
        return values, found
    (first, gradients), (second, again), (other, _) = run(5), run(5), run(50)
    assert first == second and first != other and len(set(first)) == 3
    for key, value in gradients.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)
    for own, its in zip(model.parameters(), split.slots[1]):
        assert own.data_ptr() == getattr(*its).data_ptr()
    assert all(layer.generator is None for layer in split.paths[0])


def test_where_batches_pass_whole(config, monkeypatch):
    loss, on = build_loss('CE', 0.0), ('TRAIN.SHARDS', True)
    assert shards.build_shards(config(*on), build(), loss).least >= 2
    assert shards.build_shards(config(), build(), loss) is None
    assert shards.build_shards(config(*on, 'TRAIN.RECOMPUTE', True), build(), loss) is None
    assert shards.build_shards(config(*on, 'TRAIN.TO_STATIC', True), build(), loss) is None
    dropping = create_model('cait_xxs24_224', image_size=32, depth=1, drop_rate=0.1)
    assert shards.build_shards(config(*on), dropping, loss) is None
    monkeypatch.setenv('PADDLE_TRAINERS_NUM', '2')
    assert shards.build_shards(config(*on), build(), loss) is None


def test_size_of_a_piece(config, monkeypatch):
    """Four pictures of CaiT-XXS24 at 224 pixels, fewer of wider or longer models."""
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    loss = build_loss('CE', 0.0)
    for name, expected in (('cait_xxs24_224', 4), ('cait_xxs24_384', 1), ('cait_s24_224', 2)):
        split = shards.build_shards(config('TRAIN.SHARDS', True), create_model(name, depth=1), loss)
        assert (split.size, split.least) == (expected, 2 * expected)
