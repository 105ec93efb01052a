# SPDX-License-Identifier: Apache-2.0
"""One strict configuration for all scripts.

Sources in increasing priority: the defaults of CaiT/settings.py, the model's variant (architecture and data config),
the dataset's number of classes, the ``BASE`` files of the YAML file, the YAML file, the flags, ``-opts KEY VALUE …``.
An unknown key or a wrong type is an error that names the source and the key. The result is frozen; ``dump()`` gives
YAML that loads as an equal configuration.
"""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from paddle import nn
from yacs.config import CfgNode

from CaiT import checks
from CaiT.config_layers import find_file, keys, merge, nested, read_files
from CaiT.errors import InputError
from CaiT.models.registry import create_model, get_variant, known_name, list_aliases
from CaiT.settings import AT_LEAST, CHOICES, DEFAULTS, FLAGS, FRACTIONS, MIXING, NUM_CLASSES
from CaiT.weights.load_report import LoadReport
from CaiT.weights.translate import load_weights
from CaiT.weights.zoo import local_path

_EXPLICIT = '_explicit'  # attribute of a config: the keys that the user set


def get_config(path: Optional[str] = None, opts: Sequence[str] = (), **flags: Any) -> CfgNode:
    """The frozen configuration of a YAML file, flags (names as in ``FLAGS``; None: not given) and KEY VALUE pairs.

    ``path`` may also be the name of a shipped configuration: 'cait_xxs24_224', 'recipes/imagenet'. Raises InputError
    for a missing or malformed file, an unknown key, a wrong type or value.
    """
    layers = _file_layers(path) if path else []
    layers.append(nested({FLAGS[name]: value for name, value in flags.items() if value is not None}, 'flags'))
    if len(opts) % 2:
        hint = f' (write {" ".join(opts[0].split("=", 1))})' if '=' in opts[0] else ''
        raise InputError(f'-opts: found {" ".join(opts)}, expected KEY VALUE pairs{hint}')
    layers.append(nested(dict(zip(opts[::2], opts[1::2])), '-opts'))

    node = _node(DEFAULTS)
    for key in ('MODEL.NAME', 'DATA.DATASET'):  # these choose further defaults, so they are merged first
        for _, values in layers:
            section, leaf = key.split('.')
            found = values.get(section, {})
            if isinstance(found, Mapping) and leaf in found:
                node[section][leaf] = str(found[leaf])
    variant = get_variant(node.MODEL.NAME)
    node.MODEL.update({name.upper(): value for name, value in variant.arch.items()})
    node.DATA.update({name.upper(): value for name, value in variant.data.items()})
    node.MODEL.NUM_CLASSES = NUM_CLASSES.get(node.DATA.DATASET, 1000)
    for source, values in layers:
        merge(node, values, source)
    # not a setting: it is neither written nor compared, and a copy keeps it
    node.__dict__[_EXPLICIT] = frozenset(key for _, values in layers for key in keys(values))
    if node.TRAIN.WARMUP_FRACTION and not is_explicit(node, 'TRAIN.WARMUP_EPOCHS'):
        node.TRAIN.WARMUP_EPOCHS = 0
    if node.DATA.MULTI_LABEL and not is_explicit(node, 'TRAIN.LOSS'):
        node.TRAIN.LOSS = 'BCE'
    _check(node)
    node.freeze()
    return node


def _file_layers(path: str) -> List[tuple]:
    """The layers of a YAML file, or of the shipped one of a model in any project's spelling ('vit_b_32')."""
    name = known_name(str(path))
    alias = list_aliases().get(name)
    if (alias or name != path) and not find_file(path).is_file():
        return [*read_files(find_file(alias or name)), nested({'MODEL.NAME': name}, str(path))]
    return read_files(find_file(path))


def is_explicit(config: CfgNode, key: str) -> bool:
    """Whether a YAML file, a flag or -opts set ``key`` ('DATA.MEAN'), rather than a default or the model's row."""
    return key in config.__dict__.get(_EXPLICIT, ())


def build_model(config: CfgNode, pretrained: bool = True) -> nn.Layer:
    """The model that ``config`` describes, with the weights of MODEL.PRETRAINED if it is set and ``pretrained``."""
    model = config.MODEL
    arch = {name: model[name.upper()] for name in get_variant(model.NAME).arch}
    path = local_path(model.PRETRAINED, model.NAME) if pretrained and model.PRETRAINED else None
    return create_model(model.NAME, path, model.STRICT, load_options(config),
                        image_size=config.DATA.IMAGE_SIZE, num_classes=model.NUM_CLASSES, **arch)


def load_options(config: CfgNode) -> Dict[str, Any]:
    """What the section MODEL says of a weight file, as arguments of ``CaiT.load_weights``."""
    return dict(use_ema=config.MODEL.USE_EMA, key=config.MODEL.CHECKPOINT_KEY,
                new_head=True if is_explicit(config, 'MODEL.NUM_CLASSES') else None)


