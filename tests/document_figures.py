# SPDX-License-Identifier: Apache-2.0
"""The measured figures of the documents and the files that they come from: tests/document_figures.tsv.

    python tests/document_figures.py            list what differs between the documents and the results; status 1 if any
    python tests/document_figures.py --write    put the results' figures into the documents

Each line of the table has four columns, separated by tabs:

    page     README.md, docs/speed.md, ...
    text     the text of the page, with a hole for each figure: ``| 16 | ours | {:.2f} |``. A hole is a Python format,
             which also says how the figure is rounded; ``{{`` stands for a brace
    file     the results (JSON, JSON lines, text), relative to the repository; several are separated by spaces, and
             ``*`` is a wildcard; ``-`` when the figures of the text are no results of this project
    values   Python expressions, one for each hole, separated by ``;``: ``d`` is the content of the file (of several: a
             list), FUNCTIONS may be called. After ``-``: the reason why nothing is traced (published, setting, version)

To change a figure, write its result file and call --write. A sentence that says something else gets another line.
"""
from __future__ import annotations

import csv
import json
import re
import string
import sys
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.errors import run

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / 'tests/document_figures.tsv'
# Pages whose figures must all be in the table. Not looked at: code blocks, `code`, addresses of links, headings,
# versions, what a program writes between markers (its test compares it), tables after a comment that names the test
# that compares them, and rows of a table that say on which day and by which command their figures were reached. Two
# Chinese pages without results are compared with the English ones alone, by tests/test_chinese_pages.py.
PAGES = ('README.md', 'README_cn.md', *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md')
                                              if path.stem not in ('troubleshooting_cn', 'weights_cn')))
WRITTEN = r'<!-- (\S+):start -->.*?<!-- \1:end -->'
SEEN = r'^\|[^\n]*\| 20\d\d-\d\d-\d\d \|[^\n]*`[^\n]*\|$'
COMPARED = r'<!-- compared by tests/\S+\.py -->\n(?:\|[^\n]*\n)+'
HOLE = r'[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?'
VERSION = (r'(?:Paddle(?:Paddle)?|Python|PyTorch|torch|timm|OpenVINO|ONNX Runtime|[Nn]um[Pp]y|reprod_log|CC BY|arXiv'
           r'|Apache|oneDNN|release|compute capability|计算能力)(?: before)?[\s-]'
           r'\d[\d.]*\d(?:(?:–| to | and )\d[\d.]*\d)*')
FIGURE = re.compile(r'\d+\.\d+(?:e-?\d+)?|\d+e-\d+|(?<!top-)\d[\d,]* ?%|\d+ (?:of|correct of) \d+|\d{1,3},\d{3}|\d+x\b'
                    r'|\d[\d,]* (?:MB|ms|GFLOP|images/s|seconds|minutes)')


class Line(NamedTuple):
    number: int
    page: str
    text: str
    file: str
    values: str

    def pattern(self) -> 're.Pattern[str]':
        """The text with any figures in the holes, each a group, and any line breaks in the place of blanks."""
        parts = [(re.escape(literal).replace('\\ ', r'\s+'), '' if name is None else f'({HOLE})')
                 for literal, name, _, _ in string.Formatter().parse(self.text)]
        start = '(?m:^)' if self.text.startswith('| ') else ''  # not a row that ends in these cells
        return re.compile(start + ''.join(part for pair in parts for part in pair))

    def figures(self) -> Tuple[str, ...]:
        """The results of the holes, as they are to be printed."""
        holes = [f'{{:{form}}}' for _, name, form, _ in string.Formatter().parse(self.text) if name is not None]
        if self.file == '-':
            return ()
        names = {**FUNCTIONS, 'd': content(self.file)}
        try:
            values = [eval(value, names) for value in self.values.split(';')]
            if len(values) != len(holes):
                raise ValueError(f'{len(values)} values for {len(holes)} holes')
            return tuple(hole.format(value).replace('e-0', 'e-') for hole, value in zip(holes, values))
        except Exception as error:
            raise SystemExit(f'{TABLE.name}:{self.number}: {self.values}: {type(error).__name__}: {error}') from error

    def found(self, page: str) -> List[Tuple[str, ...]]:
        """The figures of each place of a page that has the text."""
        return [match.groups() for match in self.pattern().finditer(page)]

    def mended(self, page: str) -> str:
        """The page with the figures of the results."""
        def replace(match: 're.Match[str]') -> str:
            text, start = match.group(), match.start()
            for number, new in reversed(list(enumerate(self.figures(), 1))):
                text = text[:match.start(number) - start] + new + text[match.end(number) - start:]
            return text
        return self.pattern().sub(replace, page)


def lines() -> List[Line]:
    with TABLE.open(encoding='utf-8', newline='') as file:
        rows = enumerate(csv.reader(file, delimiter='\t', quoting=csv.QUOTE_NONE), 1)
        return [Line(number, *row) for number, row in rows if row and not row[0].startswith('#')]


def content(names: str) -> Any:
    """What a line's file, or files, contain."""
    paths = [path for name in names.split() for path in sorted(ROOT.glob(name))]
    if not paths:
        raise SystemExit(f'{names}: no such file')
    found = [_read(path) for path in paths]
    return found if len(found) > 1 or '*' in names else found[0]


def _read(path: Path) -> Any:
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.json':
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines()] if path.suffix == '.jsonl' else text


