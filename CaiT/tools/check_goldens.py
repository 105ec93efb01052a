# SPDX-License-Identifier: Apache-2.0
"""Compare models with the golden values of the reference and print a table.

    python -m CaiT.tools.check_goldens                          all golden files of tests/goldens
    python -m CaiT.tools.check_goldens -models cait_m48_448 …   only these
    python -m CaiT.tools.check_goldens -goldens FOLDER          another folder (see CaiT/tools/goldens.py)

For each model of the folder's MANIFEST.json: parameter names and shapes, parameter count and MACs must be equal; if
there is a golden file, float32 logits (and intermediates) must be within 1e-5 of max|value| of the float64 reference.
Then the AdamW steps of the training golden are compared. The exit status is 1 when anything differs. The largest model
needs 2.4 GB of memory.
"""
from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.tools import goldens, model_table

# The reference's own float32 deviates by 3e-7 to 1.2e-6 of max|logit|; a wrong LayerNorm eps (1e-5) gives 3.7e-4, a
# tanh GELU 1.6e-4.
TOLERANCE = 1e-5
# AdamW's first steps have the size of the learning rate whatever the gradient's, so rounding errors grow with each
# step: the reference's own float32 deviates by 4e-6 in logits after five, by 6e-6 in gradient norms and by 2.7e-5 in
# parameter norms.
TRAINING_TOLERANCES = {'losses': 3e-5, 'logits': 3e-5, 'gradients': 1e-5, 'gradient norms': 3e-5,
                       'parameter norms': 3e-5}


class Row(NamedTuple):
    """The result of one model: its counts, the first difference from the reference ('': none), and the largest relative
    error of each compared output (empty without a golden file)."""
    name: str
    parameters: int
    macs: int
    difference: str
    errors: Dict[str, float]
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.difference and all(error <= TOLERANCE for error in self.errors.values())


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a fraction of max|expected|; infinite where shapes differ or a value is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float('inf')
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def counts(name: str, folder: Path) -> Tuple[int, int, str]:
    """Parameters and MACs of ``name``, and the first difference from the reference ('': none)."""
    import paddle

    from CaiT.models.registry import create_model
    entry = goldens.manifest(folder)['models'][name]
    expected, classes = dict(goldens.names(folder, name)), _classes(folder, name)
    with paddle.LazyGuard():  # shapes only
        first = first_difference(expected, goldens.public_shapes(create_model(name, num_classes=classes)))
    parameters, macs = model_table.parameters(name, num_classes=classes), model_table.macs(name, classes)
    for title, found, reference in (('parameters', parameters, entry['params']), ('MACs', macs, entry['macs'])):
        first = first or (f'{title}: {found}, reference {reference}' if found != reference else '')
    return parameters, macs['total'], first


def first_difference(expected: Dict[str, tuple], found: Dict[str, tuple]) -> str:
    """The first parameter that is missing, unexpected or of another shape; '' when there is none."""
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            return f'{name}: {found.get(name)}, reference {expected.get(name)}'
    return ''


def compare(name: str, folder: Path) -> Row:
    """Build ``name`` with the generated weights and compare it with its golden values."""
    from CaiT.models.registry import create_model
    started, differences = time.monotonic(), {}
    parameters, macs, first = counts(name, folder)
    if (Path(folder) / f'{name}.npz').is_file() and not first:
        model = create_model(name, num_classes=_classes(folder, name))
        goldens.fill(model)
        differences = outputs(model, goldens.arrays(folder, name))
    return Row(name, parameters, macs, first, differences, time.monotonic() - started)


def _classes(folder: Path, name: str) -> int:
    """Number of classes of a golden file; 0 for one of features, without a head."""
    return 1000 if 'head.weight' in dict(goldens.names(folder, name)) else 0


def outputs(model: Any, golden: Dict[str, np.ndarray]) -> Dict[str, float]:
    """Relative errors of what the golden file holds, for a model with the generated weights; logits come first."""
    import paddle
    model.eval()
    side = int(round(model.patch_embed.num_patches ** 0.5)) * model.patch_embed.proj.weight.shape[-1]
    images = paddle.to_tensor(goldens.noise((2, 3, side, side), 0))
    with paddle.no_grad():
        found = {'logits_f64': model(images)}
        if 'after_pos_embed' in golden:
            inner = model.forward_intermediates(images)
            found['after_pos_embed'] = model.patch_embed(images) + model.pos_embed
            found.update((f'after_block_{i}', tokens) for i, tokens in enumerate(inner.features[:len(model.blocks)]))
            found.update((f'cls_after_token_block_{i}', token)
                         for i, token in enumerate(inner.features[len(model.blocks):]))
            found['pre_logits'] = model.forward_head(inner.tokens, pre_logits=True)
    stride = int(golden.get('token_stride', 1))  # a small file has every n-th patch token only
    return {key.replace('_f64', ''): relative(_strided(found[key].numpy(), stride), golden[key])
            for key in found if key in golden}


