# SPDX-License-Identifier: Apache-2.0
"""Knowledge distillation: a teacher network's logits for the student's augmented images."""
from __future__ import annotations

from typing import Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from yacs.config import CfgNode

from CaiT.accelerate import accelerate
from CaiT.config import data_config
from CaiT.data.transforms import DataConfig
from CaiT.errors import InputError
from CaiT.models.registry import IMAGENET, create_model, get_variant
from CaiT.weights.readers import read_checkpoint
from CaiT.weights.translate import load_weights


class Teacher:
    """(images [B, 3, S, S], normalized for the student) -> teacher logits [B, K]; no gradients, eval mode.

    The images are normalized again, with the teacher's mean and std, and resized when the teacher's input size differs.
    Crop and augmentation are the student's, so both see the same pixels.
    """

    def __init__(self, network: nn.Layer, data: DataConfig, student_data: DataConfig, note: str = '') -> None:
        self.note = note  # a line for the log
        self.network, self.size, self.filter = network, data.image_size, data.interpolation
        network.eval()
        for parameter in network.parameters():
            parameter.stop_gradient = True
        mean, std, student_mean, student_std = (np.array(values, np.float64).reshape(1, 3, 1, 1) for values in
                                                (data.mean, data.std, student_data.mean, student_data.std))
        self.scale = paddle.to_tensor((student_std / std).astype('float32'))
        self.shift = paddle.to_tensor(((student_mean - mean) / std).astype('float32'))
        self.same_normalization = bool(np.allclose(mean, student_mean) and np.allclose(std, student_std))

    def preprocess(self, images: paddle.Tensor) -> paddle.Tensor:
        """``images`` normalized and resized for the teacher."""
        if not self.same_normalization:
            images = images * self.scale + self.shift
        if images.shape[2] != self.size:
            mode = self.filter if self.filter in ('bilinear', 'nearest') else 'bicubic'
            images = F.interpolate(images, [self.size, self.size], mode=mode)
        return images

    @paddle.no_grad()
    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        logits = self.network(self.preprocess(images))
        return logits[0] if isinstance(logits, (list, tuple)) else logits  # googlenet also returns its auxiliary logits


def build_teacher(config: CfgNode) -> Teacher:
    """TRAIN.DISTILL.TEACHER with TEACHER_WEIGHTS: a registered model, or a function of ``paddle.vision.models``.

    To be called after the student is built. Paddle's name generator and random state are guarded, so the student's
    parameter names, initial values and optimizer state are those of a run without a teacher. InputError when the
    teacher or its weights are missing.
    """
    distill, classes = config.TRAIN.DISTILL, config.MODEL.NUM_CLASSES
    if not distill.TEACHER or not distill.TEACHER_WEIGHTS:
        key = 'TEACHER_WEIGHTS' if distill.TEACHER else 'TEACHER'
        expected = 'the path of its weights' if distill.TEACHER else 'a model of list_models() or paddle.vision.models'
        raise InputError(f'TRAIN.DISTILL.TYPE {distill.TYPE}: found no TRAIN.DISTILL.{key}, expected {expected}')
    rng_state = paddle.get_rng_state()
    with paddle.utils.unique_name.guard('teacher_'):
        if distill.TEACHER in vision_models():
            network, data = _vision_model(distill.TEACHER, distill.TEACHER_WEIGHTS, classes)
        else:
            network, data = _registered(distill.TEACHER, distill.TEACHER_WEIGHTS, classes)
            if config.TRAIN.ACCELERATE:
                accelerate(network)
    paddle.set_rng_state(rng_state)
    note = (f'distillation: {distill.TYPE}, alpha {distill.ALPHA:g}, teacher {distill.TEACHER} '
            f'({distill.TEACHER_WEIGHTS}) at {data.image_size} pixels')
    return Teacher(network, data, DataConfig(**data_config(config)), note)


def vision_models() -> Tuple[str, ...]:
    """Names of the model functions of ``paddle.vision.models``."""
    return tuple(name for name in paddle.vision.models.__all__ if name.islower())


def _registered(name: str, weights: str, classes: int) -> Tuple[nn.Layer, DataConfig]:
    """A registered model with weights of any supported format. A head for another number of classes is an error."""
    try:
        variant = get_variant(name)
    except InputError as error:
        raise InputError(f'TRAIN.DISTILL.TEACHER: {error}; nor is it in paddle.vision.models') from None
    network = create_model(name, num_classes=classes)
    report = load_weights(network, weights)
    if report.initial:
        raise InputError(f'TRAIN.DISTILL.TEACHER_WEIGHTS {report.path}: {"; ".join(report.notes)}; '
                         'a teacher needs the same classes as its student')
    return network, DataConfig(**variant.data)


def _vision_model(name: str, weights: str, classes: int) -> Tuple[nn.Layer, DataConfig]:
    """A ``paddle.vision.models`` model with weights under Paddle's own parameter names."""
    network = getattr(paddle.vision.models, name)(num_classes=classes)
    arrays, state = read_checkpoint(weights).arrays, network.state_dict()
    for key, tensor in state.items():
        if key not in arrays or list(arrays[key].shape) != list(tensor.shape):
            found = f'of shape {list(arrays[key].shape)}' if key in arrays else 'missing'
            raise InputError(f'TRAIN.DISTILL.TEACHER_WEIGHTS {weights}: {key} is {found}, '
                             f'{name} for {classes} classes needs {list(tensor.shape)}')
    network.set_state_dict({key: arrays[key] for key in state})
    size = 299 if name == 'inception_v3' else 224  # the size of Paddle's published weights
    return network, DataConfig(image_size=size, crop_pct=1.0, interpolation='bicubic', **IMAGENET)
