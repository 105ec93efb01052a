# SPDX-License-Identifier: Apache-2.0
"""``metadata.json``: what inference needs to know about an exported model beyond its graph.

The model's name and classes, the preprocessing of images, the files of each engine and precision, and their measured
differences from the dynamic model.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from CaiT import safe_json
from CaiT.checks import MAX_CLASSES
from CaiT.data.text import is_line
from CaiT.data.transforms import DataConfig
from CaiT.errors import InputError
from CaiT.files import PathLike, check_regular, sha256, stamp

FILE = 'metadata.json'
FORMAT = 1
INPUTS = ('float', 'uint8')  # normalized float32 NCHW, raw uint8 NHWC
ACTIVATIONS = ('softmax', 'sigmoid')
PRECISIONS = ('fp32', 'bf16', 'int8')
MAX_BYTES = 16 << 20  # of the file: names of a hundred thousand classes
MAX_SIDE = 16384


class Replaced(InputError):
    """Files of an export were replaced while they were loaded."""


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
    sha256: Dict[str, str] = dataclasses.field(default_factory=dict)  # of every file; empty in exports before 0.2
    activation: str = 'softmax'  # of logits to probabilities; sigmoid: images have any number of classes
    thresholds: Optional[List[float]] = None  # with sigmoid: the probability from which each class is predicted
    attention: Optional[Artifact] = None  # a graph with more outputs, see attention_graph.py

    def artifact(self, engine: str, precision: str, input_kind: str) -> Optional[Artifact]:
        """The artifact of that engine, precision and input, None when it was not exported."""
        key = engine, precision, input_kind
        return next((artifact for artifact in self.artifacts if artifact.key == key), None)

    def export_command(self, folder: PathLike, words: str) -> str:
        """The command that adds to this export in ``folder`` what the flags ``words`` say. Where the weights are is not
        known, only their name."""
        return (f'python export_model.py --save-inference-dir={folder} {words} -pretrained=WEIGHTS (the weights of '
                f'this export were {self.weights["file"]})')

    def as_dict(self) -> Dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values['data'] = self.data.as_dict()
        values['artifacts'] = [dataclasses.asdict(one) for one in self.artifacts]
        values['attention'] = dataclasses.asdict(self.attention) if self.attention else None
        if self.activation == 'softmax':  # the only one that earlier versions know
            del values['activation'], values['thresholds']
        if self.attention is None:
            del values['attention']
        return {'format': FORMAT, **values}

    def write(self, path: PathLike) -> None:
        Path(path).write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def read(folder: PathLike) -> Metadata:
    """The metadata of an exported folder; InputError when it is missing, damaged or of another format."""
    path = Path(folder) / FILE
    check_regular(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f'found {path.stat().st_size} bytes, expected at most {MAX_BYTES}')
        values = safe_json.loads(path.read_text(encoding='utf-8'))
        if _typed('format', values.pop('format'), int) != FORMAT:
            raise ValueError(f'its format is not {FORMAT}')
        values['data'] = _data(values['data'])
        values['artifacts'] = [_artifact(one) for one in _typed('artifacts', values['artifacts'], list)]
        values['attention'] = _artifact(values['attention']) if values.get('attention') is not None else None
        return _checked(_made(Metadata, values))
    except FileNotFoundError:
        if any(Path(folder).glob('*.pdmodel')) or any(Path(folder).glob('*.pdiparams')):
            raise InputError(f'{path}: no such file; for a model of Paddle without one name its configuration: '
                             '-cfg=FILE') from None
        raise InputError(f'{path}: no such file; make the folder with: python export_model.py '
                         f'--save-inference-dir={os.fspath(folder)}') from None
    except KeyError as error:
        raise InputError(f'{path}: not the metadata of an exported model (no {error})') from None
    except NotADirectoryError:
        raise InputError(f'{os.fspath(folder)}: found a file, expected the folder that export wrote') from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, InputError) as error:
        raise InputError(f'{path}: not the metadata of an exported model ({error})') from None


def _typed(name: str, value: Any, kind: type, of: Optional[type] = None) -> Any:
    """``value``, when it is a ``kind`` (of ``of`` alone); ValueError otherwise. True is no number."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f'{name}: found {_shown(value)}, expected {kind.__name__}')
    if of:
        for one in value.values() if kind is dict else value:
            _typed(f'{name}: one of its values', one, of)
    return value


