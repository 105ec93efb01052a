# SPDX-License-Identifier: Apache-2.0
"""Images per second and peak memory of CaiT-XXS24's training step: this project's trainer and timm on PyTorch.

    bash benchmarks/make_peers.sh peers
    python benchmarks/train_step.py --peer-python peers/bin/python
    python benchmarks/train_step.py --before ../another-checkout      ours against an earlier commit's, without timm

On the CPU; forward, backward and AdamW on batches of 16 and 32 in memory; stochastic depth as published. `ours` is one
update of CaiT.training.trainer with default settings; `ours-onednn` is the same without the compiled attention kernel
(CAIT_NATIVE=off), `plain` without any acceleration (CAIT_RUNTIME=off); `timm` is PyTorch eager with one thread per
core, `timm-compile` with torch.compile. They train in float32, those with -bf16 in their name with -amp or
torch.autocast in bfloat16, the loss outside as PyTorch advises. Each is a separate process, one batch size at a
time; they are measured in turn, step by step, so that drift of the machine's speed affects all equally. Results are
medians (and best) over the rounds after a warm-up round, a ratio is the median of the rounds' ratios; memory is the
process's peak resident set size. Rounds in which the machine itself was slow (quiet_windows.py) are dropped and
measured again, up to as many more.

Measure on an idle machine: if other programs compete for the cores, PyTorch's threads wait for each other, which slows
it down by far more than a real difference (hence the load average before the run is in the result).
The result is written to benchmarks/results/train_step.json.
"""
from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.process_memory import status  # noqa: E402
from benchmarks.quiet_windows import QuietWindows, slow_windows  # noqa: E402
from CaiT import runtime  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.errors import InputError, run  # noqa: E402
from CaiT.files import write_json  # noqa: E402
from CaiT.tools.benchmark import processor  # noqa: E402

MODEL, DROP_PATH_RATE, WEIGHT_DECAY = 'cait_xxs24_224', 0.05, 0.05
SIDES = ('ours', 'ours-onednn', 'ours-bf16', 'ours-bf16-onednn', 'plain', 'timm', 'timm-bf16', 'timm-compile',
         'timm-bf16-compile')
DEFAULT_SIDES = ['ours', 'ours-bf16', 'timm', 'timm-bf16']
SWITCHES = {'plain': {'CAIT_RUNTIME': 'off'}, 'ours-onednn': {'CAIT_NATIVE': 'off'},
            'ours-bf16-onednn': {'CAIT_NATIVE': 'off'}}
PAUSE = 0.4  # seconds: OpenMP's idle threads spin for 0.2 s after a step and would slow the next side
RESULT = ROOT / 'benchmarks' / 'results' / 'train_step.json'
Step = Callable[[], Any]


def own_step(name: str, batch: int, amp: bool) -> Step:
    """One update of the trainer on a batch in memory."""
    import numpy as np
    import paddle

    from CaiT.config import get_config
    from CaiT.training.logger import RunLogger
    from CaiT.training.trainer import Trainer
    with tempfile.TemporaryDirectory() as folder:
        data_path = _placeholder_dataset(Path(folder))
        config = get_config(data_path=data_path, batch_size=batch, device='cpu', amp=amp, opts=[
            'MODEL.NAME', name, 'MODEL.DROP_PATH_RATE', str(DROP_PATH_RATE), 'TRAIN.WEIGHT_DECAY', str(WEIGHT_DECAY),
            'DATA.NUM_WORKERS', '0'])
        trainer = Trainer(config, Path(folder), RunLogger(Path(folder), 'train.log'))
    trainer.model.train()
    rng = np.random.default_rng(0)
    images = paddle.to_tensor(rng.standard_normal((batch, 3, 224, 224), dtype=np.float32))
    targets = paddle.to_tensor(rng.integers(0, 1000, batch))
    return lambda: trainer._update([(images, targets)])


