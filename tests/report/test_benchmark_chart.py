# SPDX-License-Identifier: Apache-2.0
"""The benchmark charts: bars and numbers are the medians, one precision per panel, its limit in no other."""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Dict, List, Tuple
from xml.etree import ElementTree

import pytest

from CaiT.report import benchmark_chart
from CaiT.report.benchmark_chart import COLORS, MARGIN, NAMES, PANEL, PRECISIONS, VALUES, chosen, labels

RESULTS = Path(__file__).resolve().parents[2] / 'benchmarks' / 'results'
NS = '{http://www.w3.org/2000/svg}'


def result(*rows: Tuple[str, int, int, Dict[str, float], Dict[str, float]]) -> dict:
    return {'rows': [{'model': model, 'threads': threads, 'batch': batch,
                      'limits': {kind: {'median': value} for kind, value in limits.items()},
                      'rates': {name: {'median': value} for name, value in rates.items()}}
                     for model, threads, batch, limits, rates in rows]}


def texts(svg: str) -> List[str]:
    return [''.join(one.itertext()) for one in ElementTree.fromstring(svg).iter(f'{NS}text')]


@pytest.mark.parametrize('values, expected', [
    ([34.9, 31.2], ['35', '31']), ([105.4, 104.6], ['105.4', '104.6']), ([9.36, 9.44, 40], ['9.4', '9.4', '40.0']),
    ([7.0], ['7']), ([], [])])
def test_one_decimal_where_two_are_close(values, expected):
    assert labels(values) == expected


def test_one_row_per_model():
    """The most threads, then the batch nearest to 8."""
    rows = [('a', 1, 8, {}, {'ours paddle fp32': 1}), ('a', 2, 32, {}, {'ours paddle fp32': 2}),
            ('a', 2, 4, {}, {'ours paddle fp32': 3}), ('b', 4, 1, {}, {'ours paddle fp32': 4})]
    assert [(row['model'], row['threads'], row['batch']) for row in chosen(result(*rows))] == [('a', 2, 4), ('b', 4, 1)]


def test_bars_are_to_scale_and_the_limit_is_in_its_panel():
    svg = benchmark_chart.benchmark_chart(result(
        ('m', 2, 8, {'bf16': 100.0}, {'ours paddle fp32': 40.0, 'timm PyTorch eager': 10.0, 'ours paddle bf16': 25.0})))
    width = PANEL - NAMES - VALUES
    bars = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="14" fill="(#\w+)"', svg)
    second = MARGIN + PANEL + benchmark_chart.GAP + NAMES
    assert bars == [(f'{MARGIN + NAMES}', f'{width:.1f}', COLORS['ours']),
                    (f'{MARGIN + NAMES}', f'{width / 4:.1f}', COLORS['timm']),
                    (f'{second:.0f}', f'{width / 4:.1f}', COLORS['ours'])]
    lines = re.findall(r'class="limit" d="M([\d.]+) \d+V', svg)
    assert lines == [f'{second + width:.1f}']
    words = texts(svg)
    assert [word for word in words if 'limit ' in word] == ['limit 100'] and 'm: images/s, batch 8, 2 threads' in words
    assert words.index('fp32') < words.index('ours paddle') < words.index('timm PyTorch eager') < words.index('bf16')


@pytest.mark.parametrize('limits, threads, said', [({}, 1, '1 thread'), ({'fp32': 50.0}, 2, '2 threads')])
def test_no_limit_no_line(limits, threads, said):
    svg = benchmark_chart.benchmark_chart(result(('a<b', threads, 8, limits, {"papers' graph paddle fp32": 9.0})))
    assert ('class="limit"' in svg) == bool(limits) and f'a<b: images/s, batch 8, {said}' in texts(svg)
    assert 'this project' not in texts(svg) and "papers' graph paddle" in texts(svg)


@pytest.mark.parametrize('path', sorted(path for path in RESULTS.glob('*.json') if path.with_suffix('.svg').exists()),
                         ids=lambda path: path.name)
def test_the_charts_of_the_repository(path):
    """Regenerated they are the same; every median of the rows shown stands in them."""
    found = json.loads(path.read_text(encoding='utf-8'))
    svg = benchmark_chart.benchmark_chart(found)
    assert path.with_suffix('.svg').read_text(encoding='utf-8') == svg, 'run `make figures`'
    words, wanted = texts(svg), []
    for row in chosen(found):
        for kind in PRECISIONS:
            values = [speed['median'] for name, speed in row['rates'].items()
                      if benchmark_chart.precision_of(name) == kind]
            close = any(abs(a - b) < 1 for i, a in enumerate(values) for b in values[:i])
            wanted += [f'{value:.{int(close)}f}' for value in values]
    height = float(ElementTree.fromstring(svg).get('height'))
    assert not set(wanted) - set(words) and len(wanted) >= 20 and height < 1300
