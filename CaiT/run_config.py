# SPDX-License-Identifier: Apache-2.0
"""The configuration that belongs to weights or to a run that is resumed: training writes ``config.yaml`` and
``classes.txt`` beside them."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Tuple

from yacs.config import CfgNode

from CaiT.config import get_config, with_values
from CaiT.data.datasets import CLASS_FILE
from CaiT.data.lists import read_label_map
from CaiT.errors import InputError
from CaiT.settings import FLAGS
from CaiT.weights.readers import resolve

# What a run's file says of that run alone: where it wrote, on what it ran, which weights it began with and how those
# were read.
OF_THE_RUN = {'OUTPUT_DIR': '', 'RESUME': '', 'DEVICE': 'auto', 'MODEL.PRETRAINED': '', 'MODEL.STRICT': True,
              'MODEL.USE_EMA': False, 'MODEL.CHECKPOINT_KEY': ''}


def config_for(weights: str, path: Optional[str], opts: Sequence[str] = (), **flags: Any) -> Tuple[CfgNode, str]:
    """(configuration to use ``weights`` with, one line on where it is from or '').

    It is that of the file ``path``, else of the ``config.yaml`` beside the weights, else the default one. Class names
    are those of ``classes.txt`` beside the weights, unless a flag or the file ``path`` names others. ``opts`` and
    ``flags`` are those of ``get_config``, and win.
    """
    folder = _folder(weights)
    beside = folder / 'config.yaml' if folder and not path and (folder / 'config.yaml').is_file() else None
    try:
        config = _config(path, opts, flags, folder, beside, list(OF_THE_RUN))
    except InputError as error:
        if beside and str(error).startswith(str(beside)):
            raise InputError(f'{error} (it is read because it lies beside the weights; -cfg names another)') from None
        raise
    return config, f'config: {beside} (beside the weights)' if beside else ''


def config_to_resume(path: Optional[str], opts: Sequence[str] = (), **flags: Any) -> Tuple[CfgNode, str]:
    """(configuration of a training, one line on where it is from or '').

    With the flag ``resume`` and without the file ``path`` it is the run's own ``config.yaml``. ``opts`` and ``flags``
    are those of ``get_config``, and win.
    """
    beside = None if path else _config_of_run(flags['resume'], flags['output_dir'])
    config = _config(path, opts, flags, beside and beside.parent, beside, ['OUTPUT_DIR', 'RESUME', 'DEVICE'])
    return config, f'config: {beside} (of the run that is resumed)' if beside else ''


def _config(path: Optional[str], opts: Sequence[str], flags: Mapping[str, Any], folder: Optional[Path],
            beside: Optional[Path], reset: Sequence[str]) -> CfgNode:
    """That of ``beside``, without its values of the keys ``reset``, else of ``path``; with the class names of
    ``folder``, where those that the run had may be gone."""
    config = get_config(str(beside) if beside else path, opts, **flags)
    given = {FLAGS[name] for name, value in flags.items() if value is not None} | set(opts[::2])
    values = {key: OF_THE_RUN[key] for key in reset if beside and key not in given}
    if folder and 'DATA.LABEL_MAP' not in given and (beside or not config.DATA.LABEL_MAP) \
            and _fits(folder / CLASS_FILE, config.MODEL.NUM_CLASSES):
        values['DATA.LABEL_MAP'] = str(folder / CLASS_FILE)
    return with_values(config, values)


def _config_of_run(resume: Optional[str], output_dir: Optional[str]) -> Optional[Path]:
    """The ``config.yaml`` beside the training state that -resume names; None where there is none."""
    run = Path((output_dir if resume == 'auto' else resume) or '.')
    file = (run if run.is_dir() else run.parent) / 'config.yaml'
    return file if resume and (resume != 'auto' or output_dir) and file.is_file() else None


def _folder(weights: str) -> Optional[Path]:
    """The folder of a weight file on this disk; None when it is none."""
    try:
        return Path(resolve(weights)).parent if weights else None
    except InputError:
        return None


def _fits(names: Path, classes: int) -> bool:
    try:
        return names.is_file() and bool(read_label_map(names, classes))
    except InputError:
        return False


