# SPDX-License-Identifier: Apache-2.0
"""Which engine, precision, batch size, threads and streams to choose for an exported model on this machine.

Measures whatever the folder of the export holds, in turn, and then the fastest once more against each other. With
labeled images there is an accuracy for each engine and precision, and none that loses more than allowed is
recommended; without, none whose top classes differed from the dynamic model's in the check at export.
"""
from __future__ import annotations

import os
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from CaiT import runtime
from CaiT.cli import Parser
from CaiT.data.lists import read_list
from CaiT.data.text import quoted
from CaiT.deploy import metadata
from CaiT.deploy.engines import Options
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError
from CaiT.files import write_json
from CaiT.tools import benchmark

FINALISTS = 4    # of the fastest settings, measured once more in one run
ALIKE = 0.97     # speeds within 3 % are the same: the smaller batch is recommended then
Key = Tuple[str, str, str]  # engine, precision, input


class Setting(NamedTuple):
    """``streams`` batches are computed at a time, each with ``threads`` CPU threads."""
    key: Key
    threads: int
    streams: int
    batch: int

    def __str__(self) -> str:
        text = ' '.join(part for part in self.key if part != 'float')
        return f'{text}, batch {self.batch}, threads {self.threads}, streams {self.streams}'

    def flags(self) -> str:
        backend, precision, kind = self.key
        raw = '' if kind == 'float' else f' --input={kind}'
        return (f'--backend={backend} --precision={precision}{raw} --cpu-threads={self.threads} '
                f'--batch-size={self.batch}')


class Accuracy(NamedTuple):
    """``top1`` and ``top5`` (None with five classes or fewer) of ``images``; ``same``: as the first row's top class."""
    images: int
    top1: float
    top5: Optional[float]
    same: float


def runnable(meta: metadata.Metadata) -> Tuple[List[Key], List[str]]:
    """(what the folder holds and this machine can run, a line for each of the others)."""
    keys, notes = [], []
    for artifact in meta.artifacts:
        why = benchmark.unavailable(artifact.engine, artifact.precision)
        if why is None:
            keys.append(artifact.key)
        else:
            notes.append(f'absent: {" ".join(artifact.key)}: {why}')
    missing = [' '.join(pair) for pair in benchmark.OURS if benchmark.unavailable(*pair) is None
               and pair not in [key[:2] for key in keys]]
    if missing:
        notes.append(f'not in this export, so not measured: {", ".join(missing)}')
    return keys, notes


def opened(folder: str, meta: metadata.Metadata, setting: Setting) -> Predictor:
    backend, precision, kind = setting.key
    return Predictor(folder, backend, Options(precision, kind, setting.threads, setting.batch, streams=setting.streams),
                     meta)


