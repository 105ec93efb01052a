# SPDX-License-Identifier: Apache-2.0
"""A graph of Paddle without metadata: a ``.pdmodel`` of Paddle 2 or a ``.json`` of Paddle 3, its ``.pdiparams``, and
nothing that says how images reach it.

What metadata.json would say comes from a configuration of this project: model name, classes, image size, crop,
interpolation, mean, std, and names of classes where it has a label map.
"""
from __future__ import annotations

from pathlib import Path

from CaiT.data.lists import read_label_map
from CaiT.data.transforms import DataConfig
from CaiT.deploy.engines import Options
from CaiT.deploy.metadata import FILE, Artifact, Metadata, PathLike
from CaiT.errors import InputError


def described(folder: PathLike, config_file: PathLike, backend: str, options: Options) -> Metadata:
    """The metadata of the only graph in ``folder``; InputError when it has metadata of its own, when there is not
    exactly one, or when something is asked for that such a model cannot do."""
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
    return Metadata(config.MODEL.NAME, classes, DataConfig(**data_config(config)), names, {'file': weights.name}, {},
                    [Artifact(backend, options.precision, options.input, sizes, {})])
