# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules, parameter groups, optimizers and their state."""
from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from CaiT import create_model
from CaiT.training.optim import (
    Schedule,
    build_optimizer,
    build_schedule,
    clip_gradients,
    optimizer_arrays,
    parameter_groups,
    restore_optimizer,
)


def test_cosine_with_warm_up_by_value():
    schedule = Schedule(peak_lr=1e-3, epochs=10, warmup_epochs=2, warmup_start_lr=1e-6, end_lr=1e-5)
    assert schedule.at(0) == 1e-6
    assert schedule.at(1) == pytest.approx((1e-6 + 1e-3) / 2)
    assert schedule.at(2) == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 + math.cos(0.2 * math.pi)) / 2)
    assert schedule.at(5) == pytest.approx((1e-3 + 1e-5) / 2)
    assert schedule.at(10) == schedule.at(11) == pytest.approx(1e-5)


@pytest.mark.parametrize('kind, expected', [
    ('linear', [1.0, 0.8, 0.5, 0.0]), ('step', [1.0, 1.0, 0.5, 0.125]), ('multistep', [1.0, 0.5, 0.25, 0.25]),
    ('constant', [1.0, 1.0, 1.0, 1.0])])
def test_other_schedules_by_value(kind, expected):
    schedule = Schedule(peak_lr=1.0, epochs=10, kind=kind, step_epochs=3, decay=0.5, milestones=(2, 5))
    assert [schedule.at(position) for position in (0, 2, 5, 10)] == pytest.approx(expected)


def test_lr_is_scaled_with_the_global_batch(config):
    schedule, line = build_schedule(config('TRAIN.LR_BATCH', 512, 'TRAIN.BASE_LR', 5e-4), 1024)
    assert schedule.peak_lr == pytest.approx(1e-3)
    assert 'base 0.0005 x factor 2 (1024 images per update / 512) = 0.001' in line


def test_what_decays_by_name():
    model = create_model('cait', embed_dim=16, depth=1, depth_token_only=1, num_heads=2, image_size=32)
    groups = {bool(group['weight_decay']): set(group['names']) for group in parameter_groups(model, 0.05)}
    assert groups[True] == {
        'patch_embed.proj.weight', 'head.weight', 'blocks.0.attn.qkv.weight', 'blocks.0.attn.proj.weight',
        'blocks.0.attn.proj_l.weight', 'blocks.0.attn.proj_w.weight', 'blocks.0.mlp.fc1.weight',
        'blocks.0.mlp.fc2.weight', 'blocks_token_only.0.attn.q.weight', 'blocks_token_only.0.attn.k.weight',
        'blocks_token_only.0.attn.v.weight', 'blocks_token_only.0.attn.proj.weight',
        'blocks_token_only.0.mlp.fc1.weight', 'blocks_token_only.0.mlp.fc2.weight'}
    assert groups[False] == {name for name, _ in model.named_parameters()} - groups[True]
    assert {'cls_token', 'pos_embed', 'blocks.0.gamma_1', 'norm.weight', 'head.bias'} <= groups[False]


def test_distillation_token_does_not_decay():
    model = create_model('deit_tiny_distilled_patch16_224', depth=1)
    groups = parameter_groups(model, 0.05)
    not_decayed = {name for group in groups if not group['weight_decay'] for name in group['names']}
    assert {'cls_token', 'dist_token', 'pos_embed', 'head_dist.bias'} <= not_decayed


@pytest.mark.parametrize('name, stacks', [('cait', {'blocks.0.': 1, 'blocks.1.': 2, 'blocks_token_only.1.': 4}),
                                          ('vit', {'blocks.0.': 1, 'blocks.1.': 2}),
                                          ('deit', {'blocks.0.': 1, 'blocks.1.': 2})])
def test_layer_decay_shrinks_from_the_head_down(name, stacks):
    model = create_model(name, embed_dim=12, num_heads=2, depth=2, image_size=32)
    scale = {name: group['learning_rate'] for group in parameter_groups(model, 0.05, 0.5) for name in group['names']}
    last = model.num_layer_ids - 1
    ends = {'pos_embed': 0, 'patch_embed': 0, 'cls_token': 0, 'head.': last, 'norm.': last}
    for prefix, depth in {**stacks, **ends}.items():
        found = {value for key, value in scale.items() if key.startswith(prefix)}
        assert found == {0.5 ** (last - depth)}, prefix


@pytest.mark.parametrize('optimizer', ['AdamW', 'Momentum', 'LAMB'])
def test_decay_reaches_matrices_only(config, optimizer):
    """With a zero gradient an update is the decay alone."""
    chosen = config('TRAIN.OPTIMIZER.NAME', optimizer, 'TRAIN.WEIGHT_DECAY', 0.5)
    model = create_model('cait', embed_dim=16, depth=1, num_heads=2, image_size=32)
    built, line = build_optimizer(model, chosen)
    before = {name: p.numpy() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        (parameter * 0.0).sum().backward()
    built.set_lr(0.1)
    built.step()
    for name, parameter in model.named_parameters():
        moved = not np.array_equal(parameter.numpy(), before[name])
        assert moved == (before[name].ndim > 1 and name not in ('cls_token', 'pos_embed')), name
    if optimizer == 'AdamW':
        weight = 'blocks.0.mlp.fc1.weight'
        np.testing.assert_allclose(dict(model.named_parameters())[weight].numpy(), before[weight] * 0.95, rtol=1e-6)
    assert f'{optimizer}, weight decay 0.5 on 20 tensors' in line and 'none on 42 tensors' in line


def test_clipping_by_value():
    first, second = paddle.to_tensor([3.0], stop_gradient=False), paddle.to_tensor([1.0], stop_gradient=False)
    (3 * first + 4 * second).sum().backward()
    assert clip_gradients([first, second], 0.0).item() == pytest.approx(5.0)
    assert first.grad.item() == 3.0
    assert clip_gradients([first, second], 1.0).item() == pytest.approx(5.0)
    assert (first.grad.item(), second.grad.item()) == pytest.approx((0.6, 0.8), rel=1e-5)


def test_optimizer_state_survives_other_automatic_names(config):
    """Paddle's own names depend on what was built before; ours do not."""
    def build():
        paddle.seed(0)
        model = create_model('cait', embed_dim=16, depth=1, num_heads=2, image_size=32, num_classes=3)
        return model, build_optimizer(model, config())[0]

    def update(model, optimizer):
        model(paddle.ones([1, 3, 32, 32])).square().sum().backward()
        optimizer.step()
        optimizer.clear_grad()

    model, optimizer = build()
    update(model, optimizer)
    arrays, weights = optimizer_arrays(optimizer, model), {n: p.numpy() for n, p in model.named_parameters()}
    assert 'blocks.0.attn.qkv.weight/moment1_0' in arrays
    other, other_optimizer = build()
    other.set_state_dict(weights)
    restore_optimizer(other_optimizer, other, arrays)
    update(model, optimizer)
    update(other, other_optimizer)
    for (name, one), two in zip(model.named_parameters(), other.parameters()):
        assert np.array_equal(one.numpy(), two.numpy()), name
