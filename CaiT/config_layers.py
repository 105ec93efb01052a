# SPDX-License-Identifier: Apache-2.0
"""The layers of a configuration: YAML files with BASE, flags and KEY VALUE pairs, merged with their types checked."""
from __future__ import annotations

import ast
import difflib
import math
import os
import re
import reprlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

from yacs.config import CfgNode

from CaiT.errors import InputError, shown
from CaiT.files import PathLike
from CaiT.safe_yaml import load_yaml

MAX_BASES = 20      # files in a row that name each other as BASE
FLOAT32_MAX = (2 - 2 ** -23) * 2.0 ** 127  # what training computes in
MAX_LITERAL = 1000  # characters of a value that are read as a Python literal
SHIPPED = Path(__file__).resolve().parent / 'configs'


def shipped_names() -> List[str]:
    """Names of the configurations that come with the package: 'cait_xxs24_224', 'recipes/imagenet'."""
    return sorted(path.relative_to(SHIPPED).with_suffix('').as_posix() for path in SHIPPED.rglob('*.yaml'))


def find_file(name: PathLike, folder: PathLike = '.') -> Path:
    """The YAML file that ``name`` means: a shipped configuration by its bare name, or a path, relative to ``folder``.

    A path that is not there also means the shipped one of that name: CaiT/configs/cait_xxs24_224.yaml works outside a
    clone too. Where there is neither, the path itself is returned.
    """
    text = os.fspath(name)
    if '\0' in text or not (text.isprintable() or os.path.lexists(os.path.join(folder, text))):
        raise InputError(f'config file {shown(text)}: no such file')
    bare = re.sub(r'^(\./)?CaiT/configs/|\.ya?ml$', '', text)
    path = Path(folder) / text
    if (bare == text or not path.exists()) and bare in shipped_names():
        return SHIPPED / f'{bare}.yaml'
    return path