def ratio(row: Dict[str, Any], one: str, other: str) -> float:
    """Median over the windows of the speed of ``one`` as a multiple of that of ``other``, or of a limit ('fp32');
    windows that were dropped are None."""
    windows = {name: value['windows'] for name, value in {**row['limits'], **row['rates']}.items()}
    return median(a / b for a, b in zip(windows[one], windows[other]) if a and b)


def engine(result: Dict[str, Any], backend: str, precision: str) -> Dict[str, Any]:
    """The row of an accuracy file."""
    return next(row for row in result['rows'] if (row['backend'], row['precision']) == (backend, precision))


def at(result: Dict[str, Any], model: str, batch: int, threads: int) -> Dict[str, Any]:
    """The row of a benchmark file."""
    return next(row for row in result['rows']
                if (row['model'], row['batch'], row['threads']) == (model, batch, threads))


def against_best(result: Dict[str, Any], precision: str) -> List[float]:
    """Our fastest engine against the fastest peer of a precision, for each row of a benchmark file."""
    found = []
    for row in result['rows']:
        names = [name for name in row['rates'] if name.endswith(precision)
                 or precision == 'fp32' and name in ('timm PyTorch eager', 'timm PyTorch compile')]
        fastest = [max((name for name in names if name.startswith('ours') is ours),
                       key=lambda name, row=row: row['rates'][name]['median']) for ours in (True, False)]
        found.append(ratio(row, *fastest))
    return found


def accuracies(runs: List[List[Dict[str, Any]]], choose: Any = lambda found: found[-1]) -> List[float]:
    """Top-1 in percent of each run's last epoch, or of the epoch that ``choose`` (max) takes. Logs that are text are
    left out, here, and all others in ``minutes``."""
    return [100 * choose([record['val_top1'] for record in run if 'val_top1' in record])
            for run in runs if isinstance(run, list)]


def minutes(logs: List[str]) -> float:
    """Mean time of runs, from their logs."""
    return mean(sum(map(float, re.findall(r', time: ([\d.]+)', log))) / 60 for log in logs if isinstance(log, str))


def number(text: str, pattern: str) -> float:
    """The figure that the group of ``pattern`` finds in a text."""
    return float(re.search(pattern, text, re.M).group(1))


def largest(log: str, key: str = '', kind: str = 'max') -> float:
    """The largest difference in a log of reprod_log, or that of one key."""
    text = log[log.index(f'INFO: {key}:'):].partition('max diff' if kind == 'mean' else '\0')[0] if key else log
    found = re.findall(rf'{kind} diff: check passed: \w+, value: (\S+)', text)
    return float(found[0]) if key else max(map(float, found))


def fitting(report: Dict[str, Any]) -> List[float]:
    """Of openvino_parts.json: how many times as fast as padded ones the parts are that the engine takes for sizes that
    come often, in each case where it has others."""
    from types import SimpleNamespace

    from CaiT.deploy.engines.openvino_engine import Engine, Plan
    found = []
    for row in report['rows']:
        streams = row['threads']
        plan = Engine._fitting(SimpleNamespace(chunk=8, streams=streams, part=8 // streams), row['images'])
        if plan != Plan(8 // streams, streams):
            found.append(row['ratios']['whole' if plan.streams < streams else 'even'])
    return found


FUNCTIONS = {function.__name__: function for function in (
    accuracies, against_best, at, engine, fitting, largest, len, mean, median, min, max, minutes, number, ratio, stdev,
    sum, re.findall)}


def differences() -> Iterator[Tuple[Line, List[Tuple[str, ...]], Tuple[str, ...]]]:
    """(line, figures of the page, figures of the results) where the two differ."""
    for line in lines():
        found, expected = line.found((ROOT / line.page).read_text(encoding='utf-8')), line.figures()
        if set(found) != {expected}:
            yield line, found, expected


def untraced(page: str, text: str) -> List[str]:
    """The figures of a page that are in no line of the table: 'line number: figure'."""
    def blank(match: 're.Match[str]') -> str:
        return re.sub(r'[^\n]', ' ', match.group())
    for line in lines():
        if line.page == page:
            text = line.pattern().sub(blank, text)
    for pattern in (WRITTEN, COMPARED, SEEN, r'^```.*?^```', r'`[^`]+`',
                    r'^#.*?$', r'\]\([^)\s]+\)', r'<!--.*?-->', VERSION):
        text = re.sub(pattern, blank, text, flags=re.M | re.S)
    return [f'{page}:{text[:match.start()].count(chr(10)) + 1}: {match.group()}' for match in FIGURE.finditer(text)]


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.switch('write', help="put the results' figures into the documents")
    options = parser.parse_args(arguments)
    status = 0
    for line, found, expected in differences():
        if not found:
            print(f'{TABLE.name}:{line.number}: {line.page} has no text like: {line.text}')
        elif options.write:
            path = ROOT / line.page
            path.write_text(line.mended(path.read_text(encoding='utf-8')), encoding='utf-8')
            print(f'{line.page}: {line.text}: now {", ".join(expected)}')
            continue
        else:
            print(f'{line.page}: {line.text}: found {" and ".join(map(", ".join, found))}, '
                  f'expected {", ".join(expected)}')
        status = 1
    for page in PAGES:
        for figure in untraced(page, (ROOT / page).read_text(encoding='utf-8')):
            print(f'{figure}: no line of {TABLE.name}')
            status = 1
    return status


if __name__ == '__main__':
    run(main)
