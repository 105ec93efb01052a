# SPDX-License-Identifier: Apache-2.0
"""Makes the model @NAME@ known to PaddleX 3.7, with operators that give the pixels of infer.py.

    import runpy; runpy.run_path('.../register.py')

PaddleX's own rotate by EXIF, round the long side of the resized image, and halve an odd border the other way: other
pixels for most images that are not square. This file needs PaddleX alone and is copied beside the exported graph.
"""
from __future__ import annotations

import numpy as np
from paddlex.inference.models.bindings import register_predictor_binding_map
from paddlex.inference.models.image_classification import ClasPredictor
from PIL import Image


class Read:
    """Files by Pillow, as RGB; arrays (BGR) as PaddleX takes them."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __call__(self, imgs):
        return [np.asarray(Image.open(one).convert('RGB')) if isinstance(one, str) else self.arrays([one])[0]
                for one in imgs]


class Resize:
    """The short side to ``target``, the long one cut off."""

    def __init__(self, target, interpolation):
        self.target, self.interpolation = target, interpolation

    def __call__(self, imgs):
        return [self.resize(Image.fromarray(one)) for one in imgs]

    def resize(self, image):
        short = min(image.size)
        size = [self.target if side == short else int(self.target * side / short) for side in image.size]
        return np.asarray(image.resize(size, self.interpolation))


class Crop:
    """The middle; half a pixel goes to the even side."""

    def __init__(self, size):
        self.size = size

    def __call__(self, imgs):
        return [self.crop(one) for one in imgs]

    def crop(self, image):
        top, left = (int(round((side - self.size) / 2)) for side in image.shape[:2])
        return image[top:top + self.size, left:left + self.size]


class Predictor(ClasPredictor):
    def _build(self):
        before, after = super()._build()
        resize = before['Resize']
        before['Read'] = Read(before['Read'])
        before['Resize'] = Resize(resize.target_short_edge, resize.interp)
        before['Crop'] = Crop(before['Crop'].crop_size[0])
        return before, after


register_predictor_binding_map(Predictor, {'paddle_static': ['@NAME@']})