def with_values(config: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """A frozen copy of ``config`` with other values: {'DATA.MEAN': …}."""
    config = config.clone()
    config.defrost()
    for key, value in values.items():
        section, _, leaf = key.rpartition('.')
        node = _leaf(config, section) if section else config
        node[leaf] = value
    config.freeze()
    return config


def with_data_of(config: CfgNode, data: Optional[Mapping[str, Any]], source: str) -> Tuple[CfgNode, str]:
    """``config`` with the data config of its weights, and a line on what that changed or would have changed.

    ``data`` and ``source`` are those of a LoadReport. What a YAML file, a flag or -opts says stays. Returns ``config``
    itself and '' where nothing is known of the weights or nothing differs.
    """
    changed, unchanged, values = [], [], {}
    for key, value in (data or {}).items():
        name, current = f'DATA.{key.upper()}', config.DATA[key.upper()]
        if current == value:
            continue
        if is_explicit(config, name):
            unchanged.append(f'{name} {value} (configured: {current})')
        else:
            changed.append(f'{name} {value} (not {current})')
            values[name] = value
    if values:
        config = with_values(config, values)
    lines = [f'data config of the weights ({source}): {", ".join(changed)}'] if changed else []
    if unchanged:
        lines.append(f'kept as configured, although these weights are for ({source}): {", ".join(unchanged)}')
    return config, '; '.join(lines)


def model_with_weights(config: CfgNode) -> Tuple[nn.Layer, CfgNode, LoadReport, str]:
    """The model with the weights of MODEL.PRETRAINED, ``config`` with their data config, how they were loaded, and a
    line on the data config or ''. With MODEL.STRICT no parameter may stay at its initial value."""
    model, strict = build_model(config, pretrained=False), config.MODEL.STRICT
    path = local_path(config.MODEL.PRETRAINED, config.MODEL.NAME)
    report = load_weights(model, path, strict, require_all=strict, **load_options(config))
    config, line = with_data_of(config, report.data, report.data_source)
    return model, config, report, line


def data_config(config: CfgNode) -> Dict[str, Any]:
    """The model's data config as keyword arguments of ``CaiT.data.transforms.DataConfig``."""
    return {name: config.DATA[name.upper()] for name in get_variant(config.MODEL.NAME).data}


def _node(values: Mapping[str, Any]) -> CfgNode:
    return CfgNode({key: _node(value) if isinstance(value, Mapping) else value for key, value in values.items()})


def _check(config: CfgNode) -> None:
    """Raise InputError for values out of range. Settings that a constructor checks too are checked by CaiT.checks."""
    for key, allowed in CHOICES.items():
        checks.one_of(key, _leaf(config, key), allowed)
    for key, minimum in AT_LEAST.items():
        checks.at_least(key, _leaf(config, key), minimum)
    checks.between('MODEL.NUM_CLASSES', config.MODEL.NUM_CLASSES, 1, checks.MAX_CLASSES)
    for key in FRACTIONS:
        checks.between(key, _leaf(config, key), 0, 1)
    checks.shuffle_block('DATA.SHUFFLE', config.DATA.SHUFFLE)
    checks.check_multi_label(lambda key: _leaf(config, key))
    checks.positive('TRAIN.DISTILL.TAU', config.TRAIN.DISTILL.TAU)
    if config.TRAIN.WARMUP_FRACTION and config.TRAIN.WARMUP_EPOCHS:
        raise InputError(f'TRAIN.WARMUP_FRACTION: found {config.TRAIN.WARMUP_FRACTION:g} beside TRAIN.WARMUP_EPOCHS '
                         f'{config.TRAIN.WARMUP_EPOCHS}, expected one of them, the other 0')
    optimizer = config.TRAIN.OPTIMIZER
    checks.positive('TRAIN.OPTIMIZER.EPS', optimizer.EPS)
    checks.at_least('TRAIN.OPTIMIZER.EPS', optimizer.EPS, 1e-45)  # the smallest float32
    for key, value in (('BETAS', optimizer.BETAS[0]), ('BETAS', optimizer.BETAS[1]), ('MOMENTUM', optimizer.MOMENTUM)):
        if not 0 <= value < 1 - 2 ** -25:  # from there on it is 1 in float32
            raise InputError(f'TRAIN.OPTIMIZER.{key}: found {value}, expected a number from 0 to below 1')
    checks.check_data_config(data_config(config), lambda name: f'DATA.{name.upper()}')
    _check_sizes(config)
    checks.check_train_options({key.lower(): value for key, value in config.AUG.items()},
                               lambda name: f'AUG.{name.upper()}')
    checks.check_mixing({name: _leaf(config, key) for name, key in MIXING.items()}, lambda name: MIXING[name])


def _check_sizes(config: CfgNode) -> None:
    """Raise InputError for a model, a batch or workers that the memory does not hold."""
    arch = get_variant(config.MODEL.NAME).arch
    sizes = {name: config.MODEL[name.upper()] for name in arch if name in checks.ORDINARY}
    if set(checks.ORDINARY) - {'depth_token_only', 'image_size', 'num_classes'} <= set(sizes):  # a transformer
        sizes.update(image_size=config.DATA.IMAGE_SIZE, num_classes=config.MODEL.NUM_CLASSES)
        checks.check_transformer(sizes, lambda name: f'{"DATA" if name == "image_size" else "MODEL"}.{name.upper()}')
    for key in ('BATCH_SIZE', 'BATCH_SIZE_EVAL'):
        checks.check_batch(f'DATA.{key}', config.DATA[key], config.DATA.IMAGE_SIZE)
    checks.check_workers('DATA.NUM_WORKERS', config.DATA.NUM_WORKERS)


def _leaf(config: CfgNode, key: str) -> Any:
    for part in key.split('.'):
        config = config[part]
    return config
