# SPDX-License-Identifier: Apache-2.0
"""From a name to a model.

Every module of this package with a table ``VARIANTS`` is a family and is registered: a new model is one new file. A
family's name alone (``create_model('cait', embed_dim=64, ...)``) builds a model of your own shape, with the
constructor's defaults for the other arguments.
"""
from __future__ import annotations

import difflib
import fnmatch
import functools
import importlib
import inspect
import logging
import pkgutil
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional

from paddle import nn

import CaiT.models
from CaiT.errors import InputError

# Source of most published accuracies: huggingface/pytorch-image-models, results/results-imagenet.csv of commit 4e5207c.
TIMM = 'timm'
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def preprocessing(image_size: int, crop_pct: float, statistics: Dict[str, tuple]) -> Dict[str, Any]:
    """A model's data config: side in pixels, crop fraction, interpolation, mean and std per channel of 0..1."""
    return dict(image_size=image_size, crop_pct=crop_pct, interpolation='bicubic', **statistics)


@dataclass(frozen=True)
class Variant:
    """One row of a family's table.

    ``arch`` holds the constructor's arguments of this variant (all of them after ``get_variant``), ``data`` its data
    config, ``published`` the accuracies that others report: top1 and top5 in percent, their source, and
    whether these weights are distilled.
    """
    model: Any
    arch: Dict[str, Any]
    data: Dict[str, Any]
    published: Dict[str, Any] = field(default_factory=dict)
    name: str = ''

    @property
    def family(self) -> str:
        return self.model.family


@dataclass(frozen=True)
class Alias:
    """Another project's name for a model, and what of the data config is different for that project's weights."""
    name: str
    data: Dict[str, Any] = field(default_factory=dict)


@functools.lru_cache(maxsize=None)
def _tables() -> tuple:
    """({public name: row}, {alias: public name}, {family: row of the constructor's defaults}) over all families."""
    variants, aliases, generic = {}, {}, {}
    for module in sorted(info.name for info in pkgutil.iter_modules(CaiT.models.__path__)):
        family = importlib.import_module(f'CaiT.models.{module}') if module != 'registry' else None
        if not hasattr(family, 'VARIANTS'):
            continue
        for name, alias in getattr(family, 'ALIASES', {}).items():
            aliases[name] = Alias(alias) if isinstance(alias, str) else alias
        for name, row in family.VARIANTS.items():
            variants[name] = replace(row, name=name, arch={**_defaults(row.model), **row.arch})
            generic.setdefault(row.family, Variant(row.model, _defaults(row.model), row.data, {}, row.family))
    return variants, aliases, generic


def _defaults(model: Any) -> Dict[str, Any]:
    """The constructor's architecture arguments with their defaults; image_size and num_classes belong to the data."""
    parameters = inspect.signature(model.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ('self', 'image_size', 'num_classes')}


TIMM_ARGUMENTS = {'img_size': 'image_size', 'in_chans': 'in_channels'}  # timm's names, accepted for ours


def list_models(pattern: str = '') -> List[str]:
    """Public names, sorted: those that match a pattern with wildcards ('cait*_384', '*distilled*'), or that contain a
    text without any. Aliases and bare family names are not listed."""
    if not any(wildcard in pattern for wildcard in '*?['):
        pattern = f'*{pattern}*'
    return sorted(fnmatch.filter(_tables()[0], pattern))


def list_aliases() -> Dict[str, str]:
    """Other projects' names for the same models: {alias: public name}."""
    return {alias: row.name for alias, row in _tables()[1].items()}


def known_name(name: str) -> str:
    """``name`` as the tables have it: in small letters (PaddleClas: ViT_base_patch16_224), without timm's tag of a
    weight file (cait_xxs24_224.fb_dist_in1k). Unknown names are returned as they are."""
    variants, aliases, generic = _tables()
    for candidate in (name, name.partition('.')[0], name.partition('.')[0].lower()):
        if candidate in variants or candidate in aliases or candidate == name and name in generic:
            return candidate
    return name


def get_variant(name: str) -> Variant:
    """The row of a public name, of an alias, or of a family's bare name; InputError when there is none."""
    variants, aliases, generic = _tables()
    name = known_name(name)
    if name in aliases:
        alias = aliases[name]
        row = variants[alias.name]
        return replace(row, data={**row.data, **alias.data})
    if name in variants:
        return variants[name]
    if name in generic:
        return generic[name]
    near = difflib.get_close_matches(name, [*variants, *aliases, *generic], n=3)
    hint = f'did you mean {", ".join(near)}?' if near else 'list_models() lists all names'
    raise InputError(f'model {name!r} is not known: {hint}')


def create_model(name: str, pretrained: Any = None, strict: bool = True, load_options: Optional[Dict[str, Any]] = None,
                 **overrides: Any) -> nn.Layer:
    """Build a model by name: a plain Paddle layer, in training mode.

    ``overrides`` are constructor arguments (``num_classes``, ``image_size`` or timm's ``img_size``, ``in_channels`` or
    ``in_chans``, ``drop_rate``, ``drop_path_rate``, ...). ``pretrained`` is the path of a checkpoint of any known
    source, or True, 'zoo:SOURCE' or a source's name for published weights, which are downloaded (messages go to the
    logger 'CaiT'); what loading did is then in ``model.load_report``, which is None without weights; ``load_options``
    are further arguments of ``load_weights`` (``use_ema``). ``model.default_cfg`` holds num_classes and the data
    config, that of the weights where it is known. Raises InputError for an unknown name or argument, an impossible
    combination, or weights that do not fit (``strict=False`` accepts missing and extra ones).
    """
    variant = get_variant(name)
    arguments = {'image_size': variant.data['image_size'], 'num_classes': 1000, **variant.arch}
    for key, value in overrides.items():
        ours = TIMM_ARGUMENTS.get(key, key)
        if ours not in arguments:
            raise InputError(f'model {variant.name}: unknown argument {key!r}, expected one of {sorted(arguments)}')
        if ours != key and ours in overrides:
            raise InputError(f'model {variant.name}: found both {key} and {ours}, expected one of them')
        arguments[ours] = value
    model = variant.model(**arguments)
    model.default_cfg = {**variant.data, 'image_size': arguments['image_size'],
                         'num_classes': arguments['num_classes'], 'architecture': variant.name}
    if pretrained:
        from CaiT.weights.translate import load_weights  # weights builds on models: imported only when needed
        from CaiT.weights.zoo import local_path
        path = local_path(pretrained, variant.name, logging.getLogger('CaiT').info)  # a library prints nothing
        model.load_report = load_weights(model, path, strict=strict, **(load_options or {}))
        model.default_cfg.update(model.load_report.data or {})
    return model
