# SPDX-License-Identifier: Apache-2.0
"""One strict configuration for all scripts.

Later beats earlier: the defaults below, the model's own row (architecture and data config), the dataset's number of
classes, the YAML file with its ``BASE`` files, the flags, ``-opts KEY VALUE …``. An unknown key or a wrong type is an
error that names file and key. The result is frozen and can be written to a YAML file that reads back as itself.
"""
from __future__ import annotations

import ast
import difflib
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import yaml
from paddle import nn
from yacs.config import CfgNode

from CaiT.errors import InputError
from CaiT.models.registry import create_model, get_variant

DEFAULTS: Dict[str, Any] = {
    'DATA': {
        'DATASET': 'imagenet2012',
        'DATA_PATH': 'dataset/LSVRC2012',
        'LABEL_MAP': '',           # file of class names: json, synset_words.txt or one name per line
        'BATCH_SIZE': 256,         # images per step and device in training
        'BATCH_SIZE_EVAL': 64,     # images per step and device in evaluation and prediction
        'NUM_WORKERS': 2,          # reading processes; 0 reads in the main process
        'USE_SHARED_MEMORY': True,  # False where /dev/shm is small
        # IMAGE_SIZE, CROP_PCT, INTERPOLATION, MEAN, STD: the model's own row
    },
    'MODEL': {
        'NAME': 'cait_xxs24_224',
        'PRETRAINED': '',          # anyone's checkpoint, with or without extension
        'STRICT': True,            # refuse weights that are missing or left over
        'NUM_CLASSES': 1000,
        # the constructor's arguments in capitals: the model's own row
    },
    'AUG': {                       # see CaiT.data.train_transforms.TrainOptions
        'KIND': 'random_resized_crop',  # or pad_crop, for images that are small already
        'SCALE': (0.08, 1.0),      # area of the crop, of the image's
        'RATIO': (0.75, 4 / 3),    # width / height of the crop
        'SHIFT': 0.125,            # pad_crop: largest shift, of the side
        'ROTATE': 0.0,             # pad_crop: largest angle in degrees
        'ZOOM': 0.0,               # pad_crop: largest change of scale
        'INTERPOLATION': 'random',  # random: bilinear or bicubic, per image
        'HFLIP': 0.5,
        'COLOR_JITTER': 0.0,
        'AUTO_AUGMENT': '',        # rand-m9-mstd0.5-inc1 | autoaugment | 3augment
        'ERASE_PROB': 0.0,            # random erasing
        'ERASE_MODE': 'pixel',
        'MIXUP': 0.0,              # alpha of mixup's Beta distribution, 0: off
        'CUTMIX': 0.0,             # alpha of CutMix's, 0: off
        'MIX_PROB': 1.0,           # probability that a batch is mixed at all
        'MIX_SWITCH_PROB': 0.5,    # of CutMix where both are on
        'MIX_MODE': 'batch',       # what draws its own share: batch, pair or elem
        'REPEATS': 1,              # times each image comes, differently, in one epoch's batches
    },
    'TRAIN': {
        'EPOCHS': 300,
        'LAST_EPOCH': 0,           # epochs taken as done already: training starts at the next one
        'BASE_LR': 5e-4,           # at LR_BATCH images per update; scaled linearly to the real number
        'LR_BATCH': 512,           # 0: BASE_LR is used as it is
        'LR_SCHEDULE': 'cosine',
        'LR_STEP': 30,             # step: epochs between two decays
        'LR_MILESTONES': [30, 60, 90],  # multistep: epochs at which the rate decays
        'LR_DECAY': 0.1,           # step, multistep: factor of a decay
        'WARMUP_EPOCHS': 5,
        'WARMUP_START_LR': 1e-6,
        'END_LR': 1e-5,
        'WEIGHT_DECAY': 0.05,
        'LAYER_DECAY': 1.0,        # factor of the rate per layer, from the head down
        'GRAD_CLIP': 0.0,          # largest global norm of the gradients, 0: not clipped
        'ACCUM_ITER': 1,           # micro-batches of BATCH_SIZE per update
        'LOSS': 'CE',              # CE: softmax cross entropy, BCE: one yes/no question per class
        'LABEL_SMOOTHING': 0.0,
        'EMA_DECAY': 0.0,          # moving average of the weights, 0: none
        'RECOMPUTE': False,        # less memory, a quarter more time
        'ACCELERATE': True,        # oneDNN's kernels on a CPU: the same numbers, 4 to 7 times as fast
        'TO_STATIC': False,        # train the model compiled to a static graph: the same losses
        'VISUALDL': False,         # scalars for the dashboard (pip install visualdl)
        'OPTIMIZER': {'NAME': 'AdamW', 'BETAS': (0.9, 0.999), 'EPS': 1e-8, 'MOMENTUM': 0.9, 'NESTEROV': False},
        'AMP': {'LEVEL': 'O1', 'DTYPE': 'float16'},  # what -amp means
        # hard: the teacher's decision, soft: its distribution at temperature TAU; ALPHA is the teacher's share.
        # TEACHER: a registered name or one of paddle.vision.models; TEACHER_WEIGHTS: its checkpoint, for our classes
        'DISTILL': {'TYPE': 'none', 'ALPHA': 0.5, 'TAU': 3.0, 'TEACHER': '', 'TEACHER_WEIGHTS': ''},
    },
    'AMP': False,
    'DEVICE': 'auto',              # auto | cpu | gpu | gpu:N
    'SEED': 0,
    'OUTPUT_DIR': '',              # empty: output/<job>-<date and time>
    'RESUME': '',                  # a checkpoint (.pdstate), or auto: the newest of OUTPUT_DIR
    'SAVE_STEPS': 0,               # updates between two checkpoints inside an epoch, 0: at its end only
    'REPORT_FREQ': 100,            # steps between two lines
    'VALIDATE_FREQ': 1,            # epochs between two evaluations
}

