# SPDX-License-Identifier: Apache-2.0
"""The parity check of an export: logits of the exported model against those of the dynamic model, on images."""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import cv2
import numpy as np

from CaiT.data.datasets import build_dataset, list_images
from CaiT.data.transforms import DataConfig, eval_transform, normalize
from CaiT.errors import InputError

BATCHES = (1, 3)
SYNTHETIC = 'synthetic images'
# Largest allowed difference of a logit, relative to the largest logit. fp32 must be equal up to rounding; the bounds of
# the others only reject wrong graphs, their accuracy is to be measured.
TOLERANCES = {'fp32': 1e-5, 'bf16': 0.1, 'int8': 0.5}

TINY = 1e-30  # in the place of the largest logit where all are 0

Run = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class CheckSet:
    """Images for the comparison, cropped to the model's size: uint8 [N, S, S, 3]; ``source`` is their origin in words,
    ``class_names`` are those of their dataset, if it has any."""

    pixels: np.ndarray
    data: DataConfig
    source: str
    class_names: Optional[List[str]] = None

    def array(self, input_kind: str) -> np.ndarray:
        """The images in the form of ``input_kind``: 'uint8', NHWC as they are, or 'float', normalized float32 NCHW."""
        if input_kind == 'uint8':
            return self.pixels
        return np.stack([normalize(image, self.data) for image in self.pixels])


def from_folder(path: str, data: DataConfig, count: int) -> CheckSet:
    """``count`` images of a folder or list file, evenly spaced; InputError when one cannot be read."""
    paths = list_images(path)
    chosen = [paths[i] for i in _spaced(len(paths), count)]
    transform = eval_transform(data, normalize=False)
    return CheckSet(np.stack([transform(image) for image in chosen]), data, path)


def from_dataset(name: str, data_path: str, num_classes: int, data: DataConfig, count: int,
                 multi_label: bool = False, expected: bool = True) -> CheckSet:
    """``count`` validation images of a dataset, evenly spaced; synthetic ones when it cannot be read, with the reason
    in ``source``, which is left out where the data are not there and were not ``expected``."""
    try:
        dataset = build_dataset(name, data_path, 'val', eval_transform(data, normalize=False), num_classes,
                                multi_label=multi_label)
        pixels = np.stack([dataset[i][0] for i in _spaced(len(dataset), count)])
    except InputError as error:
        if not expected and not Path(data_path).exists():
            return synthetic(data, count)
        return synthetic(data, count, f'{SYNTHETIC} ({error})')
    return CheckSet(pixels, data, f'{name}, validation images of {data_path}', dataset.class_names)


def synthetic(data: DataConfig, count: int, source: str = SYNTHETIC) -> CheckSet:
    """Smooth random color fields with noise, from fixed seeds."""
    size = data.image_size
    pixels = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        rng = np.random.Generator(np.random.PCG64(index))
        field = cv2.resize(rng.uniform(0, 255, (7, 7, 3)), (size, size), interpolation=cv2.INTER_CUBIC)
        pixels[index] = (field + rng.normal(0, 12, field.shape)).clip(0, 255).astype(np.uint8)
    return CheckSet(pixels, data, source)


def _spaced(length: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(int))


def in_batches(run: Run, images: np.ndarray, size: int) -> np.ndarray:
    """``run`` over ``images``, ``size`` at a time."""
    return np.concatenate([run(images[start:start + size]) for start in range(0, len(images), size)])


def measure(reference: np.ndarray, run: Run, images: np.ndarray) -> Dict[str, Any]:
    """Differences of ``run`` from the ``reference`` logits: the larger of those at batch sizes 1 and 3."""
    finite = np.isfinite(reference).all(1)
    if not finite.all():
        raise InputError(f'model: its logits are not finite on {len(finite) - int(finite.sum())} of {len(finite)} '
                         'images, expected weights with which they do not overflow')
    worst, agree = 0.0, len(images)
    for size in BATCHES:
        logits = in_batches(run, images, size)
        if logits.shape != reference.shape:
            raise InputError(f'exported model: found logits of shape {logits.shape}, expected {reference.shape}')
        worst = max(worst, float(np.nan_to_num(np.abs(logits - reference), nan=np.inf).max()))
        agree = min(agree, int((logits.argmax(1) == reference.argmax(1)).sum()))
    largest = float(np.abs(reference).max())
    return {'images': len(images), 'batches': list(BATCHES), 'max_abs_difference': worst,
            'max_abs_logit': largest, 'relative': worst / max(largest, TINY), 'argmax_agreement': agree}


def check(measured: Dict[str, Any], precision: str, artifact: str) -> None:
    """InputError when the difference from the dynamic model exceeds the tolerance of ``precision``."""
    tolerance = TOLERANCES[precision]
    if not measured['relative'] <= tolerance:
        raise InputError(f'{artifact}: its logits differ from the dynamic model by {measured["relative"]:.1e} of the '
                         f'largest logit on {measured["images"]} images, allowed is {tolerance:.0e}; '
                         'nothing was written')
