#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mutated files against every reader of tests/faults/readers.py.

    python tests/faults/fuzz_readers.py --seconds 1200                     every reader, one after another
    python tests/faults/fuzz_readers.py pdparams yaml --files 2000         some of them, until a number of files
    python tests/faults/fuzz_readers.py --keep tests/faults/corpus         also keep small files that reached new code
    python tests/faults/fuzz_readers.py --campaign tests/faults/campaign.json --portion 60    in pieces, see below

With atheris (``pip install atheris`` into an environment that also has this project) the mutations are guided by the
code they reach; without it a seeded mutator works on the same files. A reader may return or raise InputError of one
line that names the file. Another exception, a crash, more than SECONDS for one file and more than MEGABYTES of memory
are findings: each is written to --findings, named by reader, exception and place. The exit status is 1 when there
are any. Seconds are of the processor while it reads, not of the clock and not of imports: a busy machine does not
shorten a campaign.

With --campaign a file keeps what each reader has had: files, processor seconds, findings. It may be interrupted and
started again until each reader has had --seconds; in between they take turns of --portion seconds, with new mutations
each time. --seconds 0 prints what the file says.

Seen to fail: with --weakened the readers' own ``except Exception`` (readers._damaged, checkpoint.read, metadata.read,
the images' _opened) re-raises what it caught, by monkeypatching in this process; findings follow at once
(tests/faults/test_short.py runs it).
"""
from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Callable, List

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.faults.campaign import Campaign  # noqa: E402 -- after the path

CORPUS = Path(__file__).parent / 'corpus'
SECONDS, MEGABYTES, LARGEST = 20, 2000, 20_000  # for one file (a WebP of 179 million pixels takes 1.3 GB); its bytes
SAVED, SAVED_BYTES = 12, 3000                     # files of each reader that --keep leaves, bytes of each


class Checker:
    """Calls a target's reader and writes down what it may not do; ``done`` counts files, ``refused`` those refused."""

    def __init__(self, name: str, folder: Path, findings: Path) -> None:
        from CaiT.errors import InputError
        from tests.faults.readers import TARGETS
        self.name, self.folder, self.findings, self.expected = name, folder, findings, InputError
        self.target, self.seen = TARGETS[name], set()
        self.done = self.refused = 0
        self.memory = 0
        self.started = time.process_time()  # the seconds of a campaign are those of reading, not of imports

    def seconds(self) -> float:
        return time.process_time() - self.started

    def __call__(self, data: bytes) -> None:
        self.done += 1
        signal.signal(signal.SIGPROF, too_long)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            self.target.read(self.folder, data)
        except self.expected as error:
            self.refused += 1
            if '\n' in str(error) or len(str(error)) > 2000 + len(str(self.folder)):
                self.note(data, error, 'message')
        except BaseException as error:
            self.note(data, error, type(error).__name__)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if self.memory and peak > self.memory + MEGABYTES:
            self.note(data, MemoryError(f'{peak} MB'), 'memory')
        if self.done == 1 or peak > self.memory + MEGABYTES:
            self.memory = peak

    def note(self, data: bytes, error: BaseException, kind: str) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if '/CaiT/' in frame.filename]
        place = f'{Path(frames[-1].filename).stem}-{frames[-1].lineno}' if frames else 'nowhere'
        if (kind, place) not in self.seen:
            self.seen.add((kind, place))
            self.findings.mkdir(parents=True, exist_ok=True)
            (self.findings / f'{self.name}-{kind}-{place}').write_bytes(data)
            text = ''.join(traceback.format_exception(type(error), error, error.__traceback__)[-6:])
            (self.findings / f'{self.name}-{kind}-{place}.txt').write_text(text, errors='backslashreplace')


def too_long(*_: object) -> None:
    raise TimeoutError(f'more than {SECONDS} s')


def seeds_of(name: str) -> List[bytes]:
    """The whole files of a target and what earlier runs saved."""
    from tests.faults.readers import TARGETS
    saved = [path.read_bytes() for path in sorted((CORPUS / name).glob('*'))]
    return [*TARGETS[name].seeds(), *saved]


