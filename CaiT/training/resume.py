# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint must hold, and what it must agree in with a run, before that run goes on from it."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Container, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from yacs.config import CfgNode

from CaiT import safe_yaml
from CaiT.errors import InputError, shown
from CaiT.files import PathLike
from CaiT.settings import DEFAULTS
from CaiT.training import checkpoint, distributed
from CaiT.training.broadcast import from_first
from CaiT.training.checkpoint import SUFFIX
from CaiT.training.optim import MASTER, OLD_SLOT
from CaiT.training.train_state import TrainState

PARTS = {'model': dict, 'ema': dict, 'optimizer': dict, 'scaler': dict, 'progress': dict, 'steps': int, 'config': str}

# Settings in which a run may differ from its checkpoint: they say where and how it runs, not what is computed …
FREE = ('OUTPUT_DIR', 'RESUME', 'RESUME_ANYWAY', 'DEVICE', 'REPORT_FREQ', 'VALIDATE_FREQ', 'SAVE_STEPS',
        'SAVE.EVERY', 'SAVE.KEEP', 'SAVE.TOP', 'SAVE.BACKGROUND', 'TRAIN.EARLY_STOP',
        'DATA.LABEL_MAP', 'DATA.THRESHOLDS', 'DATA.BATCH_SIZE_EVAL', 'DATA.NUM_WORKERS', 'DATA.USE_SHARED_MEMORY',
        'MODEL.PRETRAINED', 'MODEL.STRICT', 'MODEL.USE_EMA', 'MODEL.CHECKPOINT_KEY', 'TRAIN.LAST_EPOCH',
        'TRAIN.RECOMPUTE', 'TRAIN.ACCELERATE', 'TRAIN.TO_STATIC', 'TRAIN.VISUALDL', 'TRAIN.TENSORBOARD')
# … may differ and are said: what training longer, or on other devices, is about …
NOTED = ('TRAIN.EPOCHS', 'DATA.BATCH_SIZE', 'TRAIN.ACCUM_ITER', 'AMP', 'TRAIN.AMP.LEVEL', 'TRAIN.AMP.DTYPE')
# … and must not differ even with RESUME_ANYWAY, beside the architecture: the arrays would not fit.
ARRAYS = ('DATA.IMAGE_SIZE', 'TRAIN.OPTIMIZER.NAME')
NOT_ARCHITECTURE = ('MODEL.DROP_RATE', 'MODEL.ATTN_DROP_RATE', 'MODEL.DROP_PATH_RATE', 'MODEL.INIT_VALUES')
PATHS = ('DATA.DATA_PATH', 'TRAIN.DISTILL.TEACHER_WEIGHTS', 'TRAIN.CLASS_WEIGHTS')
# Settings that make a model of given weights: architecture and preprocessing.
PREPROCESSING = ('DATA.IMAGE_SIZE', 'DATA.CROP_PCT', 'DATA.INTERPOLATION', 'DATA.MEAN', 'DATA.STD')

SLOTS = {'AdamW': ('moment1_0', 'moment2_0', 'beta1_pow_acc_0', 'beta2_pow_acc_0'), 'Momentum': ('velocity_0',)}
SLOTS['LAMB'] = SLOTS['AdamW']


class Checkpoint(NamedTuple):
    """A checkpoint that fits the run's settings; ``note`` is what differs all the same, for the log."""
    path: Path
    state: Dict[str, Any]
    progress: TrainState
    epochs: int  # of the run that wrote it
    note: str


