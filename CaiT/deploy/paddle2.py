# SPDX-License-Identifier: Apache-2.0
"""Paddle models without metadata.json: a ``.pdmodel`` of Paddle 2 or a ``.json`` of Paddle 3, with ``.pdiparams``.

The metadata comes from a configuration of this project instead: model name, classes, image size, crop, interpolation,
mean, std, and the class names if it has a label map.
"""
from __future__ import annotations

from pathlib import Path

from CaiT.data.class_numbers import read_thresholds
from CaiT.data.lists import read_label_map
from CaiT.data.transforms import DataConfig
from CaiT.deploy.engines import Options
from CaiT.deploy.metadata import FILE, Artifact, Metadata
from CaiT.errors import InputError
from CaiT.files import PathLike


def metadata_from_config(folder: PathLike, config_file: PathLike, backend: str, options: Options) -> Metadata:
    """The metadata of the only graph in ``folder``; InputError when ``folder`` has a metadata.json or not exactly one
    graph, or for an unsupported backend or option."""
    folder = Path(folder)
    if (folder / FILE).is_file():
        raise InputError(f'-cfg {config_file}: {folder / FILE} says already what -cfg would; leave it out')
    for flag, found, expected in (('backend', backend, 'paddle'), ('input', options.input, 'float')):
        if found != expected:
            raise InputError(f'--{flag}: found {found!r}, expected {expected!r} for a model without {FILE}')
    graphs = sorted([*folder.glob('*.pdmodel'), *folder.glob('*.json')])
    if len(graphs) != 1:
        raise InputError(f'{folder}: found {len(graphs)} .pdmodel and .json files, expected one')
    weights = graphs[0].with_suffix('.pdiparams')
    if not weights.is_file():
        raise InputError(f'{weights}: no such file, expected the weights of {graphs[0].name}')
    from CaiT.config import data_config, get_config  # imports Paddle, which the engine needs in any case
    config = get_config(str(config_file))
    classes = config.MODEL.NUM_CLASSES
    names = read_label_map(config.DATA.LABEL_MAP, classes) if config.DATA.LABEL_MAP else None
    sizes = {file.name: file.stat().st_size for file in (graphs[0], weights)}
    found = Metadata(config.MODEL.NAME, classes, DataConfig(**data_config(config)), names, {'file': weights.name}, {},
                     [Artifact(backend, options.precision, options.input, sizes, {})])
    if config.DATA.MULTI_LABEL:
        found.activation = 'sigmoid'
        found.thresholds = read_thresholds(config.DATA.THRESHOLDS, classes).tolist()
    return found
