# SPDX-License-Identifier: Apache-2.0
"""Attention of a few validation images with a run's weights, for its page."""
from __future__ import annotations

from pathlib import Path
from typing import List, NamedTuple

import numpy as np
from PIL import Image

from CaiT.config import build_model, data_config, get_config
from CaiT.data.datasets import build_dataset
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.report import attention, attention_maps, attention_sheet
from CaiT.weights.translate import load_weights


class Tile(NamedTuple):
    """An image beside its maps, and what stands below it."""
    image: Image.Image
    predicted: str
    label: str


def tiles_of(config_file: Path, weights: Path, count: int) -> List[Tile]:
    """Tiles of ``count`` images of the validation split, evenly spaced, and the color bar.

    InputError when weights or images are not there.
    """
    config = get_config(str(config_file))
    data = DataConfig(**data_config(config))
    dataset = build_dataset(config.DATA.DATASET, config.DATA.DATA_PATH, 'val', lambda image: image,
                            config.MODEL.NUM_CLASSES, config.DATA.LABEL_MAP, config.DATA.MULTI_LABEL)
    model = build_model(config, pretrained=False)
    load_weights(model, str(weights), strict=True)
    names = dataset.class_names
    name_of = (lambda i: names[i]) if names else (lambda i: f'class {i}')
    crop, normalized = eval_transform(data, False), eval_transform(data)
    images, captions, maps = [], [], []
    for index in np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)).tolist():
        image, label = dataset[index]
        found = attention.explain(model, normalized(image)[None], None, config.DATA.MULTI_LABEL)
        best = int(found.class_ids[0])
        images.append(Image.fromarray(crop(image)))
        ids = np.flatnonzero(label).tolist() if config.DATA.MULTI_LABEL else [int(label)]
        captions.append((f'{name_of(best)} {100 * found.probs[0, best]:.1f}%',
                         f'label: {", ".join(map(name_of, ids)) or "none"}'))
        shown = attention_maps.patch_maps(found, 0)
        maps.append([(name, shown[name]) for name in (attention_maps.LAST, attention_maps.WEIGHTED)])
    top = attention_sheet.common_scale([values for one in maps for _, values in one])
    tiles = [Tile(attention_sheet.tile(image, (), one, top), *caption)
             for image, caption, one in zip(images, captions, maps)]
    return [*tiles, Tile(attention_sheet.bar(top), '', f'colors: 0 to {top:g} times an even distribution')]