def find_checkpoint(config: CfgNode, folder: PathLike) -> Optional[Checkpoint]:
    """The checkpoint that RESUME names, read and checked against ``config``; None when there is nothing to resume.

    The first process reads the file. Writes nothing. Raises InputError naming what is missing or differs. A collective
    call.
    """
    path = checkpoint.find(config.RESUME, folder) if config.RESUME else None
    found, world_size = distributed.all_reduce_sum([path is not None])[0], distributed.world_size()
    if 0 < found < world_size:
        raise InputError(f'-resume {config.RESUME}: found by {found:g} of {world_size} processes '
                         f'under {folder}, expected a folder that all of them share')
    if path is None:
        return None
    if path.parent.resolve() != Path(folder).resolve() and (Path(folder) / f'last{SUFFIX}').exists():
        raise InputError(f'-output_dir {folder}: holds a run already, which -resume {path} would overwrite; name '
                         'another folder, or add -resume auto to go on with it')
    state = from_first(lambda: checkpoint.read(path))
    try:
        check_parts(state)
        saved = read_config(state)
        note = check_settings(saved, config)
        epochs = saved.get('TRAIN', {}).get('EPOCHS')
        if type(epochs) is not int or epochs < 1:
            raise InputError(f'config: TRAIN.EPOCHS: found {shown(repr(epochs))}, expected an integer of at least 1')
        progress = TrainState.from_dict(state['progress'], epochs, state['steps'])
    except InputError as error:
        raise InputError(f'-resume {path}: {error}') from None
    return Checkpoint(path, state, progress, epochs, note)


def check_parts(state: Dict[str, Any]) -> None:
    """InputError for a missing part of a training state or one of another type."""
    for name, kind in PARTS.items():
        if name not in state:
            raise InputError(f'{name!r} is missing')
        if type(state[name]) is not kind:
            raise InputError(f'{name!r}: found {type(state[name]).__name__}, expected {kind.__name__}')
    for name in ('model', 'ema', 'optimizer', 'progress'):
        other = next((key for key in state[name] if not isinstance(key, str)), None)
        if other is not None:
            raise InputError(f'{name!r}: found {shown(repr(other))} as a name, expected text')
    if state['steps'] < 1:
        raise InputError(f"'steps': found {state['steps']}, expected at least 1")


def read_config(state: Dict[str, Any]) -> Dict[str, Any]:
    """The settings of the run that wrote ``state``."""
    try:
        saved = safe_yaml.loads(state['config'])
    except InputError as error:
        raise InputError(f"'config': {error}") from None
    if not isinstance(saved, dict) or not all(isinstance(saved.get(key), dict) for key in ('DATA', 'MODEL', 'TRAIN')):
        raise InputError("'config': found no sections DATA, MODEL and TRAIN")
    return saved


def differences(saved: Mapping[str, Any], config: CfgNode, prefix: str = '') -> Iterator[Tuple[str, Any, Any]]:
    """(key, saved value, the run's value) where they differ. A key that an older version did not have counts as its
    default; one that this version does not have, not at all."""
    for key, value in config.items():
        name = f'{prefix}{key}'
        if isinstance(value, CfgNode):
            section = saved.get(key, {})
            yield from differences(section if isinstance(section, dict) else {}, value, f'{name}.')
            continue
        theirs, mine = _plain(saved.get(key, _default(name, value))), _plain(value)
        if name in PATHS and theirs and mine and _same_place(str(theirs), mine):
            continue
        if theirs != mine:
            yield name, theirs, mine


def check_settings(saved: Mapping[str, Any], config: CfgNode) -> str:
    """InputError listing the settings that differ and may not; returns a note about those that may and do."""
    found = [one for one in differences(saved, config) if one[0] not in FREE]
    arrays = [one for one in found if _shapes_arrays(one[0])]
    other = [one for one in found if one not in arrays and one[0] not in NOTED]
    if arrays:
        raise InputError(f'{_list(arrays)}; expected the flags of that run (without -cfg, -resume RUN reads its '
                         'config.yaml)')
    if other and not config.RESUME_ANYWAY:
        raise InputError(f'{_list(other)}; expected the same settings, or -opts RESUME_ANYWAY True to go on with those '
                         'of this run, or another -output_dir for a run of its own')
    note = ''
    if other:
        note = f'warning: resumed although settings differ: {_list(other)}'
    noted = [one for one in found if one[0] in NOTED]
    if noted:
        note += ('\n' if note else '') + f'resumed with other settings: {_list(noted)}'
    return note


