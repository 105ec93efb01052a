# SPDX-License-Identifier: Apache-2.0
"""report.html of an evaluation, from its numbers."""
from __future__ import annotations

import math
from html import escape
from typing import Any, Callable, Dict, Iterable, List, Optional

import numpy as np
from PIL import Image

from CaiT.data.text import quoted
from CaiT.errors import InputError
from CaiT.report import metrics
from CaiT.report.comparison import Comparison, verdict
from CaiT.report.confusion_matrix import matrix_svg
from CaiT.report.page import (
    Html,
    counted,
    figure,
    grid,
    heading,
    isolated,
    note,
    page,
    percent,
    section,
    table,
    thumbnail_uri,
    tiles,
)
from CaiT.report.predictions import FILE_NAME, Predictions
from CaiT.report.svg import COLORS, Axes, Series, legend, line_chart

WHOLE = 25    # classes up to which the confusion matrix is drawn whole
PART = 20     # rows of the part that is drawn of a larger one
EXTRA = 10    # columns beside the classes of the rows
ROWS = 30     # lines of the tables of worst classes and most confused pairs
CARDS = 12    # thumbnails per kind of mistake
BLUE, ORANGE, GRAY = COLORS[0], COLORS[1], '#8c959f'

ImageAt = Callable[[int], Image.Image]


def render(title: str, predictions: Predictions, classes: metrics.PerClass, summary: Dict[str, Any], image_at: ImageAt,
           comparison: Optional[Comparison] = None, earlier: Optional[Predictions] = None) -> str:
    """The page; ``summary`` is what report.json holds."""
    facts = ' · '.join(f'{key}: {value}' for key, value in summary['facts'].items())
    sections = [overview(summary)]
    if comparison is not None:
        sections.append(comparison_section(predictions, earlier, comparison, image_at))
    sections += [confusion_section(predictions, classes), class_section(predictions, classes),
                 calibration_section(predictions, summary), mistakes_section(predictions, image_at)]
    return page(title, facts, sections)


def overview(summary: Dict[str, Any]) -> Html:
    top5, loss, present = summary['top5'], summary['loss'], summary['classes_with_images']
    words = 'fewer than 5 predictions' if top5 is None else ''
    if top5 is not None and summary['classes'] <= 5:
        words = f'always, with {counted(summary["classes"], "class")}'
    values = [('top-1', percent(summary['top1']),
               f'95% interval {percent(summary["top1_low"], 1)} to {percent(summary["top1_high"], 1)}'),
              ('top-5', '–' if top5 is None else percent(top5), words),
              ('balanced accuracy', percent(summary['balanced_accuracy']), 'mean recall of the classes'),
              ('macro F1', percent(summary['macro_f1']), 'mean of the classes with images'),
              ('ECE', percent(summary['ece']), 'expected calibration error'),
              ('images', f'{summary["images"]:,}', f'of {counted(present, "class")}; the head has '
               f'{summary["classes"]:,}')]
    if loss is not None:
        values.insert(2, ('loss', f'{loss:.4f}', 'mean cross entropy'))
    return section('Summary', tiles(values), note(Html(
        'Every class is in <a href="per_class.csv">per_class.csv</a>, the numbers are in '
        '<a href="report.json">report.json</a>, every image is in '
        f'<a href="{FILE_NAME}">{FILE_NAME}</a>.')))


def confusion_section(predictions: Predictions, classes: metrics.PerClass) -> Html:
    pairs = metrics.most_confused(predictions.labels, predictions.ids[:, 0], predictions.num_classes)
    active = np.flatnonzero((classes.count > 0) | (classes.predicted > 0))
    parts: List[str] = []
    explain = ('Rows are labels, columns are predictions. Numbers count images; the color is the fraction of the row, '
               'blue where right, orange where wrong.')
    if predictions.num_classes <= WHOLE:
        chosen = columns = list(range(predictions.num_classes))
        words = explain
    else:
        chosen = sorted(_first([pair.label for pair in pairs] or np.flatnonzero(classes.count), PART))
        columns = _first([*chosen, *(pair.predicted for pair in pairs if pair.label in chosen)], PART + EXTRA)
        columns = [*chosen, *sorted(columns[len(chosen):])]
        which = f'the first {len(chosen)} classes'
        if pairs:
            which = f'the {len(chosen)} classes of the most confused pairs'
        if len(columns) > len(chosen):
            which += '; in the columns behind them the classes they are most often taken for'
        words = (f'{len(active):,} of {predictions.num_classes:,} classes occur as label or prediction. Shown are '
                 f'{which}. {explain}')
    parts += [note(words), f'<div class="scroll" tabindex="0">{matrix_svg(predictions, chosen, columns)}</div>']
    rows = [(predictions.name(pair.label), predictions.name(pair.predicted), pair.count, int(classes.count[pair.label]),
             percent(pair.count / classes.count[pair.label], 1)) for pair in pairs[:ROWS]]
    if rows:
        shown = f'the first {len(rows)} of {len(pairs):,}' if len(pairs) > len(rows) else f'all {len(rows)}'
        parts += [heading(f'Most confused pairs ({shown})'),
                  table(('label', 'predicted as', 'images', 'of', 'fraction'), rows, (0, 1))]
    else:
        parts.append(note('No image was classified wrongly.'))
    return section('Confusion', *parts)


