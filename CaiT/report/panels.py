# SPDX-License-Identifier: Apache-2.0
"""What is drawn of training runs, for the page and for curves.png alike: panels of labeled series."""
from __future__ import annotations

import colorsys
import math
from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple

from CaiT.files import atomic_write
from CaiT.report.runs import Run
from CaiT.report.svg import COLORS, Series

POINTS = 600  # of a series, at most
SINGLE = {'train': COLORS[1], 'val': COLORS[0], 'ema': COLORS[2], 'data': COLORS[1]}  # of one run, by kind of value
LOSS = (('train_loss', 'train', '5 3'), ('val_loss', 'validation', ''), ('ema_loss', 'validation, EMA', '2 2'))
TOP1 = (('train_acc', 'train', '5 3'), ('val_top1', 'validation', ''), ('ema_top1', 'validation, EMA', '2 2'))
MAP = (('val_map', 'validation', ''), ('ema_map', 'validation, EMA', '2 2'))
TOP5 = (('val_top5', 'validation', ''), ('ema_top5', 'validation, EMA', '2 2'))
TIMES = (('batch_time', 'whole micro-batch', ''), ('data_time', 'waiting for data', '5 3'))


class Panel(NamedTuple):
    """One chart over epochs; ``percent``: values are fractions, drawn as percentages."""
    title: str
    unit: str
    series: List[Series]
    percent: bool = False
    note: str = ''


def panels(runs: Sequence[Run]) -> List[Panel]:
    """The panels that have values, in the order they are read."""
    mixed = [run.name for run in runs if run.mixed]
    warning = ''
    if mixed:
        warning = ('Train accuracy is on mixed images (mixup or CutMix), in which no class is wholly right: it cannot '
                   'be compared with validation' + ('.' if len(mixed) == len(runs) else f' ({", ".join(mixed)}).'))
    found = [
        Panel('Loss', 'cross entropy', _series(runs, LOSS), note='Train: mean over the epoch, of the loss that is '
              'optimized, on augmented images. Validation: plain cross entropy.'),
        Panel('Top-1 accuracy', 'accuracy', _series(runs, TOP1), True, warning),
        Panel('Mean average precision', 'mAP', _series(runs, MAP), True),
        Panel('Top-5 accuracy', 'accuracy', _series(runs, TOP5), True),
        Panel('Learning rate', 'learning rate', [_lr(run, color) for run, color in zip(runs, _cycle(len(runs)))],
              note='At each logged step.' if any(run.steps for run in runs) else 'At the last update of each epoch.'),
        Panel('Gradient norm', 'global L2 norm', _series(runs, (('grad_norm', 'gradient norm', ''),)),
              note='Of the last update of each epoch, before clipping.'),
        Panel('Throughput', 'images/s', _series(runs, (('images_per_second', 'images per second', ''),)),
              note='Of one process, in training.'),
        Panel('Time per micro-batch', 'seconds', _series(runs, TIMES)),
        Panel('Memory', 'MiB', _series(runs, (('memory_mib', 'peak memory', ''),)),
              note='Peak of the first process so far: GPU memory, or resident memory on a CPU.'),
    ]
    return [panel for panel in found if any(series.points for series in panel.series)]


def _series(runs: Sequence[Run], keys: Sequence[Tuple[str, str, str]]) -> List[Series]:
    """One run: a color per key. Several runs: a color per run, a dash per key."""
    found = []
    for run, color in zip(runs, _cycle(len(runs))):
        for key, label, dash in keys:
            points = run.series(key)
            points = points if any(math.isfinite(value) for _, value in points) else []
            if key == 'train_acc' and run.mixed:
                label = 'train, on mixed images'
            if points and len(runs) == 1:
                found.append(Series(label, points, SINGLE.get(key.split('_')[0], COLORS[0]),
                                    dash if key.startswith('train') else ''))
            elif points:
                found.append(Series(f'{run.name}: {label}' if len(keys) > 1 else run.name, points, color, dash))
    return found


def _lr(run: Run, color: str) -> Series:
    points = [(step.epoch, step.lr) for step in run.steps] or run.series('lr')
    every = -(-len(points) // POINTS) if points else 1
    return Series(run.name, points[::every], color)


def _cycle(count: int) -> List[str]:
    """A color per run, all different: the palette's, of more runs than it has colors around the color circle."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    shades = [colorsys.hls_to_rgb(index / count, 0.3 + 0.2 * (index % 2), 0.8) for index in range(count)]
    return ['#' + ''.join(f'{round(255 * value):02x}' for value in shade) for shade in shades]


def plot_curves(runs: Sequence[Run], path: Path) -> str:
    """Draw the panels into a PNG; returns a log line with its path, or why there is none."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # optional; the Agg canvas needs no display
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError:
        return 'curves: not drawn, matplotlib is not installed (pip install matplotlib)'
    shown = panels(runs)
    if not shown:
        return 'curves: not drawn, no epoch is finished'
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * lines), layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, shown):
        for series in panel.series:
            style = '-' if not series.dash else (0, tuple(float(part) for part in series.dash.split()))
            axes.plot(*zip(*series.points), linestyle=style, color=series.color, label=series.name,
                      marker='.' if len(series.points) < 3 else '')
        axes.set(title=panel.title, xlabel='epoch', ylabel=panel.unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.3)
        if len(panel.series) > 1:
            axes.legend(fontsize=8)
    for axes in grid[len(shown):]:
        axes.set_axis_off()
    with atomic_write(path, 'wb') as file:
        figure.savefig(file, format='png', dpi=100)
    return f'curves: {path}'