def contender(predictor: Predictor, setting: Setting) -> benchmark.Window:
    """A window in which ``streams`` Python threads repeat a batch of random images."""
    random, shape = np.random.default_rng(0), (setting.batch, *predictor.input_shape)
    images = (random.integers(0, 256, shape, np.uint8) if setting.key[2] == 'uint8' else
              random.standard_normal(shape, np.float32))
    run = benchmark.window(lambda: predictor.logits(images), setting.batch)
    if setting.streams == 1:
        return run

    def measured(seconds: float) -> Tuple[int, float]:
        found: List[Tuple[int, float]] = []
        threads = [threading.Thread(target=lambda: found.append(run(seconds))) for _ in range(setting.streams)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(found) < len(threads):
            raise InputError(f'{setting}: a thread failed, see above')
        return sum(count for count, _ in found), time.perf_counter() - start
    return measured


def settings(keys: Sequence[Key], threads: Sequence[int], batches: Sequence[int]) -> List[Setting]:
    """Every key with as many streams as fill the cores, and with one."""
    cores = runtime.cores()
    return [Setting(key, count, streams, batch) for count in threads for batch in batches for key in keys
            for streams in sorted({1, max(1, cores // count)})]


def speeds(folder: str, meta: metadata.Metadata, wanted: Sequence[Setting], rounds: int,
           seconds: float) -> Dict[Setting, benchmark.Throughput]:
    """The throughput of each; those of one number of threads and one batch size are measured in turn, then the best."""
    found: Dict[Setting, benchmark.Throughput] = {}

    def measure(group: Sequence[Setting]) -> None:
        run = {str(one): contender(opened(folder, meta, one), one) for one in group}
        rates = benchmark.round_robin(run, rounds, seconds)
        found.update({one: rates[str(one)] for one in group})

    for cell in dict.fromkeys((one.threads, one.batch) for one in wanted):
        group = [one for one in wanted if (one.threads, one.batch) == cell]
        measure(group)
        print(f'threads {cell[0]}, batch {cell[1]}: fastest is {max(group, key=lambda one: found[one]["median"])}',
              flush=True)
    fastest = sorted(wanted, key=lambda one: -found[one]['median'])
    if len(wanted) > FINALISTS:
        measure(fastest[:FINALISTS])
    return found


def accuracies(folder: str, meta: metadata.Metadata, keys: Sequence[Key], images: Sequence[Tuple[str, int]],
               threads: int) -> Dict[Key, Accuracy]:
    """Of each engine and precision over labeled images (path, class id); InputError for one that cannot be read."""
    found: Dict[Key, Accuracy] = {}
    labels = np.array([label for _, label in images])
    first: Optional[np.ndarray] = None
    topk = min(5, meta.num_classes)
    for key in keys:
        predictor = opened(folder, meta, Setting(key, threads, 1, 8))
        ids = []
        for prediction in predictor.predict([path for path, _ in images], topk):
            if isinstance(prediction, InputError):
                raise prediction
            ids.append([class_id for class_id, _ in prediction.best])
        classes = np.array(ids)
        first = classes[:, 0] if first is None else first
        top5 = float((classes == labels[:, None]).any(1).mean()) if meta.num_classes > 5 else None
        found[key] = Accuracy(len(labels), float((classes[:, 0] == labels).mean()), top5,
                              float((classes[:, 0] == first).mean()))
    return found


def allowed(meta: metadata.Metadata, keys: Sequence[Key], measured: Dict[Key, Accuracy],
            max_drop: float) -> Tuple[List[Key], List[str]]:
    """(keys that may be recommended, why the others may not). ``max_drop``: of top-1, in percentage points."""
    good, notes = [], []
    best = max((one.top1 for key, one in measured.items() if key[1] == 'fp32'),
               default=max((one.top1 for one in measured.values()), default=0.0))
    for key in keys:
        if measured:
            drop = 100 * (best - measured[key].top1)
            if drop <= max_drop + 1e-9:
                good.append(key)
            else:
                notes.append(f'not recommended: {" ".join(key)}: top-1 is {drop:.1f} points lower, allowed are '
                             f'{max_drop:g}')
            continue
        check = meta.artifact(*key).parity
        agree, images = check.get('argmax_agreement', 0), check.get('images', 0)
        if key[1] == 'fp32' or agree == images:
            good.append(key)
        else:
            notes.append(f'not recommended: {" ".join(key)}: at export {images - agree} of {images} images got another '
                         'class; name labeled images to see its accuracy: --val-list=FILE')
    return good, notes


def choose(found: Dict[Setting, benchmark.Throughput], good: Sequence[Key]) -> Tuple[Setting, Setting]:
    """(the setting with most images per second, the one that answers a single image soonest). Of settings that are
    about as fast the smallest batch and the fewest streams."""
    fit = [one for one in found if one.key in good]
    top = max(found[one]['median'] for one in fit)
    most = min((one for one in fit if found[one]['median'] >= ALIKE * top),
               key=lambda one: (one.batch, one.streams, -found[one]['median']))
    alone = [one for one in fit if one.streams == 1]
    smallest = min(one.batch for one in alone)
    return most, max((one for one in alone if one.batch == smallest), key=lambda one: found[one]['median'])


def table(found: Dict[Setting, benchmark.Throughput], measured: Dict[Key, Accuracy],
          meta: metadata.Metadata) -> List[str]:
    """One line for each engine and precision with its fastest setting, and the accuracy beside it."""
    lines = [f'{"engine":28s} {"images/s":>9s} {"batch":>6s} {"threads":>8s} {"streams":>8s}   '
             + ('top-1   top-5   same class' if measured else 'same class at export')]
    keys = sorted({one.key for one in found},
                  key=lambda key: -max(speed['median'] for one, speed in found.items() if one.key == key))
    for key in keys:
        best = max((one for one in found if one.key == key), key=lambda one: found[one]['median'])
        line = (f'{" ".join(key):28s} {found[best]["median"]:9.1f} {best.batch:6d} {best.threads:8d} '
                f'{best.streams:8d}   ')
        if measured:
            accuracy = measured[key]
            top5 = '   –  ' if accuracy.top5 is None else f'{100 * accuracy.top5:5.1f} %'
            line += f'{100 * accuracy.top1:5.1f} % {top5} {100 * accuracy.same:5.1f} % of {accuracy.images}'
        else:
            check = meta.artifact(*key).parity
            line += f'{check.get("argmax_agreement", "?")} of {check.get("images", "?")}'
        lines.append(line)
    return lines


def recommendation(found: Dict[Setting, benchmark.Throughput], good: Sequence[Key],
                   measured: Dict[Key, Accuracy]) -> str:
    """The last line."""
    most, alone = choose(found, good)
    accuracy = f', top-1 {100 * measured[most.key].top1:.1f} %' if measured else ''
    streams = f' (and --streams={most.streams} for cait serve)' if most.streams > 1 else ''
    line = f'recommended: {most.flags()}{streams}: {found[most]["median"]:.1f} images/s{accuracy}'
    milliseconds = 1000 * alone.batch / found[alone]['median']
    return f'{line}; for single images: {alone.flags()}: {milliseconds:.1f} ms each'


def add_flags(flags: Parser) -> None:
    """Declare the flags of this part of benchmark.py."""
    flags.flag('model_dir', metavar='FOLDER', help='measure this exported model instead of -models')
    flags.flag('val_list', metavar='FILE', help='with --model-dir: labeled images, "path class_id" lines')
    flags.flag('images', type=int, default=1000, metavar='N', help='images of --val-list, evenly spaced; default 1000')
    flags.flag('max_drop', type=float, default=0.5, metavar='POINTS', help='with --val-list: top-1 that the '
               'recommended precision may lose against fp32, in percentage points; default 0.5')


def check(args: Any, flags: Parser) -> None:
    """InputError for values out of range, and for flags that cannot take effect."""
    if args.val_list and not args.model_dir:
        raise InputError('--val-list: has no effect on random weights, expected --model-dir with it')
    if args.model_dir and args.models is not flags.get_default('models'):
        raise InputError('-models: has no effect with --model-dir, expected one of the two')
    if args.images < 1:
        raise InputError(f'--images: found {args.images}, expected at least 1')
    if not 0 <= args.max_drop <= 100:
        raise InputError(f'--max-drop: found {args.max_drop}, expected 0 to 100')


def labeled(path: str, num_classes: int, count: int) -> List[Tuple[str, int]]:
    """``count`` lines of a list file, evenly spaced: lists are often sorted by class."""
    samples = read_list(path, os.path.dirname(path), num_classes)
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int))
    return [samples[int(index)] for index in chosen]


def main(args: Any, flags: Parser) -> int:
    """benchmark.py with --model-dir: unless told otherwise with one thread, and with all cores."""
    threads = args.threads if args.threads is not flags.get_default('threads') else sorted({1, *args.threads})
    meta = metadata.read(args.model_dir)
    keys, notes = runnable(meta)
    print('\n'.join(notes), end='\n' if notes else '')
    if not keys:
        raise InputError(f'{args.model_dir}: found nothing that this machine can run, see above')
    images: List[Tuple[str, int]] = []
    if args.val_list:
        images = labeled(args.val_list, meta.num_classes, args.images)
        print(f'accuracy: {len(images)} images of {quoted(args.val_list)}', flush=True)
    measured = accuracies(args.model_dir, meta, keys, images, runtime.cores()) if images else {}
    good, reasons = allowed(meta, keys, measured, args.max_drop)
    found = speeds(args.model_dir, meta, settings(keys, threads, args.batches), args.rounds, args.seconds)
    print('\n'.join([*table(found, measured, meta), *reasons]))
    if args.json:
        most, alone = choose(found, good or keys)
        write_json(args.json, {
            **benchmark.header(args), 'model': meta.model, 'weights': meta.weights,
            'settings': [{**one._asdict(), 'rates': speed} for one, speed in found.items()],
            'accuracy': [{'key': key, **one._asdict()} for key, one in measured.items()],
            'recommended': most._asdict(), 'for single images': alone._asdict()})
    if not good:
        print('recommended: none; every engine loses more accuracy than allowed (--max-drop)')
        return 1
    print(recommendation(found, good, measured))
    return 0
