# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation: report.html, report.json, per_class.csv and report_predictions.csv."""
from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

import numpy as np
from PIL import Image

from CaiT.data.class_numbers import read_thresholds
from CaiT.data.lists import read_label_map, read_list
from CaiT.data.text import csv_line
from CaiT.data.transforms import as_pillow
from CaiT.errors import InputError
from CaiT.files import atomic_write, write_json
from CaiT.report import evaluation_page, metrics, multi_label
from CaiT.report.comparison import compare
from CaiT.report.names import class_names
from CaiT.report.predictions import FILE_NAME, Predictions, read

PAIRS = 50  # most confused pairs in report.json


def write(folder: Path, predictions: Predictions, title: str = 'Evaluation', facts: Optional[Mapping[str, Any]] = None,
          earlier: Optional[Path] = None, image_at: Optional[Callable[[int], Image.Image]] = None) -> Dict[str, Any]:
    """Write the report into ``folder``; returns what report.json holds.

    ``facts`` (model, weights, dataset …) are shown as they are. ``earlier``: a report's folder or a predictions file of
    the same images to compare with. ``image_at(index)`` gives an image for its thumbnail; default: its path is opened.
    """
    folder = Path(folder)
    comparison = other = None
    if earlier is not None:
        other = read_earlier(earlier, predictions)
        comparison = compare(predictions, other)
    classes = metrics.per_class(predictions.labels, predictions.ids, predictions.num_classes)
    summary = summarize(predictions, classes)
    if comparison:
        summary['compare'] = {'with': str(earlier), **comparison.as_dict()}
    summary['facts'] = {key: str(value) for key, value in (facts or {}).items()}
    write_json(folder / 'report.json', _plain(summary))
    write_per_class(folder / 'per_class.csv', predictions, classes)
    predictions.write(folder / FILE_NAME)
    with atomic_write(folder / 'report.html') as file:
        file.write(evaluation_page.render(title, predictions, classes, summary, image_at or opener(predictions.paths),
                                          comparison, other))
    return summary


def read_earlier(path: Path, predictions: Predictions) -> Predictions:
    """Predictions of a report's folder or of a file, perhaps of a model with more or fewer classes; labels it does not
    have are taken from ``predictions``."""
    try:
        return read(path)
    except InputError as error:
        if 'no column label' not in str(error):
            raise
    pairs = list(zip(predictions.paths, predictions.labels.tolist()))
    return read(path, labels=pairs)


def summarize(predictions: Predictions, classes: metrics.PerClass) -> Dict[str, Any]:
    """The numbers of report.json; macro averages are over the classes that have images."""
    labels, ids, correct = predictions.labels, predictions.ids, predictions.correct
    confidence = predictions.probs[:, 0]
    ece, bins = metrics.calibration(confidence, correct)
    present = classes.count > 0
    loss = None
    if predictions.label_probs is not None:
        loss = float(-np.log(np.maximum(predictions.label_probs, 1e-45)).mean()) + 0.0  # not -0.0
    top5 = float(metrics.hits(labels, ids, 5).mean()) if ids.shape[1] >= min(5, predictions.num_classes) else None
    low, high = metrics.wilson(int(correct.sum()), len(labels))
    return {
        'images': len(labels), 'classes': predictions.num_classes, 'classes_with_images': int(present.sum()),
        'top1': float(correct.mean()), 'top1_low': low, 'top1_high': high, 'top5': top5, 'loss': loss,
        'balanced_accuracy': float(classes.recall[present].mean()),
        'macro_precision': metrics.macro(classes.precision, present), 'macro_f1': metrics.macro(classes.f1, present),
        'ece': ece, 'mean_confidence': float(confidence.mean()),
        'reliability': [one._asdict() for one in bins],
        'reject': [metrics.reject(confidence, correct, level)._asdict() for level in metrics.REJECT_THRESHOLDS],
        'most_confused': [pair._asdict() for pair in
                          metrics.most_confused(labels, ids[:, 0], predictions.num_classes)[:PAIRS]],
    }


def write_per_class(path: Path, predictions: Predictions, classes: metrics.PerClass) -> None:
    """One line per class; cells of values that are not defined (no image, no prediction) are empty."""
    def cell(value: float) -> str:
        return '' if math.isnan(value) else f'{value:.6f}'
    with atomic_write(path) as file:
        file.write(csv_line(['class_id', 'class_name', 'count', 'predicted', 'precision', 'recall', 'f1', 'top5',
                             'most_confused_with', 'most_confused_name', 'most_confused_count']))
        for i in range(predictions.num_classes):
            other = int(classes.confused_with[i])
            confused = (('', '', 0) if other < 0 else
                        (other, predictions.names.get(other, ''), classes.confused_count[i]))
            file.write(csv_line([i, predictions.names.get(i, ''), classes.count[i], classes.predicted[i],
                                 cell(classes.precision[i]), cell(classes.recall[i]), cell(classes.f1[i]),
                                 cell(classes.top5[i]), *confused]))


