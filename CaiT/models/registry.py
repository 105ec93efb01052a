# SPDX-License-Identifier: Apache-2.0
"""From a name to a model.

Every module of this package that holds a table ``VARIANTS`` is a family and is found by itself: a new model is one new
file. A family's class also answers to its own name (``create_model('cait', embed_dim=64, …)``): a model of your own
shape, with the constructor's defaults where nothing is said.
"""
from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List

from paddle import nn

import CaiT.models
from CaiT.errors import InputError

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def data_config(image_size: int, crop_pct: float, statistics: Dict[str, tuple]) -> Dict[str, Any]:
    """How pictures reach a model: side in pixels, crop fraction, interpolation, mean and std per channel of 0..1."""
    return dict(image_size=image_size, crop_pct=crop_pct, interpolation='bicubic', **statistics)


@dataclass(frozen=True)
class Variant:
    """One row of a family's table.

    ``arch`` holds the constructor's arguments that make the model what it is (all of them after ``get_variant``),
    ``data`` its data config, ``published`` the numbers others report: top1, top5 in percent, and their source.
    """
    model: Any
    arch: Dict[str, Any]
    data: Dict[str, Any]
    published: Dict[str, Any] = field(default_factory=dict)
    name: str = ''

    @property
    def family(self) -> str:
        return self.model.family


@functools.lru_cache(maxsize=None)
def _tables() -> tuple:
    """({public name: row}, {alias: public name}, {family: row of the constructor's defaults}) over all families."""
    variants, aliases, generic = {}, {}, {}
    for module in sorted(info.name for info in pkgutil.iter_modules(CaiT.models.__path__)):
        family = importlib.import_module(f'CaiT.models.{module}') if module != 'registry' else None
        if not hasattr(family, 'VARIANTS'):
            continue
        aliases.update(getattr(family, 'ALIASES', {}))
        for name, row in family.VARIANTS.items():
            variants[name] = replace(row, name=name, arch={**_defaults(row.model), **row.arch})
            generic.setdefault(row.family, Variant(row.model, _defaults(row.model), row.data, {}, row.family))
    return variants, aliases, generic


def _defaults(model: Any) -> Dict[str, Any]:
    """The constructor's architecture arguments with their defaults; image_size and num_classes belong to the data."""
    parameters = inspect.signature(model.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ('self', 'image_size', 'num_classes')}


def list_models(pattern: str = '') -> List[str]:
    """Public names that contain ``pattern``, sorted; aliases and bare family names are not listed."""
    return sorted(name for name in _tables()[0] if pattern in name)


def list_aliases() -> Dict[str, str]:
    """Other projects' names for the same models: {alias: public name}."""
    return dict(_tables()[1])


def get_variant(name: str) -> Variant:
    """The row of a public name, of an alias, or of a family's bare name; InputError when there is none."""
    variants, aliases, generic = _tables()
    name = aliases.get(name, name)
    if name in variants:
        return variants[name]
    if name in generic:
        return generic[name]
    near = difflib.get_close_matches(name, [*variants, *aliases, *generic], n=3)
    hint = f'did you mean {", ".join(near)}?' if near else 'list_models() names them all'
    raise InputError(f'model {name!r} is not known: {hint}')


def create_model(name: str, pretrained: Any = None, strict: bool = True, **overrides: Any) -> nn.Layer:
    """Build a model by name.

    ``overrides`` are constructor arguments (``num_classes``, ``image_size``, ``drop_path_rate``, …). ``pretrained`` is
    a path to anyone's checkpoint; what loading did to it is printed. Raises InputError for an unknown name or
    argument, an impossible combination, or weights that do not fit (``strict=False`` admits missing and extra ones).
    """
    variant = get_variant(name)
    arguments = {'image_size': variant.data['image_size'], 'num_classes': 1000, **variant.arch}
    unknown = sorted(set(overrides) - set(arguments))
    if unknown:
        raise InputError(f'model {variant.name}: unknown argument {unknown[0]!r}, expected one of {sorted(arguments)}')
    model = variant.model(**{**arguments, **overrides})
    if pretrained:
        # The weights room stands on this one; it is entered only when there is something to load.
        from CaiT.weights.translate import load_weights
        print('\n'.join(load_weights(model, pretrained, strict=strict).lines()))
    return model
