# SPDX-License-Identifier: Apache-2.0
"""Bicubic resampling against torch.

goldens/bicubic.npz: for '<prefix>_<old>_<new>', rule.value('pos_embed', [1, prefix + old * old, C]) with its patch rows
resampled by torch 2.13: F.interpolate(size=(new, new), mode='bicubic', align_corners=False), prefix rows as they were.
"""
from __future__ import annotations

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.weights.resample import bicubic_matrix, grid_side, resample
from tests.goldens import rule

GOLDENS = dict(np.load(rule.FOLDER / 'bicubic.npz'))


@pytest.mark.parametrize('key', GOLDENS)
def test_as_torch_resamples(key):
    prefix, old, new = map(int, key.split('_'))
    golden = GOLDENS[key][:, prefix:]
    source = rule.value('pos_embed', (1, prefix + old * old, golden.shape[2]))[:, prefix:]
    found = resample(source, new)
    assert found.dtype == np.float32 and found.shape == golden.shape
    assert np.abs(found - golden).max() < 3e-6 * np.abs(golden).max()  # antialiasing or a = -0.5 differ by 1e-2


def test_weights_sum_to_one_and_the_same_size_changes_nothing():
    for source, target in ((14, 24), (24, 14), (2, 9)):
        np.testing.assert_allclose(bicubic_matrix(source, target).sum(1), 1, atol=1e-14)
    np.testing.assert_array_equal(bicubic_matrix(7, 7), np.eye(7))


def test_grid_side():
    assert grid_side(196, 'x') == 14
    for rows in (195, 0, -1):
        with pytest.raises(InputError, match='^x has'):
            grid_side(rows, 'x')
