# SPDX-License-Identifier: Apache-2.0
"""Which windows of a measurement are dropped because the machine was slow."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.quiet_windows import QuietWindows, slow_windows
from benchmarks.train_step import quiet_rounds, summary

QUIET = ((1.0, 2.0), (1.0, 2.0))


@pytest.mark.parametrize('window, is_slow', [
    (QUIET, False), (((1.29, 2.0), (1.0, 2.59)), False),
    (((1.31, 2.0), (1.0, 2.0)), True), (((1.0, 2.61), (1.0, 2.0)), True),
    (((1.0, 2.0), (1.31, 2.0)), True), (((1.0, 2.0), (1.0, 2.61)), True)])
def test_one_probe_out_of_four_is_enough(window, is_slow):
    assert slow_windows([QUIET, QUIET, window, QUIET]) == [False, False, is_slow, False]


def test_one_very_fast_probe_does_not_make_the_others_slow():
    windows = [(QUIET[0], (0.5, 1.0))] + [QUIET] * 9
    assert slow_windows(windows) == [False] * 10 and slow_windows([]) == []


def test_each_window_has_two_probes():
    windows = QuietWindows()
    assert [windows.run(window) for window in (lambda: 3, lambda: 4)] == [3, 4]
    assert len(windows.probes) == 2 and all(seconds > 0 for pair in windows.probes for probe in pair
                                            for seconds in probe)


def test_a_round_with_one_slow_window_is_dropped_and_the_warm_up_round_never_counts():
    slow = ((9.0, 2.0), (1.0, 2.0))
    assert quiet_rounds([slow, QUIET, QUIET, QUIET, QUIET, slow, QUIET, QUIET], 2) == [True, False, True]


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    assert summary([2.0, 9.0, 4.0], [1.0, 3.0, 4.0], 'timm') == {
        'images/s': 4.0, 'best': 9.0, 'against timm': 2.0, 'rounds': [2.0, 9.0, 4.0]}
