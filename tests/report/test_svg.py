# SPDX-License-Identifier: Apache-2.0
"""Charts: round ticks, labels that can be told apart, points where their numbers say."""
from __future__ import annotations

import math
import re

import pytest

from CaiT.report.svg import Axes, Series, labels, line_chart, number, ticks


@pytest.mark.parametrize('low, high, count, integer, expected', [
    (0, 1, 5, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (1, 30, 6, True, [5, 10, 15, 20, 25, 30]),
    (1, 3, 6, True, [1, 2, 3]), (1, 2, 6, True, [1, 2]), (0, 1, 6, True, [0, 1]), (7, 7, 5, False, [7]),
    (-0.3, 0.3, 6, False, [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]), (0, 2e-3, 4, False, [0, 5e-4, 1e-3, 1.5e-3, 2e-3])])
def test_ticks(low, high, count, integer, expected):
    assert ticks(low, high, count, integer) == pytest.approx(expected)


@pytest.mark.parametrize('value, text', [(0, '0'), (0.25, '0.25'), (30.0, '30'), (1e-5, '1e-5'), (1.5e-4, '1.5e-4'),
                                         (2.5e6, '2.5e6'), (1000, '1000'), (-0.5, '-0.5')])
def test_number(value, text):
    assert number(value) == text


def test_points_lie_where_their_numbers_say():
    axes = Axes((0, 10), (0, 100), 'x', 'y')
    assert (axes.x(10) - axes.x(5), axes.y(0) - axes.y(50)) == pytest.approx(
        ((axes.x(10) - axes.x(0)) / 2, (axes.y(0) - axes.y(100)) / 2))
    path = re.search(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', axes.line(Series('a', [(0, 0), (10, 100)], '#000')))
    ends = [axes.x(0), axes.y(0), axes.x(10), axes.y(100)]
    assert [float(value) for value in path.groups()] == pytest.approx(ends, abs=0.1)


def test_epochs_have_whole_ticks():
    plotted = line_chart([Series('a', [(1, 0.5), (2, 0.7), (3, 0.6)], '#000')], 'epoch', 'loss', 'd', True)
    labels = re.findall(r'y="224" text-anchor="middle">([^<]*)<', plotted)
    assert labels == ['1', '2', '3'] and '>epoch<' in plotted and '>loss<' in plotted


def test_gaps_and_nothing():
    broken = line_chart([Series('a', [(1, 1), (2, 2), (3, math.nan), (4, 1), (5, 2)], '#000')], 'x', 'y', 'd')
    assert broken.count('<path d="M') == 2 and 'nan' not in broken
    assert 'no values yet' in line_chart([Series('a', [(1, math.inf)], '#000')], 'x', 'y', 'd')


def test_small_values_share_one_notation():
    plotted = line_chart([Series('a', [(0, 0), (1, 2e-3)], '#000')], 'x', 'y', 'd')
    assert '>1e-3<' in plotted and '>5e-4<' in plotted and '0.001' not in plotted


@pytest.mark.parametrize('values, shown', [
    ([2.30258, 2.3026, 2.30262], ['2.30258', '2.30260', '2.30262']), ([1e-4, 1.02e-4], ['0.000100', '0.000102']),
    ([123456, 123457], ['123456', '123457']), ([0.5, 1], ['0.5', '1']), ([7.0], ['7']), ([], [])])
def test_no_two_ticks_have_one_label(values, shown):
    assert labels(values) == shown


@pytest.mark.parametrize('percent, top', [(True, '100%'), (False, '1')])
def test_an_axis_of_zeros_starts_at_zero(percent, top):
    """An accuracy of 0 in every epoch is no reason for an axis from -50 % to 50 %."""
    plotted = line_chart([Series('a', [(1, 0.0), (2, 0.0)], '#000')], 'epoch', 'accuracy', 'd', True, percent)
    found = re.findall(r'text-anchor="end">([^<]*)<', plotted)
    assert found[0] == ('0%' if percent else '0') and found[-1] == top and not any('-' in one for one in found)


@pytest.mark.parametrize('most, ticks_', [(1, ['0', '1']), (3, ['0', '1', '2', '3'])])
def test_counts_have_whole_ticks(most, ticks_):
    plotted = Axes((0, 1), (0, 1.05 * most), 'x', 'images', integer_y=True).svg('', 'd')
    assert re.findall(r'text-anchor="end">([^<]*)<', plotted) == ticks_


def test_text_is_escaped():
    plotted = line_chart([Series('a<b>&', [(0, 0), (1, 1)], '#000')], '<x>', '"y"', '"d"')
    assert 'a&lt;b&gt;&amp;' in plotted and '<x>' not in plotted
