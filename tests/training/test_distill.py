# SPDX-License-Identifier: Apache-2.0
"""Distillation: losses, preprocessing for the teacher, errors."""
from __future__ import annotations

import numpy as np
import paddle
import pytest

from CaiT.data.transforms import DataConfig, normalize
from CaiT.errors import InputError
from CaiT.training import checkpoint, jobs
from CaiT.training.distill import Teacher, build_teacher, vision_models
from CaiT.training.losses import build_loss

LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]], 'float32')
TEACHER_LOGITS = np.array([[0.0, 3.0, 1.0], [1.0, 0.0, 4.0]], 'float32')
LABELS = np.array([0, 1])


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def cross_entropy(logits, ids):
    return -log_softmax(logits.astype('float64'))[np.arange(len(ids)), ids].mean()


def test_hard_distillation_by_value():
    loss = build_loss('CE', 0.0, 'hard', 0.3)
    found = loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS), paddle.to_tensor(TEACHER_LOGITS)).item()
    assert found == pytest.approx(0.7 * cross_entropy(LOGITS, LABELS) + 0.3 * cross_entropy(LOGITS, [1, 2]), rel=1e-6)


def test_soft_distillation_by_value():
    loss = build_loss('CE', 0.0, 'soft', 0.3, 2.0)
    found = loss(paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS), paddle.to_tensor(TEACHER_LOGITS)).item()
    teacher, student = log_softmax(TEACHER_LOGITS.astype('float64') / 2), log_softmax(LOGITS.astype('float64') / 2)
    divergence = (np.exp(teacher) * (teacher - student)).sum(-1).mean()
    assert found == pytest.approx(0.7 * cross_entropy(LOGITS, LABELS) + 0.3 * 4 * divergence, rel=1e-6)
    agreeing = build_loss('CE', 0.0, 'soft', 1.0)(paddle.to_tensor(TEACHER_LOGITS), paddle.to_tensor(LABELS),
                                                 paddle.to_tensor(TEACHER_LOGITS))
    assert agreeing.item() == pytest.approx(0, abs=1e-6)


def test_second_head_learns_from_the_teacher_first_from_the_labels():
    loss = build_loss('CE', 0.0, 'hard', 0.5)
    heads = paddle.to_tensor(LOGITS), paddle.to_tensor(-LOGITS)
    found = loss(heads, paddle.to_tensor(LABELS), paddle.to_tensor(TEACHER_LOGITS)).item()
    assert found == pytest.approx((cross_entropy(LOGITS, LABELS) + cross_entropy(-LOGITS, [1, 2])) / 2, rel=1e-6)


def data(size, mean, std):
    return DataConfig(size, 1.0, 'bicubic', (mean,) * 3, (std,) * 3)


def test_images_are_normalized_for_the_teacher():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    student, teacher = data(16, 0.45, 0.22), data(16, 0.5, 0.5)
    batch = paddle.to_tensor(normalize(pixels, student)[None])
    seen = Teacher(paddle.nn.Identity(), teacher, student).preprocess(batch)
    np.testing.assert_allclose(seen.numpy()[0], normalize(pixels, teacher), atol=1e-6)
    assert Teacher(paddle.nn.Identity(), student, student).preprocess(batch) is batch


@pytest.mark.parametrize('size', [8, 24])
def test_images_are_resized_for_the_teacher(size):
    ramp = np.broadcast_to(np.linspace(0, 1, 16, dtype='float32'), (1, 3, 16, 16))
    seen = Teacher(paddle.nn.Identity(), data(size, 0.5, 0.5), data(16, 0.5, 0.5)).preprocess(paddle.to_tensor(ramp))
    assert seen.shape == [1, 3, size, size]
    centers = ((np.arange(size) + 0.5) * 16 / size - 0.5) / 15  # half-pixel centers: the field of view is the same
    np.testing.assert_allclose(seen.numpy()[0, 0, 0, 2:-2], centers[2:-2], atol=0.01)


def distill_opts(weights, kind='hard', alpha=0.5, teacher='tiny_teacher'):
    return ['TRAIN.DISTILL.TYPE', kind, 'TRAIN.DISTILL.ALPHA', alpha, 'TRAIN.DISTILL.TEACHER', teacher,
            'TRAIN.DISTILL.TEACHER_WEIGHTS', weights]


