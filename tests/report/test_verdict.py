# SPDX-License-Identifier: Apache-2.0
"""What a comparison says, and where labels of ticks change their notation."""
from __future__ import annotations

import math

import pytest

from CaiT.report.comparison import Comparison, verdict
from CaiT.report.metrics import mcnemar
from CaiT.report.svg import number


def comparison(lost, gained):
    return Comparison(100, 50, 50 - lost - gained, lost, gained, [], mcnemar(lost, gained), 0.5, 0.5, math.nan)


@pytest.mark.parametrize('lost, gained, p_value, words', [
    (3, 3, '1', 'may be chance'), (0, 5, '0.0625', 'may be chance'), (1, 9, '0.0215', 'larger than chance explains'),
    (9, 1, '0.0215', 'larger than chance explains'), (1, 0, '1', 'may be chance')])
def test_verdict(lost, gained, p_value, words):
    text = verdict(comparison(lost, gained))
    assert f'on {lost} lost and {gained} gained images: p = {p_value}; ' in text and words in text


def test_verdict_where_nothing_changed():
    assert verdict(comparison(0, 0)) == "Every image has the same outcome (McNemar's test: p = 1)."


@pytest.mark.parametrize('value, text', [(1e5, '1e5'), (99999, '99999'), (-1e5, '-1e5'), (1e-3, '0.001'),
                                         (9.99e-4, '1.0e-3'), (9.4e-4, '9.4e-4')])
def test_notation(value, text):
    assert number(value) in (text, text.replace('1.0e', '1e'))