def class_section(predictions: Predictions, classes: metrics.PerClass) -> Html:
    present = np.flatnonzero(classes.count > 0)
    order = present[np.lexsort((present, classes.recall[present]))]
    if predictions.num_classes > WHOLE:
        order, words = order[:ROWS], f'The {min(ROWS, len(order))} classes with the lowest recall'
    else:
        words = 'All classes, lowest recall first'
    rows = []
    for i in order:
        other = int(classes.confused_with[i])
        mixed_up = Html(f'{isolated(predictions.name(other))} ({int(classes.confused_count[i])})')
        rows.append((predictions.name(i), int(classes.count[i]), percent(classes.precision[i], 1),
                     percent(classes.recall[i], 1), percent(classes.f1[i], 1), percent(classes.top5[i], 1),
                     mixed_up if other >= 0 else '–'))
    return section('Classes', note(f'{words}. With few images per class these numbers vary widely.'),
                   table(('class', 'images', 'precision', 'recall', 'F1', 'top-5', 'most confused with'), rows,
                         (0, 6)))


def calibration_section(predictions: Predictions, summary: Dict[str, Any]) -> Html:
    bins = [one for one in summary['reliability'] if one['count']]
    axes = Axes((0, 1), (0, 1), 'top-1 probability', 'accuracy', percent_y=True)
    body = []
    for one in bins:  # blue up to the lower of the two, orange between them
        accuracy, confidence = one['accuracy'], one['confidence']
        words = (f'{one["count"]} images with {one["low"]:.2f} to {one["high"]:.2f}: accuracy {percent(accuracy)}, '
                 f'mean probability {percent(confidence)}')
        body += [axes.bar((one['low'], one['high']), (0, min(accuracy, confidence)), BLUE, words, 0.8),
                 axes.bar((one['low'], one['high']), (accuracy, confidence), ORANGE, words, 0.55)]
        level = axes.y(accuracy)
        body.append(f'<line x1="{axes.x(one["low"]):.1f}" y1="{level:.1f}" x2="{axes.x(one["high"]):.1f}" '
                    f'y2="{level:.1f}" stroke="#1c2128" stroke-width="2"/>')
    diagonal = Series('perfect calibration', [(0, 0), (1, 1)], '#1c2128', '4 3')
    body.append(axes.line(diagonal))
    most = max(one['count'] for one in bins)
    counts = Axes((0, 1), (0, most * 1.05), 'top-1 probability', 'images', integer_y=True)
    histogram = counts.svg(''.join(counts.bar((one['low'], one['high']), (0, one['count']), GRAY,
                                              f'{one["count"]} images') for one in bins), 'images per probability')
    confidence, correct = predictions.probs[:, 0], predictions.correct
    levels = np.unique(np.concatenate([[0.0], np.quantile(confidence, np.linspace(0, 1, 101))]))
    curve = [metrics.reject(confidence, correct, level) for level in levels]
    series = [Series('accuracy of the answers', [(one.threshold, one.accuracy) for one in curve], BLUE),
              Series('fraction answered', [(one.threshold, one.answered) for one in curve], ORANGE, '5 3')]
    rows = [(f'{one["threshold"]:g}', percent(one['answered'], 1), percent(one['accuracy'], 2))
            for one in summary['reject']]
    apart = summary['mean_confidence'] - summary['top1']
    way = f'{"more" if apart > 0 else "less"} certain than it is right'
    if abs(apart) < 5e-5:  # the same percentages
        way = 'as certain as it is right'
    return section(
        'Calibration and rejection',
        note(f'Mean top-1 probability {percent(summary["mean_confidence"])}, accuracy {percent(summary["top1"])}: the '
             f'model is {way}. ECE {percent(summary["ece"])} over '
             f'{len(summary["reliability"])} equally wide bins.'),
        grid([figure('Reliability', axes.svg(''.join(body), 'reliability diagram'),
                     Html(legend([Series('accuracy', [], '#1c2128'), Series('gap to the mean probability', [], ORANGE),
                                  diagonal]))),
              figure('Images per probability', histogram),
              figure('Rejecting below a threshold', line_chart(series, 'threshold on the top-1 probability', 'fraction',
                                                               'accuracy and fraction answered by threshold', False,
                                                               True, (0, 1.02), (0, 1)), Html(legend(series)))]),
        table(('reject below', 'answered', 'accuracy of the answers'), rows))


