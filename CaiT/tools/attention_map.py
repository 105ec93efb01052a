# SPDX-License-Identifier: Apache-2.0
"""Where the class token looks: its attention to the patches, laid over the image.

    python -m CaiT.tools.attention_map -cfg=CaiT/configs/cait_xxs24_224.yaml -pretrained=cait_xxs24_224.pth \\
        -img_path=PICTURE_OR_FOLDER

For each image one PNG in the output folder. Its columns: the image as the model sees it, the mean over the heads,
each head. Its rows: CaiT's class-attention blocks, in which the class token alone reads the patches, so that no rollout
over the blocks is needed; for DeiT and ViT the last block. Every map has its own scale, dark to bright.
"""
from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import cv2
import numpy as np

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.files import atomic_write

if TYPE_CHECKING:
    from paddle import nn

CELL = 224  # pixels: smaller images are enlarged to at least this
GAP = 4     # pixels of white between two cells


def class_attention(model: 'nn.Layer', images: np.ndarray) -> np.ndarray:
    """Normalized images [B, 3, S, S] to attention [B, blocks, H, side, side] of the class token to each patch."""
    import paddle
    model.eval()
    with paddle.no_grad():
        maps = model.forward_intermediates(paddle.to_tensor(images), attention=True).attention
    if model.family != 'cait':
        maps = maps[-1:]
    patches = model.patch_embed.num_patches
    side = math.isqrt(patches)
    # [B, blocks, H, patches]: the class token's row; the patches are the last columns, after the tokens before them
    rows = np.stack([one.numpy()[:, :, 0, -patches:] for one in maps], axis=1)
    return rows.reshape(*rows.shape[:3], side, side)


def sheet(image: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The image [S, S, 3] uint8 RGB with its maps [blocks, H, side, side] as one image, uint8 RGB."""
    scale = max(1, math.ceil(CELL / len(image)))
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    rows = []
    for heads in maps:
        cells = [image, *(overlay(image, one) for one in [heads.mean(0), *heads])]
        rows.append(np.concatenate([np.pad(cell, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
                                    for cell in cells], axis=1))
    return np.concatenate(rows)[:-GAP, :-GAP]


def overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """One map [side, side], stretched over the image [S, S, 3] and blended with it half and half."""
    low, high = attention.min(), attention.max()
    levels = (attention - low) / max(high - low, 1e-12)
    levels = cv2.resize(levels.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colors = cv2.applyColorMap(np.round(levels * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return cv2.addWeighted(image, 0.5, np.ascontiguousarray(colors), 0.5, 0)


def _free_name(folder: Path, stem: str, taken: set) -> Path:
    """``stem``.png, or with a number when another image of this run has it."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f'{stem}-{number}'
    taken.add(name)
    return folder / f'{name}.png'


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.flag('cfg', metavar='FILE', help='YAML file, see CaiT/configs')
    parser.flag('pretrained', metavar='PATH', help='a checkpoint, with or without extension')
    parser.flag('img_path', metavar='PATH', help='an image, a folder or a list file')
    parser.flag('output_dir', type=Path, default=Path('output/attention'), metavar='FOLDER',
                help='default: output/attention')
    parser.flag('opts', nargs='+', default=[], help='config KEY VALUE pairs', metavar='KEY VALUE')
    options = parser.parse_args(arguments)
    for name, expected in (('pretrained', 'the weights to look through'), ('img_path', 'an image or a folder')):
        if not getattr(options, name):
            raise InputError(f'-{name}: found nothing, expected {expected}')
    runtime.prepare()
    from CaiT.config import build_model, data_config, get_config
    from CaiT.data.lists import list_images
    from CaiT.data.transforms import DataConfig, eval_transform
    config = get_config(options.cfg, options.opts, pretrained=options.pretrained)
    paths, model = list_images(options.img_path), build_model(config)
    data, taken = DataConfig(**data_config(config)), set()
    for path in paths:
        pixels = eval_transform(data, normalize=False)(path)
        maps = class_attention(model, eval_transform(data)(path)[None])[0]
        target = _free_name(options.output_dir, Path(path).stem, taken)
        with atomic_write(target, 'wb') as file:
            file.write(cv2.imencode('.png', sheet(pixels, maps)[..., ::-1])[1].tobytes())
        print(f'{path}: {target}')
    return 0


if __name__ == '__main__':
    errors.run(main)