def _placeholder_dataset(folder: Path) -> str:
    """A dataset of empty files: the trainer requires one, but none of its images is read."""
    for split in ('train', 'val'):
        (folder / f'{split}_list.txt').write_text(''.join(f'{index}.jpg {index}\n' for index in range(64)))
    for index in range(64):
        (folder / f'{index}.jpg').touch()
    return str(folder)


def timm_step(name: str, batch: int, amp: bool, compiled: bool) -> Step:
    """The same update with timm and PyTorch."""
    import timm
    import torch
    torch.set_num_threads(runtime.cores())
    torch.manual_seed(0)
    model = timm.create_model(name, drop_path_rate=DROP_PATH_RATE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=WEIGHT_DECAY)
    images, targets = torch.randn(batch, 3, 224, 224), torch.randint(0, 1000, (batch,))
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            logits = forward(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    return step


def serve(side: str, model: str, batch: int) -> None:
    """The process of one side: prints its settings when ready; then runs a step for each line on stdin and prints its
    seconds and the peak memory so far."""
    responses, sys.stdout = sys.stdout, sys.stderr
    amp = '-bf16' in side
    if side.startswith('timm'):
        settings, step = '', timm_step(model, batch, amp, side.endswith('-compile'))
    else:
        settings = runtime.prepare()
        step = own_step(model, batch, amp)
    print(json.dumps({'settings': settings}), file=responses, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        print(json.dumps({'seconds': seconds, 'peak': status('VmHWM')}), file=responses, flush=True)


class Side:
    """A running ``serve`` process."""

    def __init__(self, name: str, python: str, model: str, batch: int, script: str = __file__) -> None:
        environment = {**os.environ, **SWITCHES.get(name, {})}
        self.name, side = name, 'ours' if name == 'before' else name
        command = [python, script, '--serve', side, '--batches', str(batch)]
        if model != MODEL:  # earlier commits, with --before, know only that one
            command += ['--model', model]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=environment)
        self.settings = self._response()['settings']

    def step(self) -> Dict[str, float]:
        """Run one step: {'seconds', 'peak' (MB)}."""
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        return self._response()

    def _response(self) -> Dict[str, Any]:
        try:
            return json.loads(self.process.stdout.readline())
        except ValueError:
            raise InputError(f'the process of {self.name} ended (its own message is above); is its Python complete?'
                             ) from None

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(model: str, batch: int, rounds: int, commands: Dict[str, Tuple[str, str]],
            reference: str) -> Tuple[Dict[str, Any], str]:
    """Images per second and memory of all sides ({name: (interpreter, script)}) at one batch size, and our settings."""
    sides = [Side(name, python, model, batch, script) for name, (python, script) in commands.items()]
    windows, peaks = QuietWindows(), {}
    found: List[Dict[str, float]] = []  # of each round, images per second of each side
    quiet: List[bool] = []
    while len(found) < 1 + 2 * rounds and sum(quiet) < rounds:
        speeds = {}
        for side in sides if len(found) % 2 else sides[::-1]:
            time.sleep(PAUSE)
            result = windows.run(side.step)
            speeds[side.name], peaks[side.name] = batch / result['seconds'], result['peak']
        found.append(speeds)
        quiet = quiet_rounds(windows.probes, len(sides))
        print(f'batch {batch}, round {len(found) - 1}, {sum(quiet)} quiet: ' + ', '.join(
            f'{name} {speeds[name]:.2f}' for name in commands), flush=True)
    for side in sides:
        side.close()
    if sum(quiet) < min(rounds, 3):
        raise InputError(f'found {sum(quiet)} of {len(quiet)} rounds without disturbance, expected at least 3: '
                         'measure on an idle machine')
    in_quiet = [speeds for speeds, is_quiet in zip(found[1:], quiet) if is_quiet]
    columns = {name: [speeds[name] for speeds in in_quiet] for name in commands}
    rows = {name: summary(column, columns[reference], reference) for name, column in columns.items()}
    for name, row in rows.items():
        row.update({'peak MB': round(peaks[name]),
                    f'memory against {reference}': round(peaks[name] / peaks[reference], 2),
                    'rounds dropped': len(quiet) - len(in_quiet)})
    return rows, sides[0].settings


def quiet_rounds(probes: List[Any], sides: int) -> List[bool]:
    """Whether no window of a round was slow, for each round after the warm-up round."""
    slow = slow_windows(probes[sides:])
    return [not any(slow[start:start + sides]) for start in range(0, len(slow), sides)]


def summary(speeds: List[float], reference_speeds: List[float], reference: str) -> Dict[str, Any]:
    """Median, best and all of one side's images per second, and the median of the rounds' ratios."""
    ratio = statistics.median(a / b for a, b in zip(speeds, reference_speeds))
    return {'images/s': round(statistics.median(speeds), 2), 'best': round(max(speeds), 2),
            f'against {reference}': round(ratio, 2), 'rounds': [round(speed, 2) for speed in speeds]}


def versions(python: str, *modules: str) -> Dict[str, str]:
    """Versions of ``modules`` in an interpreter."""
    code = ('import importlib.metadata as m, json, platform, sys; print(json.dumps('
            '{"python": platform.python_version(), **{name: m.version(name) for name in sys.argv[1:]}}))')
    result = subprocess.run([python, '-c', code, *modules], capture_output=True, text=True, check=False)
    if result.returncode:
        raise InputError(f'{python} lacks something: {result.stderr.strip().splitlines()[-1]}')
    return json.loads(result.stdout)


def main(arguments: Optional[List[str]] = None) -> None:
    parser = Parser(__doc__)
    parser.flag('peer_python', help='an interpreter with timm and torch, see make_peers.sh', metavar='PATH')
    parser.flag('batches', nargs='+', type=int, default=[16, 32], help='batch sizes (default: 16 32)')
    parser.flag('rounds', type=int, default=9, help='rounds in quiet windows (default 9)')
    parser.flag('output', default=str(RESULT), metavar='FILE', help='JSON file to write')
    parser.flag('before', help='a checkout of an earlier commit to compare with instead of timm', metavar='FOLDER')
    parser.flag('serve', choices=SIDES, help='run as one side; used by the program itself')
    parser.flag('model', default=MODEL, help='model with random weights')
    parser.flag('sides', nargs='+', choices=SIDES, default=DEFAULT_SIDES, help='all run at once: mind the memory')
    flags = parser.parse_args(arguments)
    if flags.serve:
        serve(flags.serve, flags.model, flags.batches[0])
        return
    if not (flags.peer_python or flags.before):
        raise InputError('--peer-python: found nothing, expected an interpreter with timm and torch')
    packages = {'ours': versions(sys.executable, 'paddlepaddle', 'numpy')}
    reference = 'before' if flags.before else next((side for side in ('timm', *SIDES) if side in flags.sides))
    if flags.before:
        commands = {'ours': (sys.executable, __file__),
                    'before': (sys.executable, str(Path(flags.before) / 'benchmarks' / 'train_step.py'))}
    else:
        packages['timm'] = versions(flags.peer_python, 'torch', 'timm')
        commands = {side: (flags.peer_python if side.startswith('timm') else sys.executable, __file__)
                    for side in flags.sides}
    load = os.getloadavg()[0]
    results, settings = {}, ''
    for batch in flags.batches:
        results[batch], settings = measure(flags.model, batch, flags.rounds, commands, reference)
    line = ('batch {:<3} {:<17} {images/s:>6.2f} images/s (best {best:>6.2f}) {against REF:>5.2f}x REF, '
            'peak {peak MB:>5} MB {memory against REF:>5.2f}x, {rounds dropped} rounds dropped')
    line = line.replace('REF', reference)
    for batch, found in results.items():
        for name, row in found.items():
            print(line.format(batch, name, **row))
    machine = {'processor': processor(), 'cores': runtime.cores(), 'system': platform.platform(),
               'load average before': round(load, 1)}  # other programs slow all sides, though not equally
    report = {'model': flags.model, 'machine': machine, 'settings': settings, 'versions': packages, 'batches': results}
    write_json(flags.output, report)
    print(f'written to {flags.output}')


if __name__ == '__main__':
    run(main)
