# SPDX-License-Identifier: Apache-2.0
"""The five alignment steps of the Paddle reproduction guide, for cait_xxs24_224, in reprod_log's own text.

    python -m CaiT.tools.align                                        against the golden numbers of tests/goldens
    python -m CaiT.tools.align -live [-peer_python python3]           against timm on PyTorch, computed now
    python -m CaiT.tools.align -perturb blocks.0.attn.proj.weight     change one value by 1e-3: must fail

Both sides start from the same weights and inputs (CaiT/tools/goldens.py). Each step writes <step>_paddle.npy,
<step>_ref.npy and <step>_diff.log to the output folder:

    forward    the sum of every parameter, and the logits of two images          1e-5
    metric     top-1 and top-5 accuracy of these images                          1e-6
    loss       cross entropy of four images, plain and with smoothing 0.1        2e-6
    backward   the losses of five AdamW updates, and the first gradients' norms    1e-4
    train      loss, logits and accuracy after the updates                         1.5e-3

A step passes when mean and maximum of |difference| are at most its threshold. The guide requires a mean of 1e-5 in
forward, about 1e-6 in loss and backward, and 0.15 % in training. Rounding errors grow over five updates: to 1.5e-5
here, to 3.2e-5 with Paddle's default MKL code path, to 5.5e-6 in the reference's own float32; hence 1e-4. The
exit status is 1 when a step fails.
"""
from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.tools import check_goldens, goldens

MODEL = 'cait_xxs24_224'
THRESHOLDS = {'forward': 1e-5, 'metric': 1e-6, 'loss': 2e-6, 'backward': 1e-4, 'train': 1.5e-3}
SMOOTHING = 0.1
Steps = Dict[str, Dict[str, np.ndarray]]  # {step: {key: array}}


def reference(folder: Path) -> Steps:
    """The reference's values, from a folder of golden files; accuracies and losses in NumPy float64."""
    golden, training = goldens.arrays(folder, MODEL), goldens.arrays(folder, goldens.TRAINING)
    sums = {name: goldens.value(name, shape).sum(dtype=np.float64) for name, shape in goldens.names(folder, MODEL)}
    order = goldens.manifest(folder)['train']['param_order']
    logits, first, last = golden['logits_f64'], training['f64_logits0'], training['f64_logits5']
    losses = {f'loss_{step}': loss for step, loss in enumerate(training['f64_losses'])}
    return _arrays({
        'forward': {'parameter_sums': _by_name(sums), 'logits': logits},
        'metric': {f'acc_top{k}': _accuracy(logits, metric_labels(logits), k) for k in (1, 5)},
        'loss': {'loss': training['f64_losses'][0], 'smoothed_loss': _cross_entropy(first, SMOOTHING)},
        'backward': {**losses, 'gradient_norms': _relative_norms(dict(zip(order, training['f64_gnorm'])))},
        'train': {'loss': training['f64_loss_after5'], 'logits': last,
                  'acc_top1': _accuracy(last, np.array(goldens.TRAINING_LABELS), 1)}})


def computed(labels: np.ndarray, perturb: str = '') -> Steps:
    """This project's values: its models, evaluator and losses. ``labels`` are those of the metric step; ``perturb``
    names a parameter whose first value is changed by 1e-3."""
    import paddle

    from CaiT.models.registry import create_model
    from CaiT.training.evaluator import evaluate
    from CaiT.training.logger import RunLogger
    from CaiT.training.losses import build_loss
    model = _filled(create_model(MODEL), perturb)
    sums = {name: p.numpy().sum(dtype=np.float64) for name, p in model.named_parameters()}
    batch = paddle.to_tensor(goldens.noise((2, 3, 224, 224), 0)), paddle.to_tensor(labels)
    result = evaluate(model, [batch], RunLogger(Path(), '', active=False), 1)
    with paddle.no_grad():
        logits = model(batch[0]).numpy()

    *steps, after = check_goldens.train(_filled(create_model(MODEL, num_classes=10), perturb), updates=5)
    first, targets = paddle.to_tensor(steps[0]['logits']), paddle.to_tensor(goldens.TRAINING_LABELS)
    norms = {name: np.linalg.norm(array.astype(np.float64)) for name, array in steps[0]['gradients'].items()}
    return _arrays({
        'forward': {'parameter_sums': _by_name(sums), 'logits': logits},
        'metric': {'acc_top1': result.top1, 'acc_top5': result.top5},
        'loss': {'loss': steps[0]['loss'], 'smoothed_loss': build_loss('CE', SMOOTHING)(first, targets).item()},
        'backward': {**{f'loss_{i}': step['loss'] for i, step in enumerate(steps)},
                     'gradient_norms': _relative_norms(norms)},
        'train': {'loss': after['loss'], 'logits': after['logits'],
                  'acc_top1': _accuracy(after['logits'], np.array(goldens.TRAINING_LABELS), 1)}})


def metric_labels(logits: np.ndarray) -> np.ndarray:
    """Labels for which top-1 and top-5 accuracy differ: the first image's best class, the second one's third best."""
    order = np.argsort(-logits, axis=1)
    return np.array([order[0, 0], order[1, 2]])


