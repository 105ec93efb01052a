# SPDX-License-Identifier: Apache-2.0
"""The figures of this repository, made again from its configs, its measurements and a checkpoint.

    python -m CaiT.tools.figures                                architecture, training curves, benchmark charts
    python -m CaiT.tools.figures -pretrained=output/RUN/best    also docs/images/attention.png
    python -m CaiT.tools.figures -notebook                      also docs/quickstart.md with its images (minutes)

Run in a clone. The photographs of the attention figure come with scikit-learn (CC BY 2.0, danielbuechele and
vultilion).
"""
from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, List, Optional

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
RUN = 'cait_grown_mixed-0'  # in training/ of the results: the best CaiT that was trained here


def parse(arguments: Optional[List[str]]) -> Any:
    parser = Parser(__doc__)
    parser.flag('architecture', default='cait_xxs24_224', metavar='CONFIG',
                help='the CaiT to draw, a YAML file or a name; default: cait_xxs24_224')
    parser.flag('pretrained', metavar='PATH', help='a checkpoint for the attention figure')
    parser.flag('cfg', metavar='FILE', help='its configuration; default: config.yaml beside it')
    parser.flag('label_map', metavar='FILE', help='its class names')
    parser.flag('results', type=Path, default=ROOT / 'benchmarks' / 'results', metavar='FOLDER',
                help='results of benchmarks/against_peers.py, beside which the charts are written, and training.py')
    parser.flag('output_dir', type=Path, default=ROOT / 'docs' / 'images', metavar='FOLDER',
                help='default: docs/images')
    parser.switch('notebook', help='also run the notebook and write docs/quickstart.md')
    options = parser.parse_args(arguments)
    if not options.results.is_dir():
        raise InputError(f'-results: found no folder {options.results}, expected benchmarks/results of a clone')
    return options


def main(arguments: Optional[List[str]] = None) -> int:
    options = parse(arguments)
    runtime.prepare()
    print(write_architecture(options.architecture, options.output_dir))
    for path in write_charts(options.results):
        print(path)
    print(write_curves(options.results, options.output_dir))
    if options.pretrained:
        print(write_attention(options))
    else:
        print('attention.png: skipped, it needs -pretrained=PATH')
    if options.notebook:
        from CaiT.tools import run_notebook
        run_notebook.main(['--write'])
    return 0


def write_architecture(name: str, folder: Path) -> Path:
    """FOLDER/<model>.svg of a configuration; InputError when it is not a CaiT's."""
    from CaiT.config import build_model, get_config
    from CaiT.models.cait import CaiT
    from CaiT.report.architecture import architecture, sizes_of
    config = get_config(name)
    model = build_model(config, pretrained=False)
    if not isinstance(model, CaiT):
        raise InputError(f'-architecture: found {config.MODEL.NAME}, expected a CaiT')
    return _written(folder / f'{config.MODEL.NAME}.svg', architecture(sizes_of(model, config.MODEL.NAME)))


def write_curves(results: Path, folder: Path) -> str:
    """FOLDER/cait_grown.png: loss, accuracy and the rest of the grown CaiT's training; returns a line that says so."""
    from CaiT.report.panels import plot_curves
    from CaiT.report.runs import read_run
    run = results / 'training' / RUN
    if not run.is_dir():
        return f'cait_grown.png: skipped, found no logs in {run}'
    return plot_curves([read_run(run)], folder / 'cait_grown.png')


def write_charts(folder: Path) -> List[Path]:
    """A chart, <name>.svg, beside each <name>.json of ``folder`` that benchmarks/against_peers.py wrote."""
    from CaiT.report.benchmark_chart import benchmark_chart
    from CaiT.safe_json import load_json
    results = {path: load_json(path) for path in sorted(folder.glob('*.json'))}
    return [_written(path.with_suffix('.svg'), benchmark_chart(result)) for path, result in results.items()
            if isinstance(result, dict) and all('limits' in row for row in result.get('rows', [{}]))]


def write_attention(options: Any) -> Path:
    """FOLDER/attention.png: the contact sheet of the two photographs."""
    from CaiT.tools import attention_map
    sklearn = importlib.util.find_spec('sklearn')
    if not sklearn:
        raise InputError('-pretrained: the photographs come with scikit-learn: pip install scikit-learn')
    with tempfile.TemporaryDirectory() as folder:
        flags = [f'-{name}={getattr(options, name)}' for name in ('pretrained', 'cfg', 'label_map')
                 if getattr(options, name)]
        images = Path(sklearn.origin).parent / 'datasets' / 'images'
        attention_map.main([*flags, f'-img_path={images}', f'-output_dir={folder}'])
        target = options.output_dir / 'attention.png'
        with open(Path(folder) / 'contact.png', 'rb') as source, atomic_write(target, 'wb') as file:
            shutil.copyfileobj(source, file)
    return target


def _written(path: Path, text: str) -> Path:
    with atomic_write(path) as file:
        file.write(text)
    return path


if __name__ == '__main__':
    errors.run(main)