def check_same_model(weights: PathLike, config: CfgNode, file_config: CfgNode) -> str:
    """For a tool that makes a model of the weights ``<folder>/<tag>.pdparams`` of a training run: InputError when
    ``config`` is not what they were trained with (architecture, image size, preprocessing).

    The settings are compared with those inside ``<tag>.pdstate`` (``last.pdstate`` where the tag has none).
    ``file_config`` is what ``config`` is without flags: what a flag alone changes is meant, and said. Returns a line
    for the log; '' for weights that have no training state beside them.
    """
    weights = Path(weights)
    states = [weights.with_suffix(SUFFIX), weights.with_name(f'last{SUFFIX}')] if weights.suffix == '.pdparams' else []
    for path in states:
        if path.is_file():
            break
    else:
        return ''
    try:
        state = checkpoint.read(path)
        check_parts(state)
        saved = read_config(state)
    except InputError as error:
        return f'warning: settings not compared with those of training, {path} cannot be used: {error}'
    found = [one for one in differences(saved, config) if one[0] in PREPROCESSING or
             (_shapes_arrays(one[0]) and one[0].startswith('MODEL.'))]
    in_file = {key for key, _, _ in differences(saved, file_config)}
    unmeant = [one for one in found if one[0] in in_file]
    if unmeant:
        raise InputError(f'{weights}: was trained with other settings than given: '
                         f'{_list(unmeant, f"in {path.name}", "given")}')
    if found:
        return f'settings: {_list(found, f"in {path.name}", "by a flag")}'
    return f'settings: architecture, image size, mean and std are those of {path.name}'


def check_arrays(checkpoint_: Checkpoint, shapes: Mapping[str, Sequence[int]], trained: Sequence[str], optimizer: str,
                 ema_decay: float) -> None:
    """InputError, naming the first one, when arrays are missing, unexpected, of another shape or not finite.

    ``shapes``: of the model's parameters; ``trained``: names of those that the optimizer updates.
    """
    state, path = checkpoint_.state, checkpoint_.path
    saved = read_config(state)['TRAIN']
    slots = {f'{name}/{slot}': [1] if 'pow_acc' in slot else shape
             for name, shape in shapes.items() for slot in SLOTS[optimizer]}
    required = {key: shape for key, shape in slots.items() if key.split('/')[0] in trained}
    masters = {f'{name}/{MASTER}': shape for name, shape in shapes.items()}
    try:
        _check('model', state['model'], shapes, stored={key[:-len(MASTER) - 1] for key in state['optimizer']
                                                        if key.endswith(f'/{MASTER}')})
        if state['ema']:
            _check('ema', state['ema'], shapes)
        elif ema_decay and saved.get('EMA_DECAY'):
            raise InputError('ema: is empty, expected the moving average of all parameters')
        before = saved.get('LAST_EPOCH', 0)
        if type(before) is not int:
            raise InputError(f'config: TRAIN.LAST_EPOCH: found {shown(repr(before))}, expected an integer')
        has_updated = checkpoint_.progress.step > 0 or checkpoint_.progress.epoch > before + 1
        if has_updated or state['optimizer']:
            arrays = {key.replace(OLD_SLOT, ''): array for key, array in state['optimizer'].items()}
            _check('optimizer', arrays, required, {**slots, **masters})
            _check_slots(arrays)
    except InputError as error:
        raise InputError(f'-resume {path}: {error}') from None