def read_files(path: Path, above: tuple = ()) -> List[tuple]:
    """[(file name, its values)] of ``path`` and, before it, of the files its BASE names (relative to it, or shipped).
    """
    if path.resolve() in above:
        raise InputError(f'{path}: BASE leads back to this file')
    if len(above) >= MAX_BASES:
        raise InputError(f'{path}: more than {MAX_BASES} BASE files in a row')
    try:
        values = load_yaml(path)
    except FileNotFoundError as error:
        raise InputError(f'config file {path}: {error.strerror}; {_names_like(path)}') from error
    except OSError as error:
        raise InputError(f'config file {path}: {error.strerror}') from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f'{path}: found {type(values).__name__}, expected KEY: value lines')
    project = project_of(values)
    if project:
        raise InputError(f'{path}: is a configuration of {project}, expected one of this project: -cfg=NAME for a '
                         f'shipped one, docs/migrating.md for the keys{_model_hint(values)}')
    bases = values.pop('BASE', [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InputError(f'{path}: BASE: found {brief(bases)}, expected a file name or a list of them')
    layers = [layer for base in bases for layer in read_files(find_file(base, path.parent), (*above, path.resolve()))]
    return [*layers, (str(path), values)]


def project_of(values: Mapping[str, Any]) -> str:
    """The project that a YAML file belongs to by its keys, '' for none that is known."""
    keys = set(map(str, values))
    if 'Global' in keys and keys & {'Arch', 'DataLoader', 'Optimizer', 'Model'}:
        return 'PaddleClas or PASSL'
    if 'model' in keys and keys & {'dataloader', 'lr_scheduler'}:
        return 'PASSL'
    if 'model' in keys and keys & {'distribute', 'epoch_size', 'ckpt_save_dir', 'num_parallel_workers'}:
        return 'MindCV'
    if 'model' in keys and keys & {'opt', 'sched', 'aa', 'input_size'}:
        return 'timm'
    model, training = values.get('MODEL'), values.get('TRAIN')
    if isinstance(model, dict) and {'TYPE', 'TRANS', 'DROPPATH'} & set(map(str, model)) \
            or isinstance(training, dict) and {'NUM_EPOCHS', 'LINEAR_SCALED_LR'} & set(map(str, training)):
        return 'PaddleViT'
    return ''


def _model_hint(values: Mapping[str, Any]) -> str:
    """'; its model: -cfg=…' where the file names a model that has a shipped configuration."""
    places = [values.get('model'), *(section.get(key) for section in map(values.get, ('Arch', 'MODEL', 'Model'))
                                     if isinstance(section, dict) for key in ('name', 'NAME'))]
    names = [str(place).lower() for place in places if isinstance(place, str)]
    return ''.join(f'; its model: -cfg={name}' for name in names[:1] if name in shipped_names())


def _names_like(path: Path) -> str:
    """Which shipped configurations may have been meant, for a message."""
    near = difflib.get_close_matches(path.with_suffix('').name, shipped_names(), n=2)
    return f'did you mean {" or ".join(near)}?' if near else f'expected a YAML file or a name of {SHIPPED}'


def nested(dotted: Mapping[str, Any], source: str) -> tuple:
    """{'A.B': 1} to {'A': {'B': 1}}, the form of a YAML file."""
    values: Dict[str, Any] = {}
    for key, value in dotted.items():
        *sections, leaf = key.split('.')
        level = values
        for section in sections:
            level = level.setdefault(section, {})
            if not isinstance(level, dict):
                raise InputError(f'{source}: {section}: found {brief(level)} and, beside it, {key}')
        level[leaf] = value
    return source, values


def merge(node: CfgNode, values: Mapping[str, Any], source: str, prefix: str = '') -> None:
    """Put ``values`` into ``node``; InputError for a key it does not have or a value of another type."""
    for key, value in values.items():
        name = f'{prefix}{key}'
        if key not in node:
            near = difflib.get_close_matches(str(key), list(node), n=2) or sorted(node)
            raise InputError(f'{source}: unknown key {shown(name)}, expected {" or ".join(near)}')
        if isinstance(node[key], CfgNode):
            if not isinstance(value, Mapping):
                raise InputError(f'{source}: {name}: found {brief(value)}, expected keys {", ".join(node[key])}')
            merge(node[key], value, source, f'{name}.')
        else:
            node[key] = coerce(value, node[key], f'{source}: {name}')


def coerce(value: Any, default: Any, where: str) -> Any:
    """``value`` in the type of ``default``; text is read as a Python literal where the type is not text."""
    kind = type(default)
    found = value
    if isinstance(value, str) and kind is not str and len(value) <= MAX_LITERAL:
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    if type(found) is int and abs(found) >= 2 ** 63 or type(found) is float and not math.isfinite(found):
        raise InputError(f'{where}: found {brief(value)}, expected a finite number below 2**63')
    if type(found) is float and abs(found) > FLOAT32_MAX:
        raise InputError(f'{where}: found {brief(value)}, expected at most {FLOAT32_MAX:.3g}, the largest float32')
    if kind is float and type(found) in (int, float):
        return float(found)
    if kind is tuple and isinstance(found, (tuple, list)) and len(found) == len(default):
        return tuple(coerce(one, like, where) for one, like in zip(found, default))
    if kind is list and isinstance(found, (tuple, list)):
        return [coerce(one, default[0] if default else '', where) for one in found]
    if kind is tuple or type(found) is not kind:
        size = f' of {len(default)}' if kind is tuple else ''
        raise InputError(f'{where}: found {brief(value)}, expected {kind.__name__}{size}')
    return found


def brief(value: Any) -> str:
    """A value for a message, short whatever it holds: reprlib looks at a few items of a few levels only."""
    return shown(reprlib.repr(value))


def keys(values: Mapping[str, Any], prefix: str = '') -> Iterator[str]:
    """The dotted names of all leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from keys(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}'
