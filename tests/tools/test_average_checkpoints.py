# SPDX-License-Identifier: Apache-2.0
"""The mean of checkpoints, by value; what does not fit is named."""
from __future__ import annotations

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.tools import average_checkpoints
from CaiT.training import checkpoint
from CaiT.weights.readers import read


@pytest.fixture
def folder(tmp_path):
    for number, value in enumerate((1.0, 2.0, 6.0)):
        checkpoint.write_weights(tmp_path / f'{number}.pdparams', {
            'a': np.full((2, 3), value, np.float32), 'b': np.array([value * 1e-8 + 1], np.float32)})
    return tmp_path


def run(folder, *names, output='mean.pdparams'):
    return average_checkpoints.main([str(folder / output), *(str(folder / name) for name in names)])


def test_the_mean(folder):
    assert run(folder, '0', '1.pdparams', '2') == 0
    arrays = read(folder / 'mean.pdparams')
    assert arrays['a'].dtype == np.float32 and np.array_equal(arrays['a'], np.full((2, 3), 3, np.float32))
    assert list(arrays) == ['a', 'b']


@pytest.mark.parametrize('change, message', [
    ({'a': np.zeros((3, 2), np.float32)}, 'a: found shape [3, 2], expected shape [2, 3] as in {first}'),
    ({'b': None}, 'b: found nothing, expected shape [1] as in {first}'),
    ({'c': np.zeros(2, np.float32)}, 'c: found shape [2], expected nothing as in {first}'),
    ({'b': np.array([np.inf], np.float32)}, 'b holds NaN or infinite numbers'),
    ({'b': np.array([1e39])}, 'b holds NaN or infinite numbers'),
    ({'b': np.array([1])}, 'b: found int64, expected floating-point numbers'),
])
def test_what_does_not_fit_is_named(folder, change, message):
    arrays = {**read(folder / '1'), **change}
    checkpoint.write_weights(folder / '1.pdparams', {name: one for name, one in arrays.items() if one is not None})
    with pytest.raises(InputError) as error:
        run(folder, '0', '1')
    assert str(error.value) == f'{folder}/1.pdparams: ' + message.format(first=f'{folder}/0.pdparams')
    assert not (folder / 'mean.pdparams').exists()


@pytest.mark.parametrize('names, output, message', [
    (['0', '0'], 'mean.pdparams', 'expected at least two different files'),
    (['0'], 'mean.pdparams', 'expected at least two different files'),
    (['0', '1'], '2.pdparams', '2.pdparams: is there already, expected the name of a new file'),
    (['0', '1'], 'mean.pth', 'mean.pth: expected a name that ends in .pdparams'),
])
def test_refused(folder, names, output, message):
    with pytest.raises(InputError, match=message):
        run(folder, *names, output=output)