def training(folder: Path) -> Dict[str, float]:
    """Relative errors of the golden AdamW steps, keys as in TRAINING_TOLERANCES.

    Losses are compared relative to the largest logit. Parameters whose gradient is mathematically zero, where AdamW
    amplifies rounding noise, are excluded: those listed in the manifest, and for parameter norms the qkv biases, whose
    key part is one of them.
    """
    from CaiT.models.registry import create_model
    golden, plan = goldens.arrays(folder, goldens.TRAINING), goldens.manifest(folder)['train']
    model = create_model('cait_xxs24_224', num_classes=10)
    goldens.fill(model)
    steps = list(train(model, len(golden['f64_losses'])))
    order = plan['param_order']
    compared = [i for i, name in enumerate(order) if name not in plan['zero_grad_params']]
    without_qkv_bias = [i for i in compared if not order[i].endswith('qkv.bias')]
    scale = np.abs(golden['f64_logits5']).max()
    found = {'losses': np.abs([step['loss'] for step in steps]
                              - np.append(golden['f64_losses'], golden['f64_loss_after5'])).max() / scale,
             'logits': max(relative(steps[0]['logits'], golden['f64_logits0']),
                           relative(steps[-1]['logits'], golden['f64_logits5'])),
             'gradients': max(relative(steps[0]['gradients'][key[len('f64_grad:'):]], golden[key])
                              for key in golden if key.startswith('f64_grad:'))}
    norms = {name: np.linalg.norm(array.astype(np.float64)) for name, array in steps[0]['gradients'].items()}
    found['gradient norms'] = _worst([norms[name] for name in order], golden['f64_gnorm'], compared)
    found['parameter norms'] = max(
        _worst([steps[count]['norms'][name] for name in order], golden[f'f64_pnorm_after{count}'], without_qkv_bias)
        for count in (1, len(steps) - 1))
    return {key: float(value) for key, value in found.items()}


def train(model: Any, updates: int) -> Any:
    """Yield, before each of ``updates`` AdamW steps on the golden batch and once after the last, the step's loss,
    logits, gradients in PyTorch's layout, and norms of the parameters. No dropout, no clipping, weight decay on
    all parameters."""
    import paddle

    from CaiT.training.losses import build_loss
    model.eval()
    loss_of = build_loss('CE', 0.0)
    optimizer = paddle.optimizer.AdamW(1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.05,
                                       parameters=model.parameters())
    images = paddle.to_tensor(goldens.noise((4, 3, 224, 224), 1))
    labels = paddle.to_tensor(goldens.TRAINING_LABELS)
    for update in range(updates + 1):
        logits = model(images)
        loss = loss_of(logits, labels)
        loss.backward()
        yield {'loss': loss.item(), 'logits': logits.numpy(),
               'gradients': {name: p.grad.numpy().T if p.ndim == 2 else p.grad.numpy()
                             for name, p in model.named_parameters()},
               'norms': {name: np.linalg.norm(p.numpy().astype(np.float64)) for name, p in model.named_parameters()}}
        if update < updates:
            optimizer.step()
            optimizer.clear_grad()


def _strided(array: np.ndarray, stride: int) -> np.ndarray:
    return array[:, ::stride] if array.ndim == 3 and array.shape[1] > 1 else array


def _worst(found: List[float], expected: np.ndarray, indices: List[int]) -> float:
    return float((np.abs(np.array(found) - expected)[indices] / expected[indices]).max())


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.flag('goldens', type=Path, default=goldens.FOLDER, metavar='FOLDER', help='default: tests/goldens')
    parser.flag('models', nargs='+', default=[], metavar='NAME', help='default: all of MANIFEST.json')
    options = parser.parse_args(arguments)
    runtime.prepare()
    known = goldens.manifest(options.goldens)['models']
    for name in options.models:
        if name not in known:
            raise InputError(f'-models {name}: has no entry in {options.goldens}/MANIFEST.json')
    failed = 0
    print(f'{"model":<32} {"parameters":>11} {"MACs":>15} {"logits":>8} {"inside":>8} {"s":>5}  verdict')
    for name in options.models or sorted(known, key=lambda name: known[name]['macs']['total']):
        row = compare(name, options.goldens)
        failed += not row.passed
        logits, *inside = row.errors.values() or [None]
        print(f'{name:<32} {row.parameters:>11} {row.macs:>15} {_text(logits):>8} '
              f'{_text(max(inside, default=None)):>8} {row.seconds:>5.1f}  '
              f'{"ok" if row.passed else row.difference or f"outside {TOLERANCE:g}"}', flush=True)
        gc.collect()
    if not options.models:
        for key, error in training(options.goldens).items():
            failed += error > TRAINING_TOLERANCES[key]
            print(f'training steps, {key:<16} {error:.1e}  '
                  f'{"ok" if error <= TRAINING_TOLERANCES[key] else f"outside {TRAINING_TOLERANCES[key]:g}"}')
    print('all equal' if not failed else f'{failed} failed')
    return 1 if failed else 0


def _text(error: Optional[float]) -> str:
    return '–' if error is None else f'{error:.1e}'


if __name__ == '__main__':
    errors.run(main)