def mutated(data: bytes, others: List[bytes], rng: random.Random, largest: int = LARGEST) -> bytes:
    """Some bytes changed, removed, doubled, put in from another file, or the end cut off."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, length = rng.randrange(len(data) + 1), min(rng.choice((1, 1, 2, 4, 8, 64)), 1 + len(data))
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at + length] = rng.choice((b'\0', b'\xff', b'\x7f', b'9', b'[', b'{', b'"', b'-')) * length
        elif kind == 2:
            del data[at:at + length]
        elif kind == 3:
            data[at:at] = data[at:at + length] * rng.choice((1, 2, 100))
        elif kind == 4:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[at:at + length] = other[start:start + length]
        elif kind == 5:
            data[at:at + length] = rng.randbytes(length)
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data[:largest])


def run_seeded(check: Checker, seeds: List[bytes], seconds: float, files: int, seed: int) -> None:
    rng = random.Random(f'{check.name} {seed}')
    for data in seeds:
        check(data)
    while check.done < files and check.seconds() < seconds:
        check(mutated(rng.choice(seeds), seeds, rng))


def run_atheris(check: Checker, seeds: List[bytes], seconds: float, files: int, seed: int, corpus: Path) -> None:
    """Does not return: libFuzzer ends the process after ``files``, ``_reporting`` after ``seconds``."""
    import atheris
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds):
        (corpus / f'seed{number}').write_bytes(data)
    atheris.Setup([sys.argv[0], str(corpus), f'-runs={files}', f'-seed={seed + 1}', f'-max_len={LARGEST}',
                   '-rss_limit_mb=6000', f'-timeout={10 ** 6}', '-verbosity=0',  # of the clock; SECONDS is ours
                   f'-artifact_prefix={check.findings}/{check.name}-crash-'], _reporting(check, seconds))
    atheris.Fuzz()


def _reporting(check: Checker, seconds: float) -> Callable[[bytes], None]:
    """``check``, with its counts in a file: the end of the process is not ours."""
    def one(data: bytes) -> None:
        check(data)
        over = check.seconds() > seconds
        if check.done % 50 == 0 or over:
            report(check)
        if over:
            os._exit(0)
    return one


def report(check: Checker) -> None:
    check.findings.mkdir(parents=True, exist_ok=True)
    partial = check.findings / f'{check.name}.partial'
    partial.write_text(f'{check.done} {check.refused} {check.seconds():.1f}')
    partial.replace(check.findings / f'{check.name}.counts')  # whole even if the process ends here


def weaken() -> None:
    """Let the readers' own nets fall: see the docstring."""
    from CaiT.data import decode
    from CaiT.weights import readers

    def raised(path: str, name: str, error: Exception) -> Exception:
        return error
    readers._damaged = raised
    decode._one_line = lambda error: (_ for _ in ()).throw(RuntimeError('weakened'))


def one_reader(args: argparse.Namespace) -> int:
    name, findings = args.readers[0], Path(args.findings)
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    warnings.simplefilter('ignore')
    guided = args.mutator != 'seeded' and _has_atheris()
    if guided:
        import atheris
        with atheris.instrument_imports(include=['CaiT', 'pickle', 'zipfile', 'tarfile', 'yaml', 'json', 'csv']):
            _import_readers()
    if args.weakened:
        weaken()
    with tempfile.TemporaryDirectory(prefix='fuzz-', dir='/dev/shm' if Path('/dev/shm').is_dir() else None) as folder:
        check, seeds = Checker(name, Path(folder), findings), seeds_of(name)
        if guided:
            run_atheris(check, seeds, args.seconds, args.files, args.seed, findings / 'corpus' / name)
        run_seeded(check, seeds, args.seconds, args.files, args.seed)
        report(check)
    return 0