CHOICES = {
    'DATA.DATASET': ('imagenet2012', 'digits', 'cifar10', 'cifar100'),
    'DATA.INTERPOLATION': ('bicubic', 'bilinear', 'nearest', 'lanczos'),
    'AUG.KIND': ('random_resized_crop', 'pad_crop'),
    'AUG.MIX_MODE': ('batch', 'pair', 'elem'),
    'TRAIN.LR_SCHEDULE': ('cosine', 'linear', 'step', 'multistep', 'constant'),
    'TRAIN.LOSS': ('CE', 'BCE'),
    'TRAIN.OPTIMIZER.NAME': ('AdamW', 'Momentum', 'LAMB'),
    'TRAIN.DISTILL.TYPE': ('none', 'hard', 'soft'),
    'TRAIN.AMP.LEVEL': ('O1', 'O2'),
    'TRAIN.AMP.DTYPE': ('float16', 'bfloat16'),
}
AT_LEAST = {
    'DATA.BATCH_SIZE': 1, 'DATA.BATCH_SIZE_EVAL': 1, 'DATA.NUM_WORKERS': 0, 'DATA.IMAGE_SIZE': 1, 'TRAIN.EPOCHS': 1,
    'TRAIN.LAST_EPOCH': 0, 'TRAIN.ACCUM_ITER': 1, 'MODEL.NUM_CLASSES': 1, 'REPORT_FREQ': 1, 'VALIDATE_FREQ': 1,
    'SEED': 0, 'SAVE_STEPS': 0, 'AUG.REPEATS': 1, 'TRAIN.LR_STEP': 1, 'TRAIN.WARMUP_EPOCHS': 0, 'TRAIN.BASE_LR': 0,
    'TRAIN.GRAD_CLIP': 0, 'TRAIN.WEIGHT_DECAY': 0,
}
FRACTIONS = ('TRAIN.EMA_DECAY', 'TRAIN.LABEL_SMOOTHING', 'TRAIN.DISTILL.ALPHA', 'TRAIN.LR_DECAY', 'TRAIN.LAYER_DECAY')
CLASSES = {'imagenet2012': 1000, 'digits': 10, 'cifar10': 10, 'cifar100': 100}

# What a flag of the scripts sets.
FLAGS = {
    'dataset': 'DATA.DATASET', 'data_path': 'DATA.DATA_PATH', 'label_map': 'DATA.LABEL_MAP',
    'batch_size': 'DATA.BATCH_SIZE', 'batch_size_eval': 'DATA.BATCH_SIZE_EVAL', 'image_size': 'DATA.IMAGE_SIZE',
    'num_workers': 'DATA.NUM_WORKERS', 'num_classes': 'MODEL.NUM_CLASSES', 'pretrained': 'MODEL.PRETRAINED',
    'epochs': 'TRAIN.EPOCHS', 'last_epoch': 'TRAIN.LAST_EPOCH', 'output_dir': 'OUTPUT_DIR', 'resume': 'RESUME',
    'amp': 'AMP', 'seed': 'SEED', 'device': 'DEVICE',
}


def get_config(path: Optional[str] = None, opts: Sequence[str] = (), **flags: Any) -> CfgNode:
    """The frozen configuration of a YAML file, flags (names as in ``FLAGS``; None: not given) and KEY VALUE pairs.

    Raises InputError for a missing or malformed file, an unknown key, a wrong type or value.
    """
    layers = [*_files(Path(path))] if path else []
    layers.append(_nested({FLAGS[name]: value for name, value in flags.items() if value is not None}, 'flags'))
    if len(opts) % 2:
        raise InputError(f'-opts: found {len(opts)} words, expected KEY VALUE pairs: {" ".join(opts)}')
    layers.append(_nested(dict(zip(opts[::2], opts[1::2])), '-opts'))

    node = _node(DEFAULTS)
    for key in ('MODEL.NAME', 'DATA.DATASET'):  # what chooses further defaults, before anything else is merged
        for _, values in layers:
            section, leaf = key.split('.')
            found = values.get(section, {})
            if isinstance(found, Mapping) and leaf in found:
                node[section][leaf] = str(found[leaf])
    variant = get_variant(node.MODEL.NAME)
    node.MODEL.update({name.upper(): value for name, value in variant.arch.items()})
    node.DATA.update({name.upper(): value for name, value in variant.data.items()})
    node.MODEL.NUM_CLASSES = CLASSES.get(node.DATA.DATASET, 1000)
    for source, values in layers:
        _merge(node, values, source, '')
    _check(node)
    node.freeze()
    return node


