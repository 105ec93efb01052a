# SPDX-License-Identifier: Apache-2.0
"""The same training twice, here and in PyTorch (timm): same model, first weights, batches and rates; two loss curves.

python benchmarks/loss_curves.py -data_path dataset/imagenette -peer_python ~/torch/bin/python \\
    -output benchmarks/results/training/loss_curves

CaiT-XXS-24 with a head for the dataset's classes, at 64 pixels so that two CPU cores do it in minutes; this project's
training transform with RandAugment, erasing, mixup and CutMix; AdamW with weight decay, warm-up and cosine. Everything
random outside the data is off: drop path would draw from two different generators. Writes losses.json and losses.png.
``-peer_python`` is an interpreter that has torch and timm; this one has Paddle.
"""
from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

sys.path[0] = str(Path(__file__).resolve().parents[1])

MODEL = 'cait_xxs24_224'
WEIGHT_DECAY = 0.05


def timm_side(folder: Path) -> Dict[str, Any]:
    """The losses of timm's model on the batches of ``folder``; needs nothing of this project."""
    import timm
    import torch
    from timm.optim import param_groups_weight_decay

    torch.set_num_threads(int((folder / 'threads').read_text()))
    given = np.load(folder / 'weights.npz')
    batches = np.load(folder / 'batches.npz')
    model = timm.create_model(MODEL, img_size=batches['images'].shape[-1], num_classes=batches['targets'].shape[-1],
                              drop_path_rate=0.0)
    model.load_state_dict({name: torch.from_numpy(given[name]) for name in given.files}, strict=True)
    model.train()
    groups = param_groups_weight_decay(model, WEIGHT_DECAY, model.no_weight_decay())
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    losses, started = [], time.time()
    for images, targets, rate in zip(batches['images'], batches['targets'], batches['rates']):
        for group in optimizer.param_groups:
            group['lr'] = float(rate)
        logits = model(torch.from_numpy(images))
        loss = -(torch.from_numpy(targets) * logits.log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {'version': f'torch {torch.__version__}, timm {timm.__version__}', 'losses': losses,
            'seconds': time.time() - started}


def our_side(folder: Path, config: Any, updates: int) -> Dict[str, Any]:
    """Write weights, batches and rates for the other side, and train here on them."""
    import paddle

    from CaiT.config import build_model
    from CaiT.training.data import build_train_loader
    from CaiT.training.losses import build_loss
    from CaiT.training.optim import build_optimizer, build_schedule
    from CaiT.weights.translate import is_linear

    paddle.seed(config.SEED)
    model = build_model(config)
    arrays = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    np.savez(folder / 'weights.npz', **{name: array.T if is_linear(name, array) else array
                                        for name, array in arrays.items()})
    loader, sampler = build_train_loader(config)
    schedule, _ = build_schedule(config, config.DATA.BATCH_SIZE)
    images: List[np.ndarray] = []
    targets: List[np.ndarray] = []
    epoch = 0
    while len(images) < updates:
        epoch += 1
        sampler.set_epoch(epoch)
        for batch in loader:
            images.append(batch[0].numpy())
            targets.append(batch[1].numpy())
    images, targets = images[:updates], targets[:updates]
    rates = [schedule.at(update * config.TRAIN.EPOCHS / updates) for update in range(updates)]
    np.savez(folder / 'batches.npz', images=np.stack(images), targets=np.stack(targets), rates=rates)

    optimizer, _ = build_optimizer(model, config)
    loss_of = build_loss('CE', 0.0)
    model.train()
    losses, started = [], time.time()
    for x, y, rate in zip(images, targets, rates):
        loss = loss_of(model(paddle.to_tensor(x)), paddle.to_tensor(y))
        loss.backward()
        optimizer.set_lr(rate)
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    return {'version': f'paddle {paddle.__version__}', 'losses': losses, 'seconds': time.time() - started}


def draw(here: Dict[str, Any], there: Dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(10, 4), layout='constrained')
    FigureCanvasAgg(figure)
    curves, apart = figure.subplots(1, 2)
    curves.plot(there['losses'], label=there['version'], linewidth=3, alpha=0.4)
    curves.plot(here['losses'], label=here['version'], linewidth=1)
    curves.set(title=f'{MODEL}: training loss', xlabel='update')
    curves.legend()
    apart.semilogy(np.maximum(np.abs(np.subtract(here['losses'], there['losses'])), 1e-9))
    apart.set(title='difference', xlabel='update')
    for axes in (curves, apart):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def main() -> None:
    from CaiT import runtime
    from CaiT.cli import Parser
    from CaiT.files import write_json
    parser = Parser(__doc__)
    parser.flag('data_path', required=True, help='a dataset in ImageNet layout')
    parser.flag('num_classes', type=int, default=10)
    parser.flag('peer_python', required=True, help='an interpreter with torch and timm')
    parser.flag('output', required=True, help='folder of the result')
    parser.flag('updates', type=int, default=200)
    parser.flag('batch_size', type=int, default=16)
    parser.flag('seed', type=int, default=0)
    flags = parser.parse_args()
    runtime.prepare()
    from CaiT.config import get_config
    config = get_config(opts=[
        'MODEL.NAME', MODEL, 'DATA.IMAGE_SIZE', '64', 'MODEL.DROP_PATH_RATE', '0', 'DATA.NUM_WORKERS', '0',
        'AUG.AUTO_AUGMENT', 'rand-m9-mstd0.5-inc1', 'AUG.ERASE_PROB', '0.25', 'AUG.MIXUP', '0.8', 'AUG.CUTMIX', '1.0',
        'TRAIN.LABEL_SMOOTHING', '0.1', 'TRAIN.EPOCHS', '10', 'TRAIN.WARMUP_EPOCHS', '1', 'TRAIN.BASE_LR', '5e-4',
        'TRAIN.LR_BATCH', '0', 'TRAIN.WEIGHT_DECAY', str(WEIGHT_DECAY)], data_path=flags.data_path,
        num_classes=flags.num_classes, batch_size=flags.batch_size, seed=flags.seed)
    output = Path(flags.output)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        here = our_side(Path(folder), config, flags.updates)
        (Path(folder) / 'threads').write_text(str(runtime.cores()))
        done = subprocess.run([flags.peer_python, __file__, '--timm', folder], stdout=subprocess.PIPE, text=True,
                              check=True)
        there = json.loads(done.stdout.splitlines()[-1])
    apart = np.abs(np.subtract(here['losses'], there['losses']))
    result = {'model': MODEL, 'updates': flags.updates, 'batch_size': flags.batch_size, 'seed': flags.seed,
              'largest_difference': float(apart.max()), 'at_update': int(apart.argmax()),
              'mean_difference': float(apart.mean()), 'first_difference': float(apart[0]), 'here': here,
              'there': there}
    write_json(output / 'losses.json', result)
    draw(here, there, output / 'losses.png')
    print(f'{flags.updates} updates, losses differ by {apart.max():.2e} at most (update {apart.argmax()}), '
          f'{apart.mean():.2e} on average, {apart[0]:.2e} at the first; {output}/losses.png')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--timm']:
        print(json.dumps(timm_side(Path(sys.argv[2]))))
    else:
        from CaiT.errors import run
        run(main)
