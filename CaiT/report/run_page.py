# SPDX-License-Identifier: Apache-2.0
"""The page of one or several training runs: settings, curves, final numbers, environment, attention."""
from __future__ import annotations

import math
import statistics
import time
from html import escape
from pathlib import Path
from typing import Any, List, Sequence, Tuple

from CaiT.errors import InputError
from CaiT.files import atomic_write
from CaiT.report.page import Html, counted, figure, grid, heading, note, page, percent, png_uri, section, table, tiles
from CaiT.report.panels import panels, plot_curves
from CaiT.report.runs import Run, defaults_of, differences, read_runs
from CaiT.report.svg import legend, line_chart

PLOT_SECONDS = 30  # between two drawings of curves.png, which takes a second
REFRESH = 60  # seconds after which a browser reads the page of an unfinished run again
Tiles = Tuple[str, List[Any], str]  # run, its images with their maps (attention_of_run.Tile), why there are none


def write(folders: Sequence[Path], output: Path, images: int = 4) -> List[Run]:
    """Write the page of these runs to ``output``, with the attention of ``images`` validation images each (0: none)."""
    runs = read_runs(folders)
    sheets = [attention_of(run, images) for run in runs] if images else []
    with atomic_write(output) as file:
        file.write(render(runs, sheets))
    return runs


class Refresher:
    """Writes ``folder/run.html`` and ``folder/curves.png`` while a run trains; never raises: training goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plotted = Path(folder), 0.0

    def __call__(self, finished: bool = False) -> str:
        """Write the page, and the plots when 30 s have passed or the run is finished, with attention maps then.

        Returns a log line.
        """
        try:
            runs = write([self.folder], self.folder / 'run.html', 4 if finished else 0)
            line = f'page: {self.folder / "run.html"}'
            if finished or time.monotonic() - self.plotted >= PLOT_SECONDS:
                line = f'{plot_curves(runs, self.folder / "curves.png")}; {line}'
                self.plotted = time.monotonic()
        except Exception as error:  # whatever is wrong with a page, the run is worth more
            line = f'page: not written ({type(error).__name__}: {" ".join(str(error).split())})'
        return line


def render(runs: Sequence[Run], sheets: Sequence[Tiles] = ()) -> str:
    """The page as HTML."""
    title = f'Run {runs[0].name}' if len(runs) == 1 else f'{len(runs)} runs'
    running = any(not run.finished for run in runs)
    sections = [status_section(runs), metrics_section(runs), curves_section(runs), settings_section(runs)]
    if sheets:
        sections.append(attention_section(sheets))
    sections.append(environment_section(runs))
    return page(title, time.strftime('written %Y-%m-%d %H:%M:%S'), sections, REFRESH if running else 0)


def status_of(run: Run) -> str:
    """Finished, or how far it is and when it last wrote."""
    if run.finished:
        return f'finished: {counted(run.epochs, "epoch")}'
    return f'{run.position or "no step logged yet"}; last written {duration(run.age)} ago'


def status_section(runs: Sequence[Run]) -> Html:
    if len(runs) == 1:
        run = runs[0]
        best, best_map, total = run.best(), run.best('val_map'), sum(run.seconds.values())
        done = run.records[-1]['epoch'] if run.records else 0
        values = [('epochs done', f'{done} of {run.epochs or "?"}', status_of(run))]
        if best:
            values.append(('best validation top-1', percent(best['val_top1']), f'epoch {best["epoch"]}'))
        if best_map:
            values.append(('best validation mAP', percent(best_map['val_map']), f'epoch {best_map["epoch"]}'))
        if run.best('ema_top1'):
            average = run.best('ema_top1')
            values.append(('best top-1, EMA', percent(average['ema_top1']), f'epoch {average["epoch"]}'))
        if total:
            values.append(('training time', duration(total),
                           f'of {counted(len(run.seconds), "epoch")}, without evaluation'))
        return section('Status', tiles(values))
    rows = [(run.name, status_of(run), run.folder) for run in runs]
    return section('Status', table(('run', 'status', 'folder'), rows, range(3)))


def metrics_section(runs: Sequence[Run]) -> Html:
    """The last epoch's numbers and the best epoch's, a column per run."""
    rows: List[Tuple[str, Sequence[Any]]] = [
        ('model', [run.config.get('MODEL.NAME', '–') for run in runs]),
        ('best validation top-1', [_best(run, 'val_top1') for run in runs]),
        ('best validation top-1, EMA', [_best(run, 'ema_top1') for run in runs]),
        ('best validation mAP', [_best(run, 'val_map') for run in runs]),
        ('best validation mAP, EMA', [_best(run, 'ema_map') for run in runs]),
        ('validation top-1, last epoch', [_last(run, 'val_top1', percent) for run in runs]),
        ('validation top-5, last epoch', [_last(run, 'val_top5', percent) for run in runs]),
        ('validation loss, last epoch', [_last(run, 'val_loss', '{:.4f}'.format) for run in runs]),
        ('train loss, last epoch', [_last(run, 'train_loss', '{:.4f}'.format) for run in runs]),
        ('train accuracy, last epoch', [_last(run, 'train_acc', percent) + (' (mixed images)' if run.mixed else '')
                                        for run in runs]),
        ('images per second, median', [_images_per_second(run) for run in runs]),
        ('waiting for data, median', [_waiting(run) for run in runs]),
        ('peak memory', [_last(run, 'memory_mib', '{:,.0f} MiB'.format) for run in runs]),
        ('training time', [duration(sum(run.seconds.values())) if run.seconds else '–' for run in runs])]
    rows = [row for row in rows if any(value != '–' for value in row[1])]
    return section('Results', table(('', *(run.name for run in runs)), [(name, *values) for name, values in rows]))


def curves_section(runs: Sequence[Run]) -> Html:
    shown = panels(runs)
    if not shown:
        return section('Curves', note('No epoch is finished and no step is logged yet.'))
    last = max([run.epochs for run in runs if run.finished] +
               [point[0] for panel in shown for series in panel.series for point in series.points])
    figures = []
    for panel in shown:
        chart = line_chart(panel.series, 'epoch', panel.unit, f'{panel.title} by epoch', True, panel.percent,
                           x_range=(0 if panel.title == 'Learning rate' else min(1, last - 1), last))
        keys = legend(panel.series) if len(panel.series) > 1 or len(runs) > 1 else ''
        words = f'<div>{escape(panel.note)}</div>' if panel.note else ''
        figures.append(figure(panel.title, chart, Html(keys + words)))
    return section('Curves', grid(figures))


def settings_section(runs: Sequence[Run]) -> Html:
    parts: List[str] = []
    if len(runs) > 1:
        rows = [(key, *map(_shown, values)) for key, values in differences([run.config for run in runs])]
        parts.append(table(('setting', *(run.name for run in runs)), rows, range(len(runs) + 1)) if rows
                     else note('The runs have the same settings.'))
    for run in runs:
        defaults = defaults_of(run)
        rows = [(key, _shown(value), _shown(default)) for key, (default, value) in
                differences([defaults, run.config]) if defaults]
        body = note('None.' if defaults else 'The model of this run is not known here.')
        if rows:
            body = table(('setting', 'this run', 'default'), rows, range(3))
        words = f'{run.name}: what differs from the defaults of {run.config.get("MODEL.NAME", "the model")}'
        opened = ' open' if len(runs) == 1 else ''
        parts.append(f'<details{opened}><summary>{escape(words)}</summary>{body}</details>')
    return section('Settings', *parts)


def environment_section(runs: Sequence[Run]) -> Html:
    parts = [f'<details{" open" if len(runs) == 1 else ""}><summary>{escape(run.name)}</summary><pre>'
             + escape('\n'.join([f'folder: {run.folder}', *run.environment])) + '</pre></details>' for run in runs]
    return section('Environment', *parts)


def attention_section(sheets: Sequence[Tiles]) -> Html:
    parts: List[str] = [note('Validation images with the attention of the class token (last attending block, mean of '
                             'heads) and the gradient-weighted relevance for the predicted class, from the best '
                             'weights.')]
    for name, tiles_, reason in sheets:
        if len(sheets) > 1:
            parts.append(heading(name))
        if reason:
            parts.append(note(f'Not shown: {reason}'))
        parts.append('<div class="sheets">' + ''.join(
            f'<figure><img alt="{escape(tile.label)}" width="{tile.image.width}" src="{png_uri(tile.image)}">'
            f'<figcaption>{"<br>".join(map(escape, filter(None, (tile.predicted, tile.label))))}</figcaption></figure>'
            for tile in tiles_) + '</div>')
    return section('Attention', *parts)


def attention_of(run: Run, count: int) -> Tiles:
    """The maps of ``count`` validation images, evenly spaced, with the run's best weights; or why not."""
    from CaiT.report.attention_of_run import tiles_of  # builds a model
    weights = next((run.folder / name for name in ('best.pdparams', 'last.pdparams') if (run.folder / name).is_file()),
                   None)
    if weights is None:
        return run.name, [], 'no weights are saved yet'
    try:
        return run.name, tiles_of(run.folder / 'config.yaml', weights, count), ''
    except InputError as error:
        return run.name, [], str(error)


