# SPDX-License-Identifier: Apache-2.0
"""The reference values of the alignment: timm's model on PyTorch. Called by CaiT/tools/align.py -live.

    python CaiT/tools/align_reference.py FOLDER

writes the golden files that the alignment reads (see CaiT/tools/goldens.py): float32 weights and inputs, computed
in float64. Needs torch, timm and NumPy; Paddle is not imported.
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from CaiT.cli import Parser
from CaiT.errors import run
from CaiT.tools import goldens

MODEL = 'cait_xxs24_224'


def build(num_classes: int) -> Any:
    """timm's model with the generated weights, in eval mode and float64."""
    import timm  # here and below: --help needs neither timm nor torch
    import torch
    model = timm.create_model(MODEL, num_classes=num_classes).eval()
    state = {name: torch.from_numpy(goldens.value(name, p.shape)) for name, p in model.state_dict().items()}
    model.load_state_dict(state)
    return model.double()


def tensor(shape: tuple, seed: int) -> Any:
    import torch
    return torch.from_numpy(goldens.noise(shape, seed)).double()


def write_logits(folder: Path) -> None:
    import torch
    model = build(1000)
    with torch.no_grad():
        np.savez(folder / f'{MODEL}.npz', logits_f64=model(tensor((2, 3, 224, 224), 0)).numpy())
    names = [[name, list(p.shape)] for name, p in model.named_parameters()]
    (folder / 'names').mkdir()
    (folder / 'names' / f'{MODEL}.json').write_text(json.dumps({'params': names}), encoding='utf-8')


def write_training(folder: Path, updates: int = 5) -> None:
    """Five AdamW updates without dropout or clipping, weight decay on everything."""
    import torch
    model = build(10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    images, labels = tensor((4, 3, 224, 224), 1), torch.tensor(goldens.TRAINING_LABELS)
    losses, logits, norms = [], [], []
    for update in range(updates + 1):
        out = model(images)
        loss = torch.nn.functional.cross_entropy(out, labels)
        losses.append(loss.item())
        logits.append(out.detach().numpy())
        if update == updates:
            break
        optimizer.zero_grad()
        loss.backward()
        norms.append([p.grad.norm().item() for p in model.parameters()])
        optimizer.step()
    np.savez(folder / f'{goldens.TRAINING}.npz', f64_losses=losses[:-1], f64_loss_after5=losses[-1],
             f64_logits0=logits[0], f64_logits5=logits[-1], f64_gnorm=norms[0])
    order: Any = {'train': {'param_order': [name for name, _ in model.named_parameters()]}}
    (folder / 'MANIFEST.json').write_text(json.dumps(order), encoding='utf-8')


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument('folder', type=Path, help='an empty folder, which gets the files')
    folder = parser.parse_args().folder
    write_logits(folder)
    write_training(folder)


if __name__ == '__main__':
    run(main)
