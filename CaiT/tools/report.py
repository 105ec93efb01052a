# SPDX-License-Identifier: Apache-2.0
"""Pages about training runs and about predictions; each is one HTML file that opens without a network.

    python -m CaiT.tools.report output/RUN                      a run, finished or not: RUN/run.html
    python -m CaiT.tools.report output/RUN_A output/RUN_B       several runs side by side: RUN_A/runs.html
    python -m CaiT.tools.report predictions.csv --labels val_list.txt [--compare other.csv]

The last takes any predictions that -eval, -pred or infer wrote (.csv, .jsonl) and writes report.html, report.json,
per_class.csv and report_predictions.csv; --compare names other predictions of the same images, or an earlier report's
folder: McNemar's test and the images whose class changed.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Optional

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument('paths', nargs='+', metavar='PATH', help='folders of training runs, or one file of predictions')
    parser.flag('output', type=Path, metavar='PATH', help='the page of runs, or the folder of an evaluation report')
    parser.flag('images', type=int, metavar='N',
                help='validation images whose attention is shown; default 4')
    parser.flag('labels', type=Path, metavar='FILE', help='list file: "path class_id" lines')
    parser.flag('label_map', type=Path, metavar='FILE', help='names of the classes')
    parser.flag('num_classes', type=int, default=0, metavar='N', help='default: as many as occur or have a name')
    parser.flag('compare', type=Path, metavar='PATH', help="other predictions, or an earlier report's folder")
    options = parser.parse_args(arguments)
    paths = [Path(path) for path in options.paths]
    if options.images is not None and options.images < 0:
        raise InputError(f'--images: found {options.images}, expected at least 0')
    if options.num_classes < 0:
        raise InputError(f'--num-classes: found {options.num_classes}, expected at least 1')
    if any(path.is_dir() for path in paths):
        return _runs(paths, options)
    if len(paths) > 1:
        raise InputError(f'found {len(paths)} files of predictions, expected one, and --compare for another')
    if options.images is not None:
        raise InputError(f'--images: belongs to the folder of a run, found a file of predictions, {paths[0]}')
    from CaiT.report import evaluation
    folder = options.output or paths[0].with_name(f'{paths[0].stem}_report')
    summary = evaluation.from_file(paths[0], options.labels, folder, options.compare, options.label_map,
                                   options.num_classes)
    print(f'{summary["images"]} images, top-1 {summary["top1"]:.4f}, ECE {summary["ece"]:.4f}: '
          f'{folder / "report.html"}')
    if 'compare' in summary:
        found = summary['compare']
        print(f'{found["changed"]} of {found["images"]} decisions changed: {found["lost"]} lost, {found["gained"]} '
              f"gained, McNemar's p = {found['p_value']:.3g}")
    return 0


def _runs(paths: List[Path], options: object) -> int:
    for name in ('labels', 'label_map', 'num_classes', 'compare'):
        if getattr(options, name):
            raise InputError(f'--{name.replace("_", "-")}: belongs to a file of predictions, found the folder of a run')
    runtime.prepare()  # the run's model and its defaults are built with Paddle
    from CaiT.report import run_page
    output = options.output or paths[0] / ('run.html' if len(paths) == 1 else 'runs.html')
    for run in run_page.write(paths, output, 4 if options.images is None else options.images):
        print(f'{run.name}: {run_page.status_of(run)}')
    print(f'page: {output}')
    return 0


if __name__ == '__main__':
    errors.run(main)
