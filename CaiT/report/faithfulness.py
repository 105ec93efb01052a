# SPDX-License-Identifier: Apache-2.0
"""Whether a map names the patches that a decision rests on: deletion and insertion curves (Petsiuk et al. 2018, RISE).

Deletion: the patches are replaced by the mean color, the most important first; a good map makes the probability of the
class fall fast (small area under the curve). Insertion: they replace those of a blurred image; a good map makes it rise
fast (large area). A map is worth something only where it beats a random order and the distance from the center.
"""
from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import cv2
import numpy as np
import paddle
from paddle import nn

from CaiT.files import atomic_write, write_json
from CaiT.report.page import Html, figure, grid, note, page, section, table
from CaiT.report.svg import COLORS, Series, legend, line_chart

RANDOM_ORDERS = 3  # per image, averaged
BATCH = 64         # images per forward pass
CONTROLS = {'random': ('#8c959f', '2 3'), 'center': ('#57606a', '6 3')}


class DeletionInsertion(NamedTuple):
    """Probability of the class [images, steps + 1] as 0, 1/steps, … of the patches are deleted or inserted."""
    deletion: np.ndarray
    insertion: np.ndarray


def order_of(values: np.ndarray) -> np.ndarray:
    """Patches [N], the highest value first; ties in the patches' own order."""
    return np.argsort(-np.ravel(values), kind='stable')


def center_map(side: int) -> np.ndarray:
    """[side, side], highest in the middle."""
    away = np.arange(side) - (side - 1) / 2
    return -np.hypot(away[:, None], away[None])


def steps_between(first: np.ndarray, last: np.ndarray, order: np.ndarray, side: int, steps: int) -> np.ndarray:
    """Images [steps + 1, 3, S, S] from ``first`` to ``last``, patches replaced in ``order``."""
    patch = first.shape[-1] // side
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    images = []
    for step in range(steps + 1):
        done = (rank < round(step / steps * len(order))).reshape(side, side)
        mask = done.repeat(patch, 0).repeat(patch, 1)
        images.append(np.where(mask, last, first))
    return np.stack(images).astype(np.float32)


def measure(model: nn.Layer, image: np.ndarray, class_id: int, maps: Dict[str, np.ndarray], steps: int = 14,
            seed: int = 0, multi_label: bool = False) -> Dict[str, DeletionInsertion]:
    """The curves, [1, steps + 1] each, of ``maps`` {name: [side, side]} and of 'random' and 'center', for one
    normalized image [3, S, S]; ``multi_label`` as of ``attention.explain``."""
    side = len(next(iter(maps.values())))
    rng = np.random.Generator(np.random.PCG64(seed))
    orders = {name: [order_of(values)] for name, values in {**maps, 'center': center_map(side)}.items()}
    orders['random'] = [rng.permutation(side * side) for _ in range(RANDOM_ORDERS)]
    sigma = image.shape[-1] / 12
    blurred = cv2.GaussianBlur(np.ascontiguousarray(image.transpose(1, 2, 0)), (0, 0), sigma).transpose(2, 0, 1)
    found = {}
    for name, several in orders.items():
        curves = [[_probs(model, steps_between(first, last, order, side, steps), class_id, multi_label)
                   for order in several] for first, last in ((image, np.zeros_like(image)), (blurred, image))]
        found[name] = DeletionInsertion(*(np.mean(one, axis=0)[None] for one in curves))
    return found


@paddle.no_grad()
def _probs(model: nn.Layer, images: np.ndarray, class_id: int, multi_label: bool) -> np.ndarray:
    model.eval()
    activation = nn.functional.sigmoid if multi_label else nn.functional.softmax
    parts = [activation(model(paddle.to_tensor(images[i:i + BATCH])).astype('float32'))[:, class_id].numpy()
             for i in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def joined(images: List[Dict[str, DeletionInsertion]]) -> Dict[str, DeletionInsertion]:
    """The curves of several images below each other."""
    return {name: DeletionInsertion(*(np.concatenate([one[name][part] for one in images]) for part in range(2)))
            for name in images[0]}


def area(curves: np.ndarray) -> np.ndarray:
    """Area under each curve [images, steps + 1] by the trapezoid rule, on an axis from 0 to 1."""
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2


def summarize(found: Dict[str, DeletionInsertion]) -> Dict[str, Any]:
    """{map: mean areas and the paired difference to 'random' with its standard error}."""
    summary = {}
    for name, curves in found.items():
        values: Dict[str, Any] = {'images': len(curves.deletion)}
        for part in ('deletion', 'insertion'):
            areas = area(getattr(curves, part))
            apart = areas - area(getattr(found['random'], part))
            values[part] = float(areas.mean())
            values[f'{part}_minus_random'] = float(apart.mean())
            error = float(apart.std(ddof=1) / math.sqrt(len(apart))) if len(apart) > 1 else None
            values[f'{part}_standard_error'] = error
        summary[name] = values
    return summary


def write(folder: Path, found: Dict[str, DeletionInsertion], facts: str) -> Dict[str, Any]:
    """faithfulness.json and faithfulness.html in ``folder``; returns what the first holds."""
    summary = summarize(found)
    steps = found['random'].deletion.shape[1] - 1
    figures = []
    for part, better in (('deletion', 'lower is better'), ('insertion', 'higher is better')):
        series = []
        for i, (name, curves) in enumerate(found.items()):
            color, dash = CONTROLS.get(name, (COLORS[i], ''))
            points = list(zip((np.arange(steps + 1) / steps).tolist(), getattr(curves, part).mean(0).tolist()))
            series.append(Series(name, points, color, dash))
        chart = line_chart(series, f'fraction of the patches {"deleted" if part == "deletion" else "inserted"}',
                           'probability of the class', f'{part} curves', y_range=(0, 1), x_range=(0, 1))
        figures.append(figure(f'{part.capitalize()} ({better})', chart, Html(legend(series))))
    rows = [(name, f'{one["deletion"]:.3f}', _difference(name, one, 'deletion'), f'{one["insertion"]:.3f}',
             _difference(name, one, 'insertion')) for name, one in summary.items()]
    body = [section('Curves', note(f'Means over {summary["random"]["images"]} images.'), grid(figures)),
            section('Areas under the curves', table(
                ('map', 'deletion', 'minus random', 'insertion', 'minus random'), rows),
                    note('Differences are paired by image, ± one standard error.'))]
    write_json(folder / 'faithfulness.json', summary)
    with atomic_write(folder / 'faithfulness.html') as file:
        file.write(page('Faithfulness of the attention maps', facts, body))
    return summary


def _difference(name: str, values: Dict[str, Any], part: str) -> str:
    if name == 'random':
        return '–'
    error = values[f'{part}_standard_error']
    shown = round(values[f'{part}_minus_random'], 3) + 0.0  # + 0.0: not -0.000
    return f'{shown:+.3f}' + ('' if error is None else f' ± {error:.3f}')
