# SPDX-License-Identifier: Apache-2.0
"""What a training run's folder says, finished or not: config.yaml, log.jsonl and log_train.txt."""
from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from CaiT import safe_yaml
from CaiT.errors import InputError
from CaiT.files import check_regular
from CaiT.training.logger import read_records

PLACES = ('OUTPUT_DIR', 'RESUME')  # settings that say where, not what
RENAMED = {'pictures_per_second': 'images_per_second'}  # keys of log.jsonl in earlier versions
MAX_LINE = 1000  # characters of a line of the log that are looked at
_STAMP = re.compile(r'^\d{4} \d\d:\d\d:\d\d [AP]M ')
_STEP = re.compile(r'\[Train\]\[Epoch (\d{1,9})/(\d{1,9})\]\[Iter: (\d{1,9})/(\d{1,9})\] lr: ([-\d.e]+), '
                   r'loss: ([-\d.einfa]+),.* ips: ([\d.]+) images/sec, eta: (.*)$')
_EPOCH = re.compile(r'----- Epoch\[(\d{1,9})/\d+\], Train Loss.*time: ([\d.]+)$')
_ENVIRONMENT = re.compile(r'^(runtime|acceleration): ')


class Step(NamedTuple):
    """A line [Train] of the log: ``epoch`` done so far (1.5: half of the second), and the values at that step."""
    epoch: float
    lr: float
    loss: float


@dataclasses.dataclass
class Run:
    """One run; ``config`` has flat keys ('TRAIN.EPOCHS')."""
    name: str
    folder: Path
    config: Dict[str, Any]
    records: List[Dict[str, Any]]
    steps: List[Step]
    environment: List[str]
    seconds: Dict[int, float]  # of each epoch's training
    position: str              # where the log ends: epoch, step, time left
    age: float                 # seconds since something was written

    @property
    def epochs(self) -> int:
        value = self.config.get('TRAIN.EPOCHS', 0)
        return value if type(value) is int else 0

    @property
    def finished(self) -> bool:
        return bool(self.records) and 0 < self.epochs <= self.records[-1]['epoch']

    @property
    def mixed(self) -> bool:
        """Whether the training images, and so the training accuracy, are of mixed images."""
        return bool(self.config.get('AUG.MIXUP') or self.config.get('AUG.CUTMIX'))

    def series(self, key: str) -> List[Tuple[float, float]]:
        """(epoch, value) of the records that have the key; NaN where it was not finite (null in log.jsonl)."""
        return [(record['epoch'], math.nan if record[key] is None else float(record[key])) for record in self.records
                if key in record and isinstance(record[key], (int, float, type(None)))]

    def best(self, key: str = 'val_top1') -> Dict[str, Any]:
        """The record with the highest value of ``key``, the first of equals; {} when none has it."""
        found = [record for record in self.records if isinstance(record.get(key), (int, float))]
        return max(found, key=lambda record: record[key]) if found else {}


def read_run(folder: Path) -> Run:
    """Read a run's folder; half-written last lines are left out. InputError where there is no run."""
    folder = Path(folder)
    records_file, config_file = folder / 'log.jsonl', folder / 'config.yaml'
    if not config_file.is_file() and not records_file.is_file():
        raise InputError(f'{folder}: found neither config.yaml nor log.jsonl, expected the folder of a training run')
    config: Mapping[str, Any] = {}
    if config_file.is_file():
        try:
            config = safe_yaml.load_yaml(config_file) or {}
        except OSError as error:
            raise InputError(f'{config_file}: cannot be read ({error.strerror})') from None
        if not isinstance(config, dict):
            raise InputError(f'{config_file}: cannot be read (found {type(config).__name__}, expected keys)')
    records: Dict[int, Dict[str, Any]] = {}
    for found in read_records(records_file):
        records[found['epoch']] = {RENAMED.get(key, key): value for key, value in found.items()}
    steps, environment, seconds, position = _read_log(folder / 'log_train.txt')
    files = [path for path in (records_file, folder / 'log_train.txt', config_file) if path.is_file()]
    age = max(0.0, time.time() - max(path.stat().st_mtime for path in files))
    return Run(folder.resolve().name or str(folder), folder, flat(config),
               [records[epoch] for epoch in sorted(records)], steps, environment, seconds, position, age)


def read_runs(folders: Sequence[Path]) -> List[Run]:
    """Several runs; those of equal names are told apart by their parents. InputError for one that is named twice."""
    runs = [read_run(folder) for folder in folders]
    places = [run.folder.resolve().parts for run in runs]
    twice = next((run for run, place in zip(runs, places) if places.count(place) > 1), None)
    if twice:
        raise InputError(f'{twice.folder}: found {places.count(twice.folder.resolve().parts)} times, expected '
                         'different runs')
    for run, place in zip(runs, places):
        others = [one for one in places if one is not place]
        length = next(n for n in range(1, len(place) + 1) if all(one[-n:] != place[-n:] for one in others))
        run.name = '/'.join(place[-length:]) or run.name
    return runs


def flat(config: Mapping[str, Any], prefix: str = '') -> Dict[str, Any]:
    """{'A': {'B': 1}} to {'A.B': 1}; tuples become lists, as YAML gives them back."""
    values: Dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values.update(flat(value, f'{prefix}{key}.'))
        else:
            values[f'{prefix}{key}'] = list(value) if isinstance(value, tuple) else value
    return values


def defaults_of(run: Run) -> Dict[str, Any]:
    """The settings of the run's model and dataset where nothing else is said; {} for a model that is not known."""
    if not run.config:
        return {}
    from CaiT.config import get_config  # imports Paddle
    opts = [word for key in ('MODEL.NAME', 'DATA.DATASET') if key in run.config for word in (key, str(run.config[key]))]
    try:
        return flat(get_config(opts=opts))
    except InputError:
        return {}


def differences(configs: Sequence[Mapping[str, Any]]) -> List[Tuple[str, List[Any]]]:
    """(key, its value in each) of the settings that are not the same everywhere; None where one has no such key."""
    keys = sorted({key for config in configs for key in config} - set(PLACES))
    rows = [(key, [config.get(key) for config in configs]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values[1:])]


def _read_log(path: Path) -> Tuple[List[Step], List[str], Dict[int, float], str]:
    steps: Dict[float, Step] = {}
    environment: Dict[str, str] = {}
    seconds: Dict[int, float] = {}
    position = ''
    for line in _lines(path):
        text = _STAMP.sub('', line[:MAX_LINE])
        step, epoch = _STEP.search(text), _EPOCH.search(text)
        if step:
            number, epochs, index, count = (int(step.group(i)) for i in range(1, 5))
            at = number - 1 + (index + 1) / max(count, 1)
            with contextlib.suppress(ValueError):  # '1-2', of a damaged line
                values = float(step.group(5)), float(step.group(6))
                if all(math.isfinite(value) for value in values):
                    steps[at] = Step(at, *values)
            position = f'epoch {number} of {epochs}, step {index + 1} of {count}, {step.group(8)} left'
        elif epoch:
            with contextlib.suppress(ValueError):
                seconds[int(epoch.group(1))] = float(epoch.group(2))
        elif _ENVIRONMENT.match(text):
            environment[text.split(':')[0]] = text
    return [steps[at] for at in sorted(steps)], list(environment.values()), seconds, position


def _lines(path: Path) -> List[str]:
    check_regular(path)
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding='utf-8', errors='replace').splitlines()
    return []