def _made(kind: type, values: Dict[str, Any]) -> Any:
    """The dataclass with these values; ValueError for a key that it does not have, KeyError for one that is missing."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            raise ValueError(f'found the key {_shown(key)}, expected {", ".join(fields)}')
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise KeyError(name)
    return kind(**values)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:60]}…'


def _data(values: Any) -> DataConfig:
    """The data config, which checks its numbers; ValueError for other types or an image of another size than exist."""
    size = _typed('image_size', _typed('data', values, dict)['image_size'], int)
    if size > MAX_SIDE:
        raise ValueError(f'image_size: found {size}, expected 1 to {MAX_SIDE}')
    for name in ('mean', 'std'):
        for number in _typed(name, values[name], list):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise ValueError(f'{name}: found {_shown(number)}, expected a number')
    if isinstance(values['crop_pct'], bool) or not isinstance(values['crop_pct'], (int, float)):
        raise ValueError(f'crop_pct: found {_shown(values["crop_pct"])}, expected a number')
    return DataConfig.from_dict(values)


def _artifact(values: Any) -> Artifact:
    """An artifact from its JSON; older exports call the number of compared images 'pictures'."""
    measured = _typed('parity', _typed('artifacts', values, dict)['parity'], dict)
    if 'pictures' in measured:
        values = {**values, 'parity': {'images': measured['pictures'],
                                       **{key: value for key, value in measured.items() if key != 'pictures'}}}
    artifact = _made(Artifact, values)
    for name in ('engine', 'precision', 'input'):
        _typed(name, getattr(artifact, name), str)
    for name in _typed('files', artifact.files, dict, int):
        _bare(name)
    if not artifact.files:
        raise ValueError(f'files of {"/".join(artifact.key)}: found none')
    return artifact


def _bare(name: str) -> None:
    """ValueError for what is not the name of a file in the folder itself."""
    is_bare = name not in ('', '.', '..') and not set(name) & set('/\\:') and is_line(name)
    if not is_bare or len(name.encode('utf-8', 'replace')) > 255:
        raise ValueError(f'files: found {_shown(name)}, expected the names of files in this folder')


def _checked(meta: Metadata) -> Metadata:
    _typed('model', meta.model, str)
    if not 0 < _typed('num_classes', meta.num_classes, int) <= MAX_CLASSES:
        raise ValueError(f'num_classes: found {meta.num_classes}, expected 1 to {MAX_CLASSES}')
    if meta.class_names is not None and len(_typed('class_names', meta.class_names, list, str)) != meta.num_classes:
        raise ValueError(f'class_names: found {len(meta.class_names)}, expected num_classes, {meta.num_classes}')
    for text in (meta.model, *(meta.class_names or ())):
        if not is_line(text):
            raise ValueError(f'a name: found {ascii(text)[:60]}, expected one line of text')
    for name in ('weights', 'versions', 'sha256'):
        _typed(name, getattr(meta, name), dict, str)
    _typed('file', meta.weights['file'], str)
    if meta.activation not in ACTIVATIONS:
        raise ValueError(f'activation: found {_shown(meta.activation)}, expected {" or ".join(ACTIVATIONS)}')
    if meta.activation == 'sigmoid':
        _check_thresholds(_typed('thresholds', meta.thresholds, list), meta.num_classes)
    elif meta.thresholds is not None:
        raise ValueError('thresholds: found beside activation softmax, expected none')
    for name in meta.sha256:
        _bare(name)
    return meta


def _check_thresholds(values: List[Any], num_classes: int) -> None:
    if len(values) != num_classes:
        raise ValueError(f'thresholds: found {len(values)}, expected num_classes, {num_classes}')
    for one in values:
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not 0 <= one <= 1:
            raise ValueError(f'thresholds: found {_shown(one)}, expected numbers from 0 to 1')


def check_files(folder: PathLike, artifact: Artifact, endings: Sequence[str]) -> Path:
    """The graph file of ``artifact``; InputError when a file is missing or has another size than the metadata says.

    ``endings`` are the engine's, empty where it does not matter which.
    """
    graph = next(iter(artifact.files))
    if endings and [Path(name).suffix for name in artifact.files] not in (list(endings), ['.pdmodel', '.pdiparams']):
        raise InputError(f'{Path(folder) / FILE}: found the files {", ".join(artifact.files)} for {artifact.engine}, '
                         f'expected one each that ends in {", ".join(endings)}')
    for name, size in artifact.files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise InputError(f'{path}: no such file, although {FILE} lists it; export the model again')
        if path.stat().st_size != size:
            raise InputError(f'{path}: found {path.stat().st_size} bytes, but {FILE} beside it describes a file of '
                             f'{size}: they are not of one export')
    return Path(folder) / graph


def check_content(folder: PathLike, names: Iterable[str], hashes: Dict[str, str]) -> None:
    """InputError when one of the files ``names`` is not what ``hashes``, {name: SHA-256}, says. Files of exports before
    0.2 have none."""
    for name in names:
        path = Path(folder) / name
        try:
            found = sha256(path) if name in hashes else ''
        except OSError as error:
            raise InputError(f'{path}: {error.strerror}') from None
        if found != hashes.get(name, ''):
            raise InputError(f'{path}: its content is not what {FILE} beside it describes: damaged, or not of one '
                             'export; export the model again')


@contextlib.contextmanager
def unreplaced(folder: PathLike, names: Iterable[str]) -> Iterator[None]:
    """Raises Replaced at the end of the block, or in the place of its error, when one of the files ``names`` is not the
    one that it was at the start: what was compared may be one export's and what was loaded another's."""
    paths = [Path(folder) / name for name in names]
    before = [stamp(path) for path in paths]
    try:
        yield
    except Exception:
        if [stamp(path) for path in paths] == before:
            raise
    if [stamp(path) for path in paths] != before:
        raise Replaced(f'{os.fspath(folder)}: its files were replaced while they were loaded; wait for the end of the '
                       'export, then start again')