def mistakes_section(predictions: Predictions, image_at: ImageAt) -> Html:
    wrong = np.flatnonzero(~predictions.correct)
    if not len(wrong):
        return section('Mistakes', note('None.'))
    right = np.array([predictions.right_prob(i) or 0.0 for i in wrong])  # not among the k best: taken as 0
    surest = wrong[np.argsort(-predictions.probs[wrong, 0], kind='stable')][:CARDS]
    worst = [int(i) for i in wrong[np.lexsort((-predictions.probs[wrong, 0], right))] if i not in surest][:CARDS]
    parts: List[str] = [heading('Surest: the highest probability for a wrong class'),
                        cards(predictions, surest, image_at)]
    if worst:
        parts += [heading('Worst of the others: the lowest probability for the right class'),
                  cards(predictions, worst, image_at)]
    return section('Mistakes', note(f'{len(wrong):,} of {len(predictions.paths):,} images.'), *parts)


def cards(predictions: Predictions, indices: Any, image_at: ImageAt, notes: Optional[List[str]] = None) -> Html:
    """Images with what they are and what was predicted."""
    parts = ['<div class="cards">']
    for place, i in enumerate(indices):
        right = predictions.right_prob(i)
        lines = [f'<div class="{"right" if predictions.correct[i] else "wrong"}">'
                 f'{isolated(predictions.name(predictions.ids[i, 0]))} {percent(predictions.probs[i, 0], 1)}</div>',
                 f'<div>label: {isolated(predictions.name(predictions.labels[i]))} '
                 f'{"below the listed" if right is None else percent(right, 1)}</div>',
                 notes[place] if notes else '', f'<div class="note">{escape(path_tail(predictions.paths[i]))}</div>']
        parts.append(f'<div class="card">{image_tag(image_at, int(i))}{"".join(lines)}</div>')
    return Html(''.join(parts) + '</div>')


def image_tag(image_at: ImageAt, index: int) -> str:
    try:
        image = image_at(index)
    except InputError:
        return '<div class="missing">image not found</div>'
    small = ' class="pixelated"' if max(image.size) <= 64 else ''
    return f'<img{small} alt="" src="{thumbnail_uri(image)}">'


def comparison_section(predictions: Predictions, earlier: Predictions, comparison: Comparison,
                       image_at: ImageAt) -> Html:
    shift = comparison.top1 - comparison.top1_before
    difference = '–' if math.isnan(comparison.prob_difference) else f'{comparison.prob_difference:.2e}'
    rows = [('top-1 before', percent(comparison.top1_before)),
            ('top-1 now', f'{percent(comparison.top1)} ({100 * shift:+.2f} points)'),
            ('images in both', f'{comparison.images:,}'), ('right both times', f'{comparison.both_right:,}'),
            ('wrong both times', f'{comparison.both_wrong:,}'),
            ('lost: right before, wrong now', f'{comparison.lost:,}'),
            ('gained: wrong before, right now', f'{comparison.gained:,}'),
            ('decisions that changed', f'{len(comparison.changed):,}'),
            ('largest difference of the top-1 probability, same class', difference)]
    parts: List[str] = [note(verdict(comparison)), table(('', 'value'), rows)]
    order = {'lost': 0, 'gained': 1, 'other': 2}
    shown = sorted(comparison.changed, key=lambda change: order[change.kind])[:2 * CARDS]
    if shown:
        notes = [f'<div>before: {isolated(earlier.name(earlier.ids[one.other, 0]))} '
                 f'{percent(earlier.probs[one.other, 0], 1)} ({one.kind})</div>' for one in shown]
        parts += [heading(f'Images that changed ({len(shown)} of {len(comparison.changed):,})'),
                  cards(predictions, [one.index for one in shown], image_at, notes)]
    return section('Difference to the earlier report', *parts)


def _first(values: Iterable[int], count: int) -> List[int]:
    """The first ``count`` different values."""
    return [int(value) for value in dict.fromkeys(values)][:count]


def path_tail(path: str) -> str:
    """The last three parts of a path, on one line."""
    return quoted('/'.join(str(path).replace('\\', '/').split('/')[-3:]))