def duration(seconds: float) -> str:
    """93.4 s as '1 min 33 s'."""
    seconds = int(round(seconds))
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'


def _shown(value: Any) -> str:
    if value is None:
        return '–'
    return repr(value) if isinstance(value, str) else str(value)


def _best(run: Run, key: str) -> str:
    record = run.best(key)
    return f'{percent(record[key])} (epoch {record["epoch"]})' if record else '–'


def _last(run: Run, key: str, shown: Any) -> str:
    """The last value, with its epoch where that is not the run's last."""
    values = run.series(key)
    if not values:
        return '–'
    epoch, value = values[-1]
    text = shown(value) if math.isfinite(value) else 'not finite'
    return text if epoch == run.records[-1]['epoch'] else f'{text} (epoch {epoch})'


def _images_per_second(run: Run) -> str:
    """The median of the epochs, with one decimal below 10."""
    values = [value for _, value in run.series('images_per_second') if math.isfinite(value)]
    if not values:
        return '–'
    middle = statistics.median(values)
    return f'{middle:,.0f}' if middle >= 10 else f'{middle:.1f}'


def _waiting(run: Run) -> str:
    fractions = [record['data_time'] / record['batch_time'] for record in run.records
                 if record.get('batch_time') and record.get('data_time') is not None]
    return f'{100 * statistics.median(fractions):.0f}% of the time' if fractions else '–'