def report(step: str, found: Dict[str, np.ndarray], expected: Dict[str, np.ndarray], folder: Path) -> bool:
    """Compare one step with reprod_log and write its files to ``folder``; True when its log says that it passed.

    Raises InputError when keys or shapes differ, which reprod_log would broadcast or transpose.
    """
    try:
        from reprod_log import ReprodDiffHelper, ReprodLogger
    except ImportError:
        raise InputError('the alignment report needs reprod_log, found none: pip install reprod_log') from None
    helper, log = ReprodDiffHelper(), folder / f'{step}_diff.log'
    infos = []
    for side, arrays in (('paddle', found), ('ref', expected)):
        logger = ReprodLogger()
        for key, array in arrays.items():
            logger.add(key, array)
        logger.save(str(folder / f'{step}_{side}.npy'))
        infos.append(helper.load_info(str(folder / f'{step}_{side}.npy')))
    shapes = [{key: array.shape for key, array in info.items()} for info in infos]
    if shapes[0] != shapes[1]:
        raise InputError(f'{step}: found keys and shapes {shapes[0]}, reference {shapes[1]}')
    helper.compare_info(*infos)
    for values in helper.diff_dict.values():
        for method, value in values.items():
            if not np.isfinite(value):  # reprod_log accepts NaN
                values[method] = float('inf')
    with _root_logger():
        helper.report(diff_method=['mean', 'max'], diff_threshold=THRESHOLDS[step], path=str(log))
    return log.read_text(encoding='utf-8').rstrip().endswith('diff check passed')  # report() itself returns nothing


@contextlib.contextmanager
def _root_logger() -> Iterator[None]:
    """Give reprod_log a root logger without handlers; restore handlers and level afterwards.

    reprod_log adds handlers at each report and removes none; Paddle's handler would print each line again.
    """
    root = logging.getLogger()
    handlers, level, raises = root.handlers, root.level, logging.raiseExceptions
    root.handlers = []
    logging.raiseExceptions = False  # or a full disk is a traceback for each line; the log is read afterwards
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers = handlers
        root.setLevel(level)
        logging.raiseExceptions = raises


def _filled(model: Any, perturb: str) -> Any:
    goldens.fill(model)
    model.eval()
    if perturb:
        parameters = dict(model.named_parameters())
        if perturb not in parameters:
            raise InputError(f'-perturb {perturb}: {MODEL} has no such parameter')
        array = parameters[perturb].numpy()
        array.flat[0] += 1e-3
        parameters[perturb].set_value(array)
    return model


def _by_name(values: Dict[str, Any]) -> np.ndarray:
    return np.array([values[name] for name in sorted(values)])


def _relative_norms(norms: Dict[str, float]) -> np.ndarray:
    """Gradient norms relative to the total norm: they span seven orders of magnitude."""
    array = _by_name(norms)
    return array / np.linalg.norm(array)


def _arrays(steps: Dict[str, Dict[str, Any]]) -> Steps:
    return {step: {key: np.asarray(value, np.float64) for key, value in values.items()}
            for step, values in steps.items()}


def _accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Fraction of rows in which fewer than ``k`` logits exceed the label's."""
    label_logits = np.take_along_axis(logits, labels[:, None], 1)
    return float(((logits > label_logits).sum(1) < k).mean())


def _cross_entropy(logits: np.ndarray, smoothing: float) -> float:
    """Mean cross entropy to TRAINING_LABELS with ``smoothing`` spread over all classes."""
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    label_log_probs = np.take_along_axis(log_probs, np.array(goldens.TRAINING_LABELS)[:, None], 1)
    return float(-((1 - smoothing) * label_log_probs.mean() + smoothing * log_probs.mean()))


def align(folder: Path, output: Path, perturb: str = '') -> Dict[str, bool]:
    """Run the five steps against the golden files of ``folder`` into ``output``: {step: passed}."""
    output.mkdir(parents=True, exist_ok=True)
    expected = reference(folder)
    found = computed(metric_labels(expected['forward']['logits']), perturb)
    return {step: report(step, found[step], expected[step], output) for step in THRESHOLDS}


def _live(python: str, folder: Path) -> None:
    """Compute golden files with PyTorch and timm in the interpreter ``python``."""
    command = [python, str(Path(__file__).with_name('align_reference.py')), str(folder)]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise InputError(f'-peer_python {python}: {error.strerror}') from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['no message'])[-1]
        raise InputError(f'-live: {python} cannot compute the reference ({last}); it needs: pip install torch timm')


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.flag('goldens', type=Path, default=goldens.FOLDER, metavar='FOLDER', help='default: tests/goldens')
    parser.switch('live', help='compute the reference now, by PyTorch and timm')
    parser.flag('peer_python', default=sys.executable, help='interpreter that has PyTorch and timm', metavar='PYTHON')
    parser.flag('output_dir', type=Path, default=Path('output/align'), metavar='FOLDER', help='default: output/align')
    parser.flag('perturb', default='', metavar='PARAMETER', help='change one value of it, to see the steps fail')
    options = parser.parse_args(arguments)
    runtime.prepare()
    with tempfile.TemporaryDirectory() as folder:
        if options.live:
            _live(options.peer_python, Path(folder))
        passed = align(Path(folder) if options.live else options.goldens, options.output_dir, options.perturb)
    print(', '.join(f'{step}: {"passed" if ok else "FAILED"}' for step, ok in passed.items())
          + f'; logs: {options.output_dir}')
    return 0 if all(passed.values()) else 1


if __name__ == '__main__':
    errors.run(main)