def carry_best(found: Checkpoint, folder: Path, progress: TrainState, criterion: str = 'Acc@1') -> str:
    """Have ``folder`` hold the best weights that ``progress`` speaks of; returns a line for the log.

    ``criterion`` is the name of what makes them the best. They are copied when the checkpoint is of another folder.
    Where they are not to be had, the best starts anew in ``progress``, so that a run never ends by naming a file that
    does not exist.
    """
    source, ema = found.path.parent, 'best_ema.pdparams'
    names = [f'best{SUFFIX}', 'best.pdparams']
    moved = source.resolve() != folder.resolve()
    so_far = f'the best weights so far (epoch {progress.best_epoch}, {criterion} {progress.best_top1:.4f})'
    if not progress.best_epoch:
        return 'best weights so far: none'
    if not all((source / name).is_file() for name in names) or (moved and not _is_best(source, progress)):
        progress.best_top1, progress.best_ema_top1, progress.best_epoch = -1.0, -1.0, 0
        return f'warning: {so_far} are not in {source}: best starts anew'
    if (source / ema).is_file():
        names.append(ema)
    else:
        progress.best_ema_top1 = -1.0
    for name in names if moved else ():
        checkpoint.copy(source / name, folder / name)
    return f'{so_far} are {"copied from" if moved else "in"} {source}'


def _is_best(source: Path, progress: TrainState) -> bool:
    """Whether ``best`` in ``source`` is the best that ``progress`` speaks of: it may be of a later epoch."""
    try:
        found = checkpoint.read(source / f'best{SUFFIX}')['progress']
        return (found['best_epoch'], found['best_top1']) == (progress.best_epoch, progress.best_top1)
    except (KeyError, TypeError, ValueError):  # an InputError, and arrays where numbers belong
        return False


def _check(part: str, arrays: Mapping[str, Any], shapes: Mapping[str, Sequence[int]],
           optional: Mapping[str, Sequence[int]] = {}, stored: Container[str] = ()) -> None:
    """``stored``: names of which the optimizer's arrays hold the float32 values; older versions wrote halves here."""
    missing = [name for name in shapes if name not in arrays]
    unexpected = [name for name in arrays if name not in shapes and name not in optional]
    for names, text in ((missing, 'is missing'), (unexpected, 'is not of this model')):
        if names:
            more = f' (and {len(names) - 1} more)' if len(names) > 1 else ''
            raise InputError(f'{part}: {names[0]!r} {text}{more}')
    for name, array in arrays.items():
        shape = list(shapes[name] if name in shapes else optional[name])
        if not isinstance(array, np.ndarray) or array.dtype.kind != 'f':
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f'{part}: {name!r}: found {kind}, expected an array of floating-point numbers')
        if array.dtype != np.float32 and name not in stored:
            raise InputError(f'{part}: {name!r}: found {array.dtype}, expected float32')
        if list(array.shape) != shape:
            raise InputError(f'{part}: {name!r}: found shape {list(array.shape)}, expected {shape}')
        if not checkpoint.is_finite(array):
            raise InputError(f'{part}: {name!r} holds NaN or infinite numbers')


def _check_slots(arrays: Mapping[str, np.ndarray]) -> None:
    """InputError for numbers that no optimizer has: the first update would make NaN of them."""
    for name, array in arrays.items():
        if '/moment2_' in name and array.min() < 0:
            raise InputError(f'optimizer: {name!r}: found {array.min():g}, expected squares, at least 0')
        if '_pow_acc_' in name and not 0 <= array.item() < 1:
            raise InputError(f'optimizer: {name!r}: found {array.item():g}, expected a power of a number below 1')


def _shapes_arrays(key: str) -> bool:
    is_architecture = key.startswith('MODEL.') and key not in NOT_ARCHITECTURE + FREE
    return is_architecture or key in ARRAYS


def _list(found: List[Tuple[str, Any, Any]], there: str = 'there', here: str = 'in this run') -> str:
    return '; '.join(f'{key} is {shown(repr(theirs), 200)} {there} and {mine!r} {here}' for key, theirs, mine in found)


def _same_place(one: str, other: str) -> bool:
    try:
        return os.path.realpath(one) == os.path.realpath(other)
    except (OSError, ValueError):  # a text that cannot be a path
        return False


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _default(name: str, otherwise: Any) -> Any:
    """The default of a key; ``otherwise`` for those whose default is the model's."""
    node: Any = DEFAULTS
    for part in name.split('.'):
        if not isinstance(node, dict) or part not in node:
            return otherwise
        node = node[part]
    return node
