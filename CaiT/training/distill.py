# SPDX-License-Identifier: Apache-2.0
"""The teacher of a distillation: another network's logits for the very pictures that the student sees."""
from __future__ import annotations

from typing import Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from yacs.config import CfgNode

from CaiT.config import data_config
from CaiT.data.transforms import DataConfig
from CaiT.errors import InputError
from CaiT.models.registry import IMAGENET, create_model, get_variant
from CaiT.weights.readers import read_checkpoint
from CaiT.weights.translate import load_weights


class Teacher:
    """(the student's pictures [B, 3, S, S], normalised for the student) -> the teacher's logits [B, K].

    The pictures are normalised anew with the teacher's mean and std and resampled when its side differs; crop and
    augmentation are the student's, so both judge the same pixels. No gradients, eval mode.
    """

    def __init__(self, network: nn.Layer, own: DataConfig, student: DataConfig, note: str = '') -> None:
        self.note = note  # a line for the run's log
        self.network, self.size, self.filter = network, own.image_size, own.interpolation
        network.eval()
        for parameter in network.parameters():
            parameter.stop_gradient = True
        mean, std, from_mean, from_std = (np.array(values, np.float64).reshape(1, 3, 1, 1) for values in
                                          (own.mean, own.std, student.mean, student.std))
        self.scale = paddle.to_tensor((from_std / std).astype('float32'))
        self.shift = paddle.to_tensor(((from_mean - mean) / std).astype('float32'))
        self.same = bool(np.allclose(mean, from_mean) and np.allclose(std, from_std))

    def pictures(self, pictures: paddle.Tensor) -> paddle.Tensor:
        """The same pictures as the teacher wants them."""
        if not self.same:
            pictures = pictures * self.scale + self.shift
        if pictures.shape[2] != self.size:
            mode = self.filter if self.filter in ('bilinear', 'nearest') else 'bicubic'
            pictures = F.interpolate(pictures, [self.size, self.size], mode=mode)
        return pictures

    @paddle.no_grad()
    def __call__(self, pictures: paddle.Tensor) -> paddle.Tensor:
        logits = self.network(self.pictures(pictures))
        return logits[0] if isinstance(logits, (list, tuple)) else logits  # googlenet also gives its two side exits


def build_teacher(config: CfgNode) -> Teacher:
    """TRAIN.DISTILL.TEACHER with TEACHER_WEIGHTS: a registered model, or a function of ``paddle.vision.models``.

    Built behind the student, under a name space and a random state of its own: the student's parameter names, first
    values and optimiser state are those of a run without a teacher. InputError when teacher or weights are missing.
    """
    distill, classes = config.TRAIN.DISTILL, config.MODEL.NUM_CLASSES
    if not distill.TEACHER or not distill.TEACHER_WEIGHTS:
        key = 'TEACHER_WEIGHTS' if distill.TEACHER else 'TEACHER'
        expected = 'the path of its weights' if distill.TEACHER else 'a model of list_models() or paddle.vision.models'
        raise InputError(f'TRAIN.DISTILL.TYPE {distill.TYPE}: found no TRAIN.DISTILL.{key}, expected {expected}')
    random = paddle.get_rng_state()
    with paddle.utils.unique_name.guard('teacher_'):
        if distill.TEACHER in vision_models():
            network, own = _vision_model(distill.TEACHER, distill.TEACHER_WEIGHTS, classes)
        else:
            network, own = _registered(distill.TEACHER, distill.TEACHER_WEIGHTS, classes)
    paddle.set_rng_state(random)
    note = (f'distillation: {distill.TYPE}, share {distill.ALPHA:g}, teacher {distill.TEACHER} '
            f'({distill.TEACHER_WEIGHTS}) at {own.image_size} pixels')
    return Teacher(network, own, DataConfig(**data_config(config)), note)


def vision_models() -> Tuple[str, ...]:
    """Names of Paddle's own classifiers of colour photographs."""
    return tuple(name for name in paddle.vision.models.__all__ if name.islower())


def _registered(name: str, weights: str, classes: int) -> Tuple[nn.Layer, DataConfig]:
    """One of our models with anyone's weights. A head for other classes, which a student drops, is an error here."""
    try:
        variant = get_variant(name)
    except InputError as error:
        raise InputError(f'TRAIN.DISTILL.TEACHER: {error}; nor is it in paddle.vision.models') from None
    network = create_model(name, num_classes=classes)
    audit = load_weights(network, weights)
    if audit.initial:
        raise InputError(f'TRAIN.DISTILL.TEACHER_WEIGHTS {audit.path}: {"; ".join(audit.notes)}; '
                         'a teacher needs the same classes as its student')
    return network, DataConfig(**variant.data)


def _vision_model(name: str, weights: str, classes: int) -> Tuple[nn.Layer, DataConfig]:
    """One of Paddle's models with weights from a file that uses its names, as ``paddle.save`` writes them."""
    network = getattr(paddle.vision.models, name)(num_classes=classes)
    arrays, state = read_checkpoint(weights).arrays, network.state_dict()
    for key, tensor in state.items():
        if key not in arrays or list(arrays[key].shape) != list(tensor.shape):
            found = f'of shape {list(arrays[key].shape)}' if key in arrays else 'missing'
            raise InputError(f'TRAIN.DISTILL.TEACHER_WEIGHTS {weights}: {key} is {found}, '
                             f'{name} for {classes} classes needs {list(tensor.shape)}')
    network.set_state_dict({key: arrays[key] for key in state})
    size = 299 if name == 'inception_v3' else 224  # what Paddle trained them on, with ImageNet's statistics
    return network, DataConfig(image_size=size, crop_pct=1.0, interpolation='bicubic', **IMAGENET)
