# SPDX-License-Identifier: Apache-2.0
"""The same training with Paddle and with PyTorch (timm): same model, initial weights, batches and learning rates.

python benchmarks/loss_curves.py -data_path dataset/imagenette -peer_python ~/torch/bin/python \\
    -output benchmarks/results/training/loss_curves

CaiT-XXS-24 with a head for the dataset's classes, at 64 pixels so that it takes minutes on two CPU cores; this
project's training transform with RandAugment, erasing, mixup and CutMix; AdamW with weight decay, warm-up and cosine.
All randomness outside the data is disabled: drop path would use two different generators. Writes losses.json and
losses.png. ``-peer_python`` is an interpreter with torch and timm; this one has Paddle.
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
    """The losses of timm's model on the batches of ``folder``; does not import this project."""
    import timm
    import torch
    from timm.optim import param_groups_weight_decay

    torch.set_num_threads(int((folder / 'threads').read_text()))
    weights = np.load(folder / 'weights.npz')
    batches = np.load(folder / 'batches.npz')
    model = timm.create_model(MODEL, img_size=batches['images'].shape[-1], num_classes=batches['targets'].shape[-1],
                              drop_path_rate=0.0)
    model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files}, strict=True)
    model.train()
    groups = param_groups_weight_decay(model, WEIGHT_DECAY, model.no_weight_decay())
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    losses, started = [], time.time()
    for images, targets, lr in zip(batches['images'], batches['targets'], batches['lrs']):
        for group in optimizer.param_groups:
            group['lr'] = float(lr)
        logits = model(torch.from_numpy(images))
        loss = -(torch.from_numpy(targets) * logits.log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {'version': f'torch {torch.__version__}, timm {timm.__version__}', 'losses': losses,
            'seconds': time.time() - started}


def own_side(folder: Path, config: Any, updates: int) -> Dict[str, Any]:
    """Write weights, batches and learning rates for the other side, and train on them with Paddle."""
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
    lrs = [schedule.at(update * config.TRAIN.EPOCHS / updates) for update in range(updates)]
    np.savez(folder / 'batches.npz', images=np.stack(images), targets=np.stack(targets), lrs=lrs)

    optimizer, _ = build_optimizer(model, config)
    loss_of = build_loss('CE', 0.0)
    model.train()
    losses, started = [], time.time()
    for x, y, lr in zip(images, targets, lrs):
        loss = loss_of(model(paddle.to_tensor(x)), paddle.to_tensor(y))
        loss.backward()
        optimizer.set_lr(lr)
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    return {'version': f'paddle {paddle.__version__}', 'losses': losses, 'seconds': time.time() - started}


def plot(own: Dict[str, Any], peer: Dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(10, 4), layout='constrained')
    FigureCanvasAgg(figure)
    loss_axes, difference_axes = figure.subplots(1, 2)
    loss_axes.plot(peer['losses'], label=peer['version'], linewidth=3, alpha=0.4)
    loss_axes.plot(own['losses'], label=own['version'], linewidth=1)
    loss_axes.set(title=f'{MODEL}: training loss', xlabel='update')
    loss_axes.legend()
    difference_axes.semilogy(np.maximum(np.abs(np.subtract(own['losses'], peer['losses'])), 1e-9))
    difference_axes.set(title='difference', xlabel='update')
    for axes in (loss_axes, difference_axes):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def main() -> None:
    from CaiT import runtime
    from CaiT.cli import Parser
    from CaiT.files import write_json
    parser = Parser(__doc__)
    parser.flag('data_path', required=True, help='a dataset in ImageNet layout')
    parser.flag('num_classes', type=int, default=10, help='classes (default 10)')
    parser.flag('peer_python', required=True, help='an interpreter with torch and timm')
    parser.flag('output', required=True, help='folder of the result')
    parser.flag('updates', type=int, default=200, help='updates of the optimizer (default 200)')
    parser.flag('batch_size', type=int, default=16, help='images per update (default 16)')
    parser.flag('seed', type=int, default=0, help='seed of weights and images (default 0)')
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
        own = own_side(Path(folder), config, flags.updates)
        (Path(folder) / 'threads').write_text(str(runtime.cores()))
        done = subprocess.run([flags.peer_python, __file__, '--timm', folder], stdout=subprocess.PIPE, text=True,
                              check=True)
        peer = json.loads(done.stdout.splitlines()[-1])
    differences = np.abs(np.subtract(own['losses'], peer['losses']))
    result = {'model': MODEL, 'updates': flags.updates, 'batch_size': flags.batch_size, 'seed': flags.seed,
              'largest_difference': float(differences.max()), 'at_update': int(differences.argmax()),
              'mean_difference': float(differences.mean()), 'first_difference': float(differences[0]), 'here': own,
              'there': peer}
    write_json(output / 'losses.json', result)
    plot(own, peer, output / 'losses.png')
    print(f'{flags.updates} updates, losses differ by {differences.max():.2e} at most (update {differences.argmax()}), '
          f'{differences.mean():.2e} on average, {differences[0]:.2e} at the first; {output}/losses.png')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--timm']:
        print(json.dumps(timm_side(Path(sys.argv[2]))))
    else:
        from CaiT.errors import run
        run(main)
