# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation of images with any number of classes: report.html, report.json, per_class.csv,
report_predictions.csv and thresholds.txt."""
from __future__ import annotations

import dataclasses
import functools
from html import escape
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence

import numpy as np
from PIL import Image

from CaiT.data.prediction_rows import BEST, PRESENT, TOP5, best_values, present_ids, top5_values
from CaiT.data.text import csv_line
from CaiT.files import atomic_write, write_json
from CaiT.report import metrics
from CaiT.report.evaluation_page import image_tag, path_tail
from CaiT.report.names import titles
from CaiT.report.page import Html, counted, heading, isolated, note, page, percent, section, table, tiles
from CaiT.report.predictions import FILE_NAME
from CaiT.training.average_precision import average_precision, best_thresholds

LEFT_OUT = ("top-1 and top-5, confusion, calibration, rejection and McNemar's test: they are of the one class of an "
            "image")
ROWS, CARDS = 50, 12  # classes in the page's table, thumbnails

ImageAt = Callable[[int], Image.Image]


@dataclasses.dataclass
class Evaluation:
    """N images, K classes; ``thresholds`` are those from which a class is predicted."""
    paths: List[str]
    labels: np.ndarray      # bool [N, K]
    probs: np.ndarray       # float64 [N, K]
    thresholds: np.ndarray  # float64 [K]
    names: Sequence[str]    # K, or none

    @property
    def predicted(self) -> np.ndarray:
        """bool [N, K]"""
        return self.probs >= self.thresholds

    def name(self, class_id: int) -> str:
        return self.names[class_id] if self.names else ''

    def title(self, class_id: int) -> str:
        """What the page calls a class."""
        return self.titles.get(int(class_id), f'class {int(class_id)}')

    @functools.cached_property
    def titles(self) -> Dict[int, str]:
        return titles(dict(enumerate(self.names)))


class PerClass(NamedTuple):
    """Arrays [K]; NaN where a value is not defined."""
    count: np.ndarray
    predicted: np.ndarray
    average_precision: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    threshold: np.ndarray
    best_threshold: np.ndarray
    best_f1: np.ndarray


def per_class(one: Evaluation) -> PerClass:
    count, predicted = one.labels.sum(0), one.predicted.sum(0)
    right = (one.labels & one.predicted).sum(0)
    return PerClass(count, predicted, average_precision(one.labels, one.probs), metrics.ratio(right, predicted),
                    metrics.ratio(right, count), metrics.ratio(2 * right, count + predicted), one.thresholds,
                    *best_thresholds(one.labels, one.probs))


def summarize(one: Evaluation, classes: PerClass, loss: float) -> Dict[str, Any]:
    """The numbers of report.json; macro averages are over the classes that have images, an undefined value counts 0."""
    present, right = classes.count > 0, int((one.labels & one.predicted).sum())
    predicted, labeled = int(one.predicted.sum()), int(one.labels.sum())
    return {
        'multi_label': True, 'images': len(one.labels), 'classes': one.labels.shape[1],
        'classes_with_images': int(present.sum()), 'map': float(classes.average_precision[present].mean()),
        'loss': loss, 'macro_f1': metrics.macro(classes.f1, present),
        'macro_f1_best_thresholds': metrics.macro(classes.best_f1, present),
        'micro_precision': right / predicted if predicted else None, 'micro_recall': right / labeled,
        'micro_f1': 2 * right / (predicted + labeled), 'labels_per_image': labeled / len(one.labels),
        'predicted_per_image': predicted / len(one.labels),
        'exact_match': float((one.labels == one.predicted).all(1).mean()), 'left_out': LEFT_OUT}


def write(folder: Path, one: Evaluation, loss: float, title: str, facts: Mapping[str, Any],
          image_at: ImageAt) -> Dict[str, Any]:
    """Write the report into ``folder``; returns what report.json holds."""
    folder, classes = Path(folder), per_class(one)
    summary = summarize(one, classes, loss)
    summary['facts'] = {key: str(value) for key, value in facts.items()}
    write_json(folder / 'report.json', summary)
    write_per_class(folder / 'per_class.csv', one, classes)
    write_predictions(folder / FILE_NAME, one)
    with atomic_write(folder / 'thresholds.txt') as file:
        file.writelines(f'{value!r}\n' for value in classes.best_threshold.tolist())
    with atomic_write(folder / 'report.html') as file:
        file.write(render(title, one, classes, summary, image_at))
    return summary


def write_per_class(path: Path, one: Evaluation, classes: PerClass) -> None:
    """One line per class; cells of values that are not defined are empty."""
    with atomic_write(path) as file:
        file.write(csv_line(['class_id', 'class_name', *PerClass._fields]))
        for i, values in enumerate(zip(*classes)):
            file.write(csv_line([i, one.name(i), *values[:2],
                                 *('' if np.isnan(v) else f'{v:.6f}' for v in values[2:])]))


def write_predictions(path: Path, one: Evaluation) -> None:
    """The table of -pred with the column class_ids of what is predicted and labels of what is there."""
    order = np.argsort(-one.probs, axis=1, kind='stable')
    with atomic_write(path) as file:
        file.write(csv_line([*BEST, *TOP5, PRESENT, 'labels']))
        for row, name in enumerate(one.paths):
            ranked = [(int(k), float(one.probs[row, k])) for k in order[row]]
            file.write(csv_line([*best_values(name, ranked, one.name), *top5_values(ranked),
                                 present_ids(ranked, one.thresholds),
                                 ' '.join(map(str, np.flatnonzero(one.labels[row])))]))


def render(title: str, one: Evaluation, classes: PerClass, summary: Dict[str, Any], image_at: ImageAt) -> str:
    facts = ' · '.join(f'{key}: {value}' for key, value in summary['facts'].items())
    values = [('mAP', percent(summary['map']), 'mean average precision of the classes with images'),
              ('macro F1', percent(summary['macro_f1']), 'at the thresholds of this evaluation'),
              ('macro F1, best thresholds', percent(summary['macro_f1_best_thresholds']), 'chosen on these images'),
              ('micro F1', percent(summary['micro_f1']), f'precision {_percent(summary["micro_precision"])}, recall '
               f'{percent(summary["micro_recall"])}'),
              ('exact match', percent(summary['exact_match']), 'images whose classes are all right'),
              ('loss', f'{summary["loss"]:.4f}', 'mean binary cross entropy'),
              ('images', f'{summary["images"]:,}', f'{summary["labels_per_image"]:.2f} classes each, '
               f'{summary["predicted_per_image"]:.2f} predicted; {summary["classes_with_images"]:,} of '
               f'{counted(summary["classes"], "class")} with images')]
    words = note(Html('Every class is in <a href="per_class.csv">per_class.csv</a>, the numbers are in <a href='
                      '"report.json">report.json</a>, every image is in <a href="' + FILE_NAME + f'">{FILE_NAME}</a>; '
                      '<a href="thresholds.txt">thresholds.txt</a> holds the best threshold of each class, for '
                      'DATA.THRESHOLDS. They are chosen on these images: measure them on others.'))
    return page(title, facts, [section('Summary', tiles(values), words, note(f'Left out: {LEFT_OUT}.')),
                               _class_section(one, classes), _worst_section(one, image_at)])


def _class_section(one: Evaluation, classes: PerClass) -> Html:
    present = np.flatnonzero(classes.count > 0)
    order = present[np.argsort(classes.average_precision[present], kind='stable')][:ROWS]
    rows = [(one.title(i), int(classes.count[i]), int(classes.predicted[i]),
             *(percent(values[i], 1) for values in classes[2:6]), f'{classes.threshold[i]:.3f}',
             f'{classes.best_threshold[i]:.3f}', percent(classes.best_f1[i], 1)) for i in order]
    words = 'All classes with images' if len(present) <= ROWS else f'{ROWS} of {len(present):,} classes'
    return section('Classes', note(f'{words}, lowest average precision first.'), table(
        ('class', 'images', 'predicted', 'AP', 'precision', 'recall', 'F1', 'threshold', 'best threshold', 'its F1'),
        rows))


def _worst_section(one: Evaluation, image_at: ImageAt) -> Html:
    """The images with the most wrong decisions, of equal ones those with the larger loss."""
    wrong = (one.labels != one.predicted).sum(1)
    of_label = np.where(one.labels, one.probs, 1 - one.probs)
    losses = -np.log(np.maximum(of_label, 1e-45)).sum(1)
    worst = [int(i) for i in np.lexsort((-losses, -wrong)) if wrong[i]][:CARDS]
    if not worst:
        return section('Mistakes', note('None.'))
    cards = []
    for i in worst:
        lines = [f'<div class="wrong">missed: {_list(one, i, one.labels[i] & ~one.predicted[i])}</div>',
                 f'<div class="wrong">too many: {_list(one, i, one.predicted[i] & ~one.labels[i])}</div>',
                 f'<div class="right">right: {_list(one, i, one.labels[i] & one.predicted[i])}</div>',
                 f'<div class="note">{escape(path_tail(one.paths[i]))}</div>']
        cards.append(f'<div class="card">{image_tag(image_at, i)}{"".join(lines)}</div>')
    return section('Mistakes', note(f'{int((wrong > 0).sum()):,} of {len(wrong):,} images have a wrong decision.'),
                   heading('Those with the most'), Html('<div class="cards">' + ''.join(cards) + '</div>'))


def _list(one: Evaluation, row: int, chosen: np.ndarray) -> str:
    found = [f'{isolated(one.title(k))} {percent(one.probs[row, k], 0)}' for k in np.flatnonzero(chosen)[:8]]
    return ', '.join(found) + (', …' if chosen.sum() > 8 else '') if found else '–'


def _percent(value: Any) -> str:
    return '–' if value is None else percent(value)


def write_for_job(folder: Path, collected: Any, paths: List[str], thresholds: np.ndarray, facts: Mapping[str, Any],
                  title: str, image_at: ImageAt, names: Sequence[str]) -> str:
    """The report of -eval; returns a log line. ``collected``: labels and logits (``MultiLabelCollected``)."""
    logits, labels = collected.logits, collected.labels
    probs = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    loss = float(np.mean(np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits)))))
    one = Evaluation(paths, labels, probs, thresholds, names)
    summary = write(folder, one, loss, title, facts, image_at)
    return f'report: {Path(folder) / "report.html"}, mAP: {summary["map"]:.4f}'
