# SPDX-License-Identifier: Apache-2.0
"""``metadata.json``: what inference needs to know about an exported model beyond its graph.

The model's name and classes, the preprocessing of images, the files of each engine and precision, and their measured
differences from the dynamic model.
"""
from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from CaiT import safe_json
from CaiT.data.transforms import DataConfig
from CaiT.errors import InputError
from CaiT.files import PathLike

FILE = 'metadata.json'
FORMAT = 1
INPUTS = ('float', 'uint8')  # normalized float32 NCHW, raw uint8 NHWC
PRECISIONS = ('fp32', 'bf16', 'int8')


@dataclasses.dataclass(frozen=True)
class Artifact:
    """One engine's model at one precision: ``files`` are {name: size in bytes}, the first is the graph to load."""

    engine: str
    precision: str
    input: str
    files: Dict[str, int]
    parity: Dict[str, Any]

    @property
    def key(self) -> Tuple[str, str, str]:
        return self.engine, self.precision, self.input


@dataclasses.dataclass
class Metadata:
    """The content of the file; ``data`` is the preprocessing."""

    model: str
    num_classes: int
    data: DataConfig
    class_names: Optional[List[str]]
    weights: Dict[str, str]
    versions: Dict[str, str]
    artifacts: List[Artifact]

    def artifact(self, engine: str, precision: str, input_kind: str) -> Optional[Artifact]:
        """The artifact of that engine, precision and input, None when it was not exported."""
        key = engine, precision, input_kind
        return next((artifact for artifact in self.artifacts if artifact.key == key), None)

    def as_dict(self) -> Dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values['data'] = self.data.as_dict()
        values['artifacts'] = [dataclasses.asdict(one) for one in self.artifacts]
        return {'format': FORMAT, **values}

    def write(self, path: PathLike) -> None:
        Path(path).write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def read(folder: PathLike) -> Metadata:
    """The metadata of an exported folder; InputError when it is missing, damaged or of another format."""
    path = Path(folder) / FILE
    try:
        values = safe_json.loads(path.read_text(encoding='utf-8'))
        if values.pop('format') != FORMAT:
            raise ValueError(f'its format is not {FORMAT}')
        values['data'] = DataConfig.from_dict(values['data'])
        values['artifacts'] = [_artifact(one) for one in values['artifacts']]
        return Metadata(**values)
    except FileNotFoundError:
        if any(Path(folder).glob('*.pdmodel')):
            raise InputError(f'{path}: no such file; for a .pdmodel of Paddle 2 name the configuration of its model: '
                             '-cfg=FILE') from None
        raise InputError(f'{path}: no such file; make the folder with: python export_model.py '
                         f'--save-inference-dir={os.fspath(folder)}') from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f'{path}: not the metadata of an exported model ({error})') from None


def _artifact(values: Dict[str, Any]) -> Artifact:
    """An artifact from its JSON; older exports call the number of compared images 'pictures'."""
    measured = values['parity']
    if 'pictures' in measured:
        values = {**values, 'parity': {'images': measured['pictures'],
                                       **{key: value for key, value in measured.items() if key != 'pictures'}}}
    return Artifact(**values)


def check_files(folder: PathLike, artifact: Artifact) -> Path:
    """The graph file of ``artifact``; InputError when a file is missing or is not the one the metadata describes."""
    for name, size in artifact.files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise InputError(f'{path}: no such file, although {FILE} lists it; export the model again')
        if path.stat().st_size != size:
            raise InputError(f'{path}: found {path.stat().st_size} bytes, but {FILE} beside it describes a file of '
                             f'{size}: they are not of one export')
    return Path(folder) / next(iter(artifact.files))


def sha256(path: PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    import hashlib  # for export only: inference compares sizes
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