def opener(paths: Sequence[str], folder: Optional[Path] = None) -> Callable[[int], Image.Image]:
    """index -> image of that path; relative paths are also looked for in ``folder``."""
    def open_image(index: int) -> Image.Image:
        path = Path(paths[index])
        if folder is not None and not path.exists() and (folder / path).exists():
            path = folder / path
        return as_pillow(path)
    return open_image


def from_file(path: Path, labels: Optional[Path], folder: Path, earlier: Optional[Path] = None,
              label_map: Optional[Path] = None, num_classes: int = 0) -> Dict[str, Any]:
    """The report of a predictions file with a list of labels; see ``predictions.read`` for both."""
    predictions = read(path, labels, num_classes=num_classes)
    if label_map:
        names = read_label_map(label_map, None)
        if len(names) < predictions.num_classes:
            raise InputError(f'--label-map {label_map}: found {len(names)} names, expected at least '
                             f'{predictions.num_classes}, the classes that occur')
        predictions = dataclasses.replace(predictions, names=dict(enumerate(names)),
                                          num_classes=num_classes or len(names))
    facts = {'predictions': path, 'labels': labels or f'column label of {path}'}
    if labels is not None:
        facts['images in the list'] = len(read_list(labels, '', None))
    if earlier is not None:
        facts['compared with'] = earlier
    return write(folder, predictions, f'Evaluation of {Path(path).name}', facts, earlier,
                 opener(predictions.paths, Path(labels).parent if labels else None))


def write_for_job(folder: Path, collected: Any, dataset: Any, config: Any, earlier: Optional[Path] = None) -> str:
    """The report of -eval; returns a log line with its path.

    ``collected``: labels, ids, probs and label_probs of the dataset's images, with DATA.MULTI_LABEL labels and logits
    (``CaiT.training.collector``).
    """
    names = dataset.class_names or class_names(config)
    facts = {'model': config.MODEL.NAME, 'weights': config.MODEL.PRETRAINED, 'data path': config.DATA.DATA_PATH,
             'dataset format': config.DATA.DATASET, 'image size': config.DATA.IMAGE_SIZE}
    title = f'Evaluation of {config.MODEL.NAME}'
    if config.DATA.MULTI_LABEL:
        facts['thresholds'] = config.DATA.THRESHOLDS or '0.5'
        paths = [dataset.samples.path(i) for i in range(len(dataset))]
        thresholds = read_thresholds(config.DATA.THRESHOLDS, config.MODEL.NUM_CLASSES)
        return multi_label.write_for_job(folder, collected, paths, thresholds, facts, title, _image_at(dataset, paths),
                                         names or [])
    predictions = Predictions([path for path, _ in dataset.samples], collected.labels, collected.ids, collected.probs,
                              config.MODEL.NUM_CLASSES, dict(enumerate(names or [])), collected.label_probs)
    summary = write(folder, predictions, title, facts, earlier, _image_at(dataset, predictions.paths))
    line = f'report: {Path(folder) / "report.html"}, ECE: {summary["ece"]:.4f}'
    if 'compare' in summary:
        found = summary['compare']
        line += (f'; {found["changed"]} of {found["images"]} decisions changed since {earlier}: {found["lost"]} lost, '
                 f"{found['gained']} gained, McNemar's p = {found['p_value']:.3g}")
    return line


def _image_at(dataset: Any, paths: Sequence[str]) -> Callable[[int], Image.Image]:
    """index -> image of a dataset: of files, or in memory or in shards, where the images have no files."""
    if hasattr(dataset, 'pixels'):
        return lambda index: Image.fromarray(dataset.pixels[index])
    if hasattr(dataset.samples, 'image'):
        return lambda index: as_pillow(dataset.samples.image(index))
    return opener(paths)


def check_earlier(earlier: Optional[Path], multi_label: bool = False) -> None:
    """Before an evaluation: whether what -compare names can be read and compared with. InputError when not."""
    if earlier is not None and multi_label:
        raise InputError(f'-compare {earlier}: found beside DATA.MULTI_LABEL True, expected it without: the decisions '
                         'that it compares are the one class of an image')
    if earlier is not None:
        path = Path(earlier) / FILE_NAME if Path(earlier).is_dir() else Path(earlier)
        if not path.is_file():
            raise InputError(f'-compare {earlier}: found no {path.name} there, expected the folder of an earlier '
                             'report or a file of predictions')


def _plain(value: Any) -> Any:
    """JSON has no NaN: undefined values become null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value
