#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A disk that fails at the n-th operation, for every n, under every output that this project writes.

    python tests/faults/failing_writes.py                    every output, ENOSPC and EIO, every n
    python tests/faults/failing_writes.py --step 7 results   every seventh n of some outputs

Operations are the opening of a file for writing, each write (half of its bytes arrive), flush, fsync, truncate, rename
and mkdir in this process. What must hold each time: one line ``error: …`` and status 2; files that were there are as
they were (a log may have whole lines more, and half a last one); no temporary file stays; nothing half under its final
name. The exit status is 1 when a check failed.

Seen to fail: with --weakened CaiT.files.atomic_write writes to the final name (by monkeypatching in this process).
"""
from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

_open, MOST = builtins.open, 5000  # the real one; operations of one output


class Disk:
    """Counts operations below ``folder``; the one numbered ``fails_at``, and all after it, raise ``number``."""

    def __init__(self, folder: Path, fails_at: int, number: int) -> None:
        self.folder, self.fails_at, self.number, self.count = str(folder), fails_at, number, 0

    def spend(self) -> None:
        self.count += 1
        if self.count >= self.fails_at:
            raise OSError(self.number, os.strerror(self.number))

    def open(self, file: Any, mode: str = 'r', *rest: Any, **options: Any) -> Any:
        is_ours = isinstance(file, (str, os.PathLike)) and os.path.abspath(os.fspath(file)).startswith(self.folder)
        if not is_ours or not set(mode) & set('wax+'):
            return _open(file, mode, *rest, **options)
        self.spend()
        return Failing(_open(file, mode, *rest, **options), self)

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            path = arguments[0]
            if not isinstance(path, (str, os.PathLike)) or os.path.abspath(os.fspath(path)).startswith(self.folder):
                self.spend()
            return function(*arguments, **options)
        return call

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        with mock.patch('builtins.open', self.open), mock.patch('io.open', self.open), contextlib.ExitStack() as stack:
            for name in ('fsync', 'replace', 'rename', 'mkdir'):
                stack.enter_context(mock.patch(f'os.{name}', self.wrapped(getattr(os, name))))
            yield


class Failing:
    """A file open for writing on a Disk."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        try:
            self._disk.spend()
        except OSError:
            with contextlib.suppress(TypeError):
                self._file.write(data[:len(data) // 2])
            raise
        return self._file.write(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._disk.spend()
        self._file.flush()

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _state() -> Dict[str, Any]:
    arrays = {'a': np.arange(6, dtype=np.float32), 'b': np.ones((2, 3), np.float32)}
    return dict(model=arrays, ema={}, optimizer={}, scaler={}, progress={}, steps=1, config='')


def _predictions() -> Any:
    from CaiT.report.predictions import Predictions
    rng = np.random.default_rng(0)
    return Predictions.from_probs([f'{i}.png' for i in range(6)], np.arange(6) % 3, rng.dirichlet(np.ones(3), 6))


def _checkpoint(folder: Path) -> None:
    from CaiT.training import checkpoint
    checkpoint.write(folder, 'last', _state())


def _linked(folder: Path) -> None:
    from CaiT.training import checkpoint
    checkpoint.write(folder, 'best', _state())
    checkpoint.link(folder, 'best', 'last')


def _weights(folder: Path) -> None:
    from CaiT.training import checkpoint
    checkpoint.write_weights(folder / 'best_ema.pdparams', _state()['model'])
    checkpoint.copy(folder / 'best_ema.pdparams', folder / 'copy.pdparams')


def _converted(folder: Path) -> None:
    from CaiT.files import atomic_write
    from CaiT.weights import writers
    for suffix in ('.pdparams', '.safetensors'):
        with atomic_write(folder / f'w{suffix}', 'wb') as file:
            writers.write(file, suffix, _state()['model'])


def _log(folder: Path) -> None:
    from CaiT.training.logger import RunLogger
    logger = RunLogger(folder, 'log_train.txt')
    for epoch in (1, 2):
        logger.info(f'epoch {epoch}')
        logger.record({'epoch': epoch})
    logger.rewind(1)


def _results(folder: Path, ending: str) -> None:
    from CaiT.deploy.predictor import Prediction
    from CaiT.deploy.results import ResultFile
    results = ResultFile(str(folder / f'r{ending}'), 2, (folder / f'r{ending}').exists(), {'model': 'x'})
    for number in range(4):
        if os.path.abspath(f'{number}.png') not in results.done:
            results.write(Prediction(f'{number}.png', [(1, 0.5), (0, 0.25)]), str)
    results.close()


def _table(folder: Path) -> None:
    from CaiT.training.jobs import _write_predictions
    one = (np.array([1, 0]), np.array([0.75, 0.25]))
    _write_predictions(folder / 'predictions.csv', ['a.png', 'b.png'], ['x', 'y'], [one, one])


def _report(folder: Path) -> None:
    from CaiT.report import evaluation
    evaluation.write(folder / 'report', _predictions())


def _lists(folder: Path) -> None:
    from PIL import Image

    from CaiT.tools import make_lists
    if not (folder / 'train').exists():  # before the disk fails
        for split in ('train', 'val'):
            for name in ('a', 'b'):
                (folder / split / name).mkdir(parents=True)
                Image.new('RGB', (4, 4)).save(folder / split / name / '1.png')
        return
    make_lists.main([str(folder)])


def _json(folder: Path) -> None:
    from CaiT.files import write_json
    write_json(folder / 'a.json', {'a': [1, 2]})


def _metadata(folder: Path) -> None:
    """What export writes from Python; graphs and weights are written by Paddle's own code."""
    from CaiT.deploy.folder import renamed_into
    with renamed_into(folder / 'model', 'metadata.json') as temporary:
        for name in ('inference.json', 'metadata.json'):
            with open(temporary / name, 'w') as file:
                file.write('{}')


def _run(folder: Path) -> None:
    """A whole run of training."""
    from CaiT.report.run_page import Refresher
    from CaiT.training import jobs
    from tests.training.conftest import make_stripes, small_config
    stripes = folder.parent / 'stripes'
    if not stripes.exists():
        make_stripes(stripes, (8, 4))
    jobs.train(small_config(stripes, 'TRAIN.EMA_DECAY', 0.5, 'SAVE_STEPS', 1, epochs=1,
                            output_dir=str(folder / 'run'), resume='auto'), Refresher)


OUTPUTS: Dict[str, Tuple[Callable[[Path], None], bool]] = {  # and whether an earlier version may not be touched
    'checkpoint': (_checkpoint, True), 'linked': (_linked, False), 'weights': (_weights, True),
    'converted': (_converted, True),
    'log': (_log, False),
    'results_csv': (lambda folder: _results(folder, '.csv'), False),
    'results_jsonl': (lambda folder: _results(folder, '.jsonl'), False), 'table': (_table, True),
    'report': (_report, True), 'lists': (_lists, True), 'json': (_json, True), 'metadata': (_metadata, True),
    'run': (_run, False)}


def contents(folder: Path) -> Dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def attempt(write: Callable[[Path], None], folder: Path, disk: Disk) -> Tuple[Any, str]:
    """(exit status, what was printed to stderr) of ``write`` as a script on this disk."""
    from CaiT import errors
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), disk.mounted():
        try:
            errors.run(lambda: write(folder))
        except SystemExit as leaving:
            return leaving.code or 0, said.getvalue()
        except BaseException as error:
            return f'{type(error).__name__}: {error}', said.getvalue()
    return 0, said.getvalue()


def problem(status: Any, said: str, before: Dict[str, bytes], after: Dict[str, bytes], whole: Dict[str, bytes],
            strict: bool) -> str:
    """What does not hold after a failed write; '' when all does."""
    lines = [line for line in said.splitlines() if line.startswith('error: ')]
    if status != 2 or len(lines) != 1 or 'Traceback' in said:
        return f'status {status}, said {said[-300:]!r}'
    left = [name for name in after if name.endswith('.tmp') or Path(name).name == '.lock']
    if left:
        return f'left {left}'
    for name, content in before.items():
        if name not in after:
            return f'{name} is gone'
        grown = after[name].startswith(content) or after[name] == whole.get(name)
        if after[name] not in (content, whole.get(name)) and (strict or not grown):
            return f'{name} is neither the earlier file nor the new one'
    for name in set(after) - set(before):
        if strict and after[name] != whole.get(name):
            return f'{name} is half a file'
        if not strict and name.endswith(('.csv', '.jsonl')) and not whole.get(name, b'').startswith(after[name]):
            return f'{name} is no beginning of the file'
    return ''


def campaign(name: str, number: int, step: int) -> Tuple[int, List[str]]:
    """(operations that failed, what is wrong): without earlier files, and where the output allows it, over them."""
    write, strict = OUTPUTS[name]
    tried, wrong = 0, []
    for again in (False, True) if strict else (False,):
        for fails_at in range(1, MOST, step):
            with tempfile.TemporaryDirectory(prefix='failing-writes-') as place:
                folder = Path(place) / 'out'
                folder.mkdir()
                if again or name == 'lists':
                    attempt(write, folder, Disk(folder, MOST * 10, number))
                if again and name == 'lists':
                    attempt(write, folder, Disk(folder, MOST * 10, number))
                    (folder / 'train_list.txt').write_text('train/a/1.png 0\n')  # another, to be written again
                before = contents(folder)
                disk = Disk(folder, fails_at, number)
                status, said = attempt(write, folder, disk)
                if disk.count < fails_at:
                    break
                tried += 1
                after = contents(folder)
                attempt(write, folder, Disk(folder, MOST * 10, number))
                found = problem(status, said, before, after, contents(folder) if strict else {**after}, strict)
                if found:
                    wrong.append(f'{name}: operation {fails_at}, {errno.errorcode[number]}: {found}')
                    print(wrong[-1], flush=True)
    return tried, wrong


@contextlib.contextmanager
def in_place(path: Any, mode: str = 'w') -> Iterator[Any]:
    """The weakened atomic_write."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, mode) as file:
        yield file


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument('outputs', nargs='*', help=f'default: all of {" ".join(OUTPUTS)}')
    flags.add_argument('--step', type=int, default=1)
    flags.add_argument('--weakened', action='store_true')
    args = flags.parse_args()
    from CaiT import runtime
    runtime.prepare()
    if args.weakened:
        from CaiT.training import checkpoint
        checkpoint.atomic_write = in_place
    total, wrong = 0, []
    for name in args.outputs or OUTPUTS:
        for number in (errno.ENOSPC, errno.EIO):
            tried, found = campaign(name, number, args.step)
            total, wrong = total + tried, wrong + found
            print(f'{name}: {tried} operations failed with {errno.errorcode[number]}, {len(found)} wrong', flush=True)
    print(f'{total} failed operations, {len(wrong)} wrong')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
