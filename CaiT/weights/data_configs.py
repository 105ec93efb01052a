# SPDX-License-Identifier: Apache-2.0
"""How images must reach a file of weights: what was written beside or into it, else what its source is known for.

A model's name does not say it. MindCV trains ``vit_base_patch32_224`` with ImageNet's mean and standard deviation, timm
the same network with 0.5; with the wrong ones a model loses up to 30 points. Numbers of red, green, blue in 0..1.
"""
from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from CaiT import safe_json
from CaiT.errors import InputError
from CaiT.safe_yaml import load_yaml
from CaiT.weights import zoo

DATA_CONFIG = 'cait.data_config'  # under this name writers put it into a file, as JSON
KEYS = ('mean', 'std', 'crop_pct', 'interpolation')
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

# {source: {family: data config}} as the sources evaluate at 224 pixels; from 384 on nobody crops.
_PRE_TRAINED = {'vit': dict(crop_pct=0.875, interpolation='bicubic', **IMAGENET)}
SOURCES: Dict[str, Dict[str, Dict[str, Any]]] = {
    'MindCV': {  # configs/vit, configs/deit: crop_pct 0.875; cait: 1.0; mean and std: data/constants.py
        'vit': dict(crop_pct=0.875, interpolation='bicubic', **IMAGENET),
        'deit': dict(crop_pct=0.875, interpolation='bicubic', **IMAGENET),
        'cait': dict(crop_pct=1.0, interpolation='bicubic', **IMAGENET)},
    'Hugging Face transformers': {  # google/vit-*: both sides resized to 224; facebook/deit-*: 256, then the center
        'vit': dict(crop_pct=1.0, interpolation='bilinear', **HALF),
        'deit': dict(crop_pct=0.875, interpolation='bicubic', **IMAGENET)},
    'PASSL': {'vit': dict(crop_pct=0.875, interpolation='bicubic', **HALF),
              'deit': dict(crop_pct=0.875, interpolation='bicubic', **IMAGENET)},
    'PaddleViT': {'vit': dict(crop_pct=0.875, interpolation='bicubic', **HALF),
                  'deit': dict(crop_pct=0.875, interpolation='bicubic', **IMAGENET)},
    'DINO': _PRE_TRAINED, 'MAE': _PRE_TRAINED,
    'timm augreg': {'vit': dict(crop_pct=0.9, interpolation='bicubic', **HALF)},
}
# Names under which sources publish files whose arrays do not tell them from timm's.
FILE_NAMES = ((r'^dino_', 'DINO'), (r'^mae_', 'MAE'), (r'augreg', 'timm augreg'))
PILLOW = {0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic'}  # its numbers of resampling filters


def find(path: str, source: str, family: str, image_size: int, metadata: Mapping[str, str]
         ) -> Tuple[Optional[Dict[str, Any]], str]:
    """(data config, where it is from) of a weight file; (None, '') when nothing is known of it.

    ``source`` is a CheckpointSource's name, ``family`` the model's ('cait', 'deit', 'vit'), ``image_size`` the
    file's in pixels. InputError for a file beside the weights that says something impossible.
    """
    if DATA_CONFIG in metadata:
        return _checked(safe_json.loads(metadata[DATA_CONFIG]), path), 'written into the file'
    file = Path(path)
    for name, reader in (('config.yaml', _of_our_run), ('preprocessor_config.json', _of_transformers),
                         ('config.json', _of_timm)):
        beside = file.parent / name
        found = reader(beside, file) if beside.is_file() else None
        if found:
            return _checked(found, str(beside)), str(beside)
    entry = next((entry for entry in zoo.entries() if entry.filename == file.name), None)
    if entry:
        return {key: entry.data[key] for key in KEYS}, f'zoo: {entry.key}'
    if source == 'timm':
        source = next((known for pattern, known in FILE_NAMES if re.search(pattern, file.name)), source)
    known = SOURCES.get(source, {}).get(family)
    if known is None:
        return None, ''
    whole = image_size >= 384 and source not in ('MindCV', 'Hugging Face transformers')
    return {**known, **({'crop_pct': 1.0} if whole else {})}, f'as {source} evaluates'


def dump(data: Mapping[str, Any]) -> str:
    """The text of an entry DATA_CONFIG."""
    return json.dumps({key: list(data[key]) if key in ('mean', 'std') else data[key] for key in KEYS})


def text(data: Mapping[str, Any]) -> str:
    """A data config for a log line."""
    mean, std = (' '.join(f'{value:g}' for value in data[key]) for key in ('mean', 'std'))
    return f'mean {mean}, std {std}, crop {data["crop_pct"]:g}, {data["interpolation"]}'


def _of_our_run(config: Path, file: Path) -> Optional[Dict[str, Any]]:
    """Of the run that wrote ``best`` or ``last``; another weight file in its folder is not its own."""
    if file.stem not in ('best', 'last', 'best_ema') or file.suffix not in ('.pdparams', '.pdstate'):
        return None
    content = load_yaml(config)
    data = content.get('DATA') if isinstance(content, dict) else None
    if not isinstance(data, dict) or not all(key.upper() in data for key in KEYS):
        return None
    return {key: data[key.upper()] for key in KEYS}


def _of_transformers(config: Path, file: Path) -> Optional[Dict[str, Any]]:
    """Hugging Face's image processor; beside files under Hugging Face's names only."""
    content = safe_json.load_json(config) if file.name.startswith(('model', 'pytorch_model')) else None
    if not isinstance(content, dict) or 'image_mean' not in content or 'image_std' not in content:
        return None
    resample, crop = content.get('resample', 3), 1.0
    sides = [_side(content.get(key)) for key in ('crop_size', 'size')]
    if content.get('do_center_crop') and all(sides):
        crop = min(1.0, sides[0] / sides[1])
    return dict(mean=content['image_mean'], std=content['image_std'], crop_pct=crop,
                interpolation=PILLOW.get(resample) if type(resample) is int else None)


def _side(size: Any) -> Optional[int]:
    values = list(size.values()) if isinstance(size, dict) else [size]
    return next((value for value in values if type(value) is int and value > 0), None)


def _of_timm(config: Path, file: Path) -> Optional[Dict[str, Any]]:
    """timm's files on the Hugging Face hub: ``pretrained_cfg`` in config.json."""
    content = safe_json.load_json(config) if file.name.startswith(('model', 'pytorch_model')) else None
    data = content.get('pretrained_cfg') if isinstance(content, dict) else None
    if not isinstance(data, dict) or not all(key in data for key in KEYS):
        return None
    return {key: data[key] for key in KEYS}


def _checked(data: Any, where: str) -> Dict[str, Any]:
    """``data`` with its types and ranges checked."""
    good = isinstance(data, dict) and all(key in data for key in KEYS)
    for key in ('mean', 'std'):
        values = data[key] if good else ()
        good = good and isinstance(values, (list, tuple)) and len(values) == 3 and all(map(_is_number, values))
    good = good and min(data['std']) > 0 and _is_number(data['crop_pct']) and 0 < data['crop_pct'] <= 1
    if not good or data['interpolation'] not in PILLOW.values():
        raise InputError(f'{where}: its data config is impossible, expected three numbers each for mean and std '
                         f'(positive), crop_pct in (0, 1] and interpolation of {", ".join(PILLOW.values())}')
    return {**{key: tuple(float(value) for value in data[key]) for key in ('mean', 'std')},
            'crop_pct': float(data['crop_pct']), 'interpolation': data['interpolation']}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= 1e6