def _import_readers() -> None:
    import importlib
    for name in ('weights.readers', 'weights.data_configs', 'training.resume', 'deploy.metadata', 'deploy.results',
                 'data.lists', 'data.label_map', 'data.cifar', 'data.decode', 'report.runs', 'report.predictions',
                 'data.shards', 'data.multi_label', 'serve.open_inference'):
        importlib.import_module(f'CaiT.{name}')


def _has_atheris() -> bool:
    import importlib.util
    return importlib.util.find_spec('atheris') is not None


def keep(name: str, corpus: Path, saved: Path) -> None:
    """Keep the newest small files of a corpus, up to SAVED of them; those named found-… were findings and stay."""
    files = sorted((path for path in corpus.glob('*') if 0 < path.stat().st_size <= SAVED_BYTES
                    and not path.name.startswith('seed')), key=lambda path: (-path.stat().st_mtime, path.name))
    (saved / name).mkdir(parents=True, exist_ok=True)
    for old in (saved / name).glob('*'):
        if not old.name.startswith('found-'):
            old.unlink()
    for path in files[:SAVED]:
        (saved / name / path.name[:12]).write_bytes(path.read_bytes())


def turn(args: argparse.Namespace, name: str, seconds: float, campaign: Campaign) -> str:
    """One reader for some seconds, in a process of its own; returns a line about it."""
    findings, counts = Path(args.findings), Path(args.findings) / f'{name}.counts'
    findings.mkdir(parents=True, exist_ok=True)
    counts.unlink(missing_ok=True)
    words = [sys.executable, __file__, name, '--one', '--seconds', str(seconds), '--files', str(args.files), '--seed',
             str(args.seed + campaign.row(name)['turns']), '--mutator', args.mutator, '--findings', str(findings)]
    done = subprocess.run([*words, *(['--weakened'] if args.weakened else [])], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, errors='replace')
    files, refused, taken = counts.read_text().split() if counts.exists() else ('0', '0', '0')
    if done.returncode or files == '0':
        (findings / f'{name}-exit.txt').write_text(done.stderr[-5000:])
    if args.keep:
        keep(name, findings / 'corpus' / name, Path(args.keep))
    campaign.add(name, int(files), int(refused), max(float(taken), 1.0),
                 [path.stem for path in findings.glob(f'{name}-*.txt')])
    return f'{files} files, {refused} refused, {taken} s, exit {done.returncode}'


def main() -> int:
    from tests.faults.readers import TARGETS, kinds
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument('readers', nargs='*', help=f'default: all of {" ".join(TARGETS)}')
    flags.add_argument('--seconds', type=float, default=1200, help='of the processor, for each reader')
    flags.add_argument('--portion', type=float, default=1200, help='seconds of a reader before the next has its turn')
    flags.add_argument('--campaign', metavar='FILE', help='counts of earlier turns, to which those of this are added')
    flags.add_argument('--files', type=int, default=10 ** 9, help='for each reader')
    flags.add_argument('--seed', type=int, default=0)
    flags.add_argument('--mutator', choices=('atheris', 'seeded'), default='atheris', help='seeded without atheris')
    flags.add_argument('--findings', default='fuzz-findings')
    flags.add_argument('--keep', metavar='FOLDER')
    flags.add_argument('--weakened', action='store_true')
    flags.add_argument('--one', action='store_true', help=argparse.SUPPRESS)  # in this process
    args = flags.parse_args()
    if args.one:
        return one_reader(args)
    mutator = args.mutator if args.seconds == 0 or _has_atheris() else 'seeded'
    campaign = Campaign(Path(args.campaign) if args.campaign else None, mutator)
    names = args.readers or list(TARGETS)
    while True:
        name = min(names, key=campaign.seconds)  # of equals the first
        left = args.seconds - campaign.seconds(name)
        if left < 1 or (args.files <= campaign.files(name) and not args.campaign):
            break
        line = turn(args, name, min(left, args.portion), campaign)
        print(f'{name}: {line}', flush=True)
    print(campaign.summary(names, kinds()))
    return 1 if any(campaign.row(name)['findings'] for name in names) else 0


if __name__ == '__main__':
    sys.exit(main())
