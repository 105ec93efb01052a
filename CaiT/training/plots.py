# SPDX-License-Identifier: Apache-2.0
"""Plots of a training run: loss and accuracy over epochs."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

from CaiT.files import atomic_write


def plot_curves(records: List[Dict[str, Any]], path: Path) -> str:
    """Plot the epoch records of log.jsonl into a PNG; returns a log line with its path, or why there is none."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # optional; the Agg canvas needs no display
        from matplotlib.figure import Figure
    except ImportError:
        return 'curves: not drawn, matplotlib is not installed (pip install matplotlib)'
    figure = Figure(figsize=(10, 4), layout='constrained')
    FigureCanvasAgg(figure)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, title, names in ((loss_axes, 'loss', ('train_loss', 'val_loss', 'ema_loss')),
                               (accuracy_axes, 'top-1', ('train_acc', 'val_top1', 'ema_top1'))):
        for name in names:
            points = [(record['epoch'], record[name]) for record in records if name in record]
            if points:
                axes.plot(*zip(*points), marker='.', label=name)
        axes.set(title=title, xlabel='epoch')
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_write(path, 'wb') as file:
        figure.savefig(file, format='png', dpi=100)
    return f'curves: {path}'
