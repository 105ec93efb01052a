# SPDX-License-Identifier: Apache-2.0
"""One strict configuration for all scripts.

Later beats earlier: the defaults below, the model's own row (architecture and data config), the dataset's number of
classes, the YAML file with its ``BASE`` files, the flags, ``-opts KEY VALUE …``. An unknown key or a wrong type is an
error that names file and key. The result is frozen and can be written to a YAML file that reads back as itself.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from paddle import nn
from yacs.config import CfgNode

from CaiT.config_layers import keys, merge, nested, read_files
from CaiT.errors import InputError
from CaiT.models.registry import create_model, get_variant

_EXPLICIT = '_explicit'  # attribute of a config: the keys that the user set

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
        'USE_EMA': False,          # take the moving average of the weights that a training file holds beside them
        'CHECKPOINT_KEY': '',      # which of several models in a file: model, state_dict, teacher, ...
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
    layers = [*read_files(Path(path))] if path else []
    layers.append(nested({FLAGS[name]: value for name, value in flags.items() if value is not None}, 'flags'))
    if len(opts) % 2:
        raise InputError(f'-opts: found {len(opts)} words, expected KEY VALUE pairs: {" ".join(opts)}')
    layers.append(nested(dict(zip(opts[::2], opts[1::2])), '-opts'))

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
        merge(node, values, source, '')
    _check(node)
    # not a setting: it is neither written nor compared, and a copy keeps it
    node.__dict__[_EXPLICIT] = frozenset(key for _, values in layers for key in keys(values))
    node.freeze()
    return node


def is_explicit(config: CfgNode, key: str) -> bool:
    """Whether a YAML file, a flag or -opts set ``key`` ('DATA.MEAN'), rather than a default or the model's row."""
    return key in config.__dict__.get(_EXPLICIT, ())


def build_model(config: CfgNode, pretrained: bool = True) -> nn.Layer:
    """The model that ``config`` describes, with its weights when MODEL.PRETRAINED names some and they are wanted."""
    model = config.MODEL
    arch = {name: model[name.upper()] for name in get_variant(model.NAME).arch}
    return create_model(model.NAME, model.PRETRAINED if pretrained else None, model.STRICT, load_options(config),
                        image_size=config.DATA.IMAGE_SIZE, num_classes=model.NUM_CLASSES, **arch)


def load_options(config: CfgNode) -> Dict[str, Any]:
    """What the section MODEL says of a weight file, as arguments of ``CaiT.load_weights``."""
    return dict(use_ema=config.MODEL.USE_EMA, key=config.MODEL.CHECKPOINT_KEY,
                new_head=True if is_explicit(config, 'MODEL.NUM_CLASSES') else None)


def with_data_of(config: CfgNode, data: Optional[Mapping[str, Any]], source: str) -> Tuple[CfgNode, str]:
    """``config`` with the data config of its weights, and a line on what that changed or would have changed.

    ``data`` and ``source`` are those of a LoadReport. What a YAML file, a flag or -opts says stays. Returns ``config``
    itself and '' where nothing is known of the weights or nothing differs.
    """
    changed, kept, values = [], [], {}
    for key, value in (data or {}).items():
        name, current = f'DATA.{key.upper()}', config.DATA[key.upper()]
        if current == value:
            continue
        if is_explicit(config, name):
            kept.append(f'{name} {value} (configured: {current})')
        else:
            changed.append(f'{name} {value} (not {current})')
            values[key.upper()] = value
    if values:
        config = config.clone()
        config.defrost()
        config.DATA.update(values)
        config.freeze()
    lines = [f'data config of the weights ({source}): {", ".join(changed)}'] if changed else []
    lines += [f'kept as configured, although these weights are for ({source}): {", ".join(kept)}'] if kept else []
    return config, '; '.join(lines)


def data_config(config: CfgNode) -> Dict[str, Any]:
    """The model's data config as keyword arguments of ``CaiT.data.transforms.DataConfig``."""
    return {name: config.DATA[name.upper()] for name in get_variant(config.MODEL.NAME).data}


def _node(values: Mapping[str, Any]) -> CfgNode:
    return CfgNode({key: _node(value) if isinstance(value, Mapping) else value for key, value in values.items()})


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