def build_model(config: CfgNode, pretrained: bool = True) -> nn.Layer:
    """The model that ``config`` describes, with its weights when MODEL.PRETRAINED names some and they are wanted."""
    model = config.MODEL
    arch = {name: model[name.upper()] for name in get_variant(model.NAME).arch}
    return create_model(model.NAME, model.PRETRAINED if pretrained else None, model.STRICT,
                        image_size=config.DATA.IMAGE_SIZE, num_classes=model.NUM_CLASSES, **arch)


def data_config(config: CfgNode) -> Dict[str, Any]:
    """The model's data config as keyword arguments of ``CaiT.data.transforms.DataConfig``."""
    return {name: config.DATA[name.upper()] for name in get_variant(config.MODEL.NAME).data}


def _node(values: Mapping[str, Any]) -> CfgNode:
    return CfgNode({key: _node(value) if isinstance(value, Mapping) else value for key, value in values.items()})


def _files(path: Path, above: tuple = ()) -> List[tuple]:
    """[(file name, its values)] of ``path`` and, before it, of the files its BASE names (relative to it)."""
    if path.resolve() in above:
        raise InputError(f'{path}: BASE leads back to this file')
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError(f'config file {path}: {error.strerror}') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not YAML: {" ".join(str(error).split())}') from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f'{path}: found {type(values).__name__}, expected KEY: value lines')
    bases = values.pop('BASE', [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InputError(f'{path}: BASE: found {bases!r}, expected a file name or a list of them')
    layers = [layer for base in bases for layer in _files(path.parent / base, (*above, path.resolve()))]
    return [*layers, (str(path), values)]


def _nested(dotted: Mapping[str, Any], source: str) -> tuple:
    """{'A.B': 1} to {'A': {'B': 1}}, the form of a YAML file."""
    values: Dict[str, Any] = {}
    for key, value in dotted.items():
        *sections, leaf = key.split('.')
        level = values
        for section in sections:
            level = level.setdefault(section, {})
            if not isinstance(level, dict):
                raise InputError(f'{source}: {section}: found {level!r} and, beside it, {key}')
        level[leaf] = value
    return source, values


def _merge(node: CfgNode, values: Mapping[str, Any], source: str, prefix: str) -> None:
    for key, value in values.items():
        name = f'{prefix}{key}'
        if key not in node:
            near = difflib.get_close_matches(str(key), list(node), n=2) or sorted(node)
            raise InputError(f'{source}: unknown key {name}, expected {" or ".join(near)}')
        if isinstance(node[key], CfgNode):
            if not isinstance(value, Mapping):
                raise InputError(f'{source}: {name}: found {value!r}, expected keys {", ".join(node[key])}')
            _merge(node[key], value, source, f'{name}.')
        else:
            node[key] = _coerce(value, node[key], f'{source}: {name}')


def _coerce(value: Any, default: Any, where: str) -> Any:
    """``value`` in the type of ``default``; text is read as a Python literal where the type is not text."""
    kind = type(default)
    found = value
    if isinstance(value, str) and kind is not str:
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pass
    if kind is float and type(found) in (int, float):
        return float(found)
    if kind is tuple and isinstance(found, (tuple, list)) and len(found) == len(default):
        return tuple(_coerce(one, like, where) for one, like in zip(found, default))
    if kind is list and isinstance(found, (tuple, list)):
        return [_coerce(one, default[0], where) for one in found]
    if kind is tuple or type(found) is not kind:
        size = f' of {len(default)}' if kind is tuple else ''
        raise InputError(f'{where}: found {value!r}, expected {kind.__name__}{size}')
    return found


def _check(config: CfgNode) -> None:
    for where, allowed in CHOICES.items():
        if _leaf(config, where) not in allowed:
            raise InputError(f'{where}: found {_leaf(config, where)!r}, expected one of {", ".join(allowed)}')
    for where, least in AT_LEAST.items():
        if _leaf(config, where) < least:
            raise InputError(f'{where}: found {_leaf(config, where)}, expected at least {least}')
    for where in FRACTIONS:
        if not 0 <= _leaf(config, where) <= 1:
            raise InputError(f'{where}: found {_leaf(config, where)}, expected a number from 0 to 1')
    if config.TRAIN.DISTILL.TAU <= 0:
        raise InputError(f'TRAIN.DISTILL.TAU: found {config.TRAIN.DISTILL.TAU}, expected more than 0')
    if not 0 < config.DATA.CROP_PCT <= 1:
        raise InputError(f'DATA.CROP_PCT: found {config.DATA.CROP_PCT}, expected more than 0, at most 1')


def _leaf(config: CfgNode, key: str) -> Any:
    for part in key.split('.'):
        config = config[part]
    return config
