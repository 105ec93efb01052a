# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: ``<tag>.pdstate`` holds the full training state, ``<tag>.pdparams`` the weights alone.

Tags are ``last`` and ``best``. A state is one pickle of arrays, numbers and text. It is written to a temporary file and
renamed, so a crash leaves the old file or the new one, never an incomplete one. It is read by a restricted unpickler
(CaiT/safe_pickle.py), so a checkpoint from an untrusted source cannot run code.
"""
from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
from paddle import nn
from yacs.config import CfgNode

from CaiT import safe_yaml
from CaiT.errors import InputError
from CaiT.files import PathLike, atomic_write
from CaiT.safe_pickle import Unpickler

FORMAT = 1
SUFFIX = '.pdstate'
TAGS = ('last', 'best', 'best_ema')


def weights(model: nn.Layer) -> Dict[str, np.ndarray]:
    """The model's parameters by public name as float32 arrays in Paddle's layout.

    The conversion is exact for the float16 and bfloat16 weights of O2.
    """
    return {name: parameter.astype('float32').numpy() for name, parameter in model.named_parameters()}


def write_weights(path: PathLike, arrays: Dict[str, np.ndarray]) -> None:
    """A ``.pdparams`` file, which ``paddle.load`` and ``-pretrained`` read."""
    with atomic_write(path, 'wb') as file:
        pickle.dump(arrays, file, protocol=4)


def write(folder: PathLike, tag: str, state: Dict[str, Any]) -> Path:
    """Write ``state`` (arrays, numbers, text, dicts and lists of them) and its weights; returns the state's path."""
    path = Path(folder) / f'{tag}{SUFFIX}'
    write_weights(path.with_suffix('.pdparams'), state['model'])
    with atomic_write(path, 'wb') as file:
        pickle.dump({'format': FORMAT, **state}, file, protocol=4)
    return path


def remove_temporary_files(folder: PathLike, active: bool = True) -> None:
    """Remove the temporary files that a killed run left in ``folder``; a no-op when not ``active``."""
    for tag in (TAGS if active else ()):
        for path in Path(folder).glob(f'.{tag}.pd*.tmp'):
            path.unlink()


def read(path: PathLike) -> Dict[str, Any]:
    """The content of a ``.pdstate`` file; InputError when it is damaged, no training state, or of another format."""
    path = Path(path)
    try:
        with open(path, 'rb') as file:
            state = Unpickler(file).load()
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    except OSError as error:
        raise InputError(f'{path}: {error.strerror}') from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise InputError(f'{path}: truncated or damaged checkpoint ({type(error).__name__})') from None
    if not isinstance(state, dict) or 'format' not in state:
        raise InputError(f'{path}: holds no training state (weights alone go to -pretrained)')
    if state['format'] != FORMAT:
        raise InputError(f'{path}: found checkpoint format {state["format"]}, expected {FORMAT}')
    return state


def find(resume: str, folder: PathLike) -> Optional[Path]:
    """The file that ``-resume`` names: a path with or without extension, a run's folder, or 'auto' for the ``last`` of
    ``folder``; None when 'auto' finds none."""
    if resume == 'auto':
        last = Path(folder) / f'last{SUFFIX}'
        return last if last.exists() else None
    path = Path(resume)
    for candidate in (path, path.with_name(path.name + SUFFIX), path.with_suffix(SUFFIX), path / f'last{SUFFIX}'):
        if candidate.is_file() and candidate.suffix == SUFFIX:
            return candidate
    raise InputError(f'-resume {resume}: no such checkpoint, expected a {SUFFIX} file, its folder, or auto')


def check_same_run(path: PathLike, state: Dict[str, Any], config: CfgNode) -> None:
    """InputError when ``state`` is of another model architecture or another optimizer than ``config``."""
    saved_config = safe_yaml.loads(state['config'])
    keys = [('MODEL', key) for key in config.MODEL if key not in ('PRETRAINED', 'STRICT', 'USE_EMA', 'CHECKPOINT_KEY')]
    for *sections, key in [*keys, ('DATA', 'IMAGE_SIZE'), ('TRAIN', 'OPTIMIZER', 'NAME')]:
        current, saved = config, saved_config
        for section in sections:
            current, saved = current[section], saved[section]
        if current[key] != saved.get(key):
            raise InputError(f'-resume {path}: {".".join([*sections, key])} is {saved.get(key)!r} there and '
                             f'{current[key]!r} in this run')