def test_teacher_is_in_eval_mode_and_has_no_gradients(config, tiny_teacher):
    teacher = build_teacher(config(*distill_opts(tiny_teacher())))
    assert not any(layer.training for layer in teacher.network.sublayers(include_self=True))
    images = paddle.rand([2, 3, 16, 16])
    images.stop_gradient = False
    logits = teacher(images)
    assert logits.shape == [2, 3] and logits.stop_gradient
    assert teacher.size == 24 and not teacher.same_normalization


def test_alpha_0_equals_training_without_a_teacher(config, tiny_teacher, tmp_path):
    """Weights, initial values, parameter names and random choices are those of a run without a teacher."""
    drop = ['MODEL.DROP_PATH_RATE', 0.2]
    jobs.train(config(*drop, epochs=1, output_dir=str(tmp_path / 'alone')))
    jobs.train(config(*drop, *distill_opts(tiny_teacher(), 'soft', 0.0), epochs=1, output_dir=str(tmp_path / 'taught')))
    alone, taught = (checkpoint.read(tmp_path / name / 'last.pdstate') for name in ('alone', 'taught'))
    for part in ('model', 'optimizer'):
        assert alone[part].keys() == taught[part].keys()
        assert all(np.array_equal(alone[part][name], taught[part][name]) for name in alone[part]), part


@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_the_student_learns_from_the_teacher(config, tiny_teacher, tmp_path, kind):
    """The teacher always predicts class 2, and alpha is 1."""
    opts = distill_opts(tiny_teacher(bias=(0, 0, 20)), kind, 1.0)
    jobs.train(config(*opts, 'TRAIN.WARMUP_EPOCHS', 0, epochs=2, output_dir=str(tmp_path / 'run')))
    bias = checkpoint.read(tmp_path / 'run' / 'last.pdstate')['model']['head.bias']
    assert bias[2] > 0 > max(bias[:2])
    assert 'distillation: ' + kind in (tmp_path / 'run' / 'log_train.txt').read_text()


def test_distilled_deit_trains_with_a_teacher(config, tiny_teacher, tmp_path):
    opts = distill_opts(tiny_teacher(bias=(0, 0, 20)), 'hard', 0.5)
    jobs.train(config(*opts, epochs=1, output_dir=str(tmp_path / 'run'),
                      model=['MODEL.NAME', 'deit_tiny_distilled_patch16_224']))
    weights = checkpoint.read(tmp_path / 'run' / 'last.pdstate')['model']
    assert weights['head_dist.bias'][2] > 0 > max(weights['head_dist.bias'][:2])
    assert not weights['head.bias'][2] > 0 > max(weights['head.bias'][:2])


def test_a_missing_teacher_is_one_line(config, tiny_teacher, tmp_path):
    for opts, message in (
            (distill_opts('', teacher=''), r'DISTILL\.TYPE hard: found no TRAIN\.DISTILL\.TEACHER, expected a model'),
            (distill_opts(''), r'found no TRAIN\.DISTILL\.TEACHER_WEIGHTS, expected the path of its weights'),
            (distill_opts(str(tmp_path / 'none')), r'none: no such file'),
            (distill_opts('x', teacher='resnet51'), r"DISTILL\.TEACHER: model 'resnet51' is not known.*paddle\.vision"),
            (distill_opts(tiny_teacher(classes=5)), r'for 5 classes, the model for 3; a teacher needs the same')):
        with pytest.raises(InputError, match=message) as error:
            build_teacher(config(*opts))
        assert '\n' not in str(error.value)


def test_paddle_vision_models_as_teachers(config, tmp_path):
    assert {'resnet50', 'mobilenet_v3_large'} <= set(vision_models()) and 'ResNet' not in vision_models()
    network = paddle.vision.models.shufflenet_v2_x0_25(num_classes=3)
    network.eval()
    path = str(tmp_path / 'shuffle.pdparams')
    paddle.save(network.state_dict(), path)
    teacher = build_teacher(config(*distill_opts(path, teacher='shufflenet_v2_x0_25')))
    images = paddle.rand([1, 3, 16, 16])
    assert np.array_equal(teacher(images).numpy(), network(teacher.preprocess(images)).numpy())
    assert teacher.preprocess(images).shape == [1, 3, 224, 224]
    with pytest.raises(InputError, match=r'of shape \[\d+, 3\], shufflenet_v2_x0_25 for 4 classes needs \[\d+, 4\]'):
        build_teacher(config(*distill_opts(path, teacher='shufflenet_v2_x0_25'), num_classes=4))
