# SPDX-License-Identifier: Apache-2.0
"""Logits that overflow are an error of infer, of the server's engine and of export; those that are all 0 are none."""
from __future__ import annotations

import re

import numpy as np
import pytest
from small_models import small_data

from CaiT.deploy import parity
from CaiT.deploy.engines import Options
from CaiT.deploy.engines.paddle_engine import Engine
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('row', [0, 2])
def test_logits_of_an_engine(cait, checks, images, tmp_path, monkeypatch, value, row):
    export(cait, tmp_path, 'x', small_data(), checks, {'file': 'w', 'sha256': ''}, [('paddle', 'fp32', 'float')])
    run = Engine.run

    def overflowing(engine, batch):
        logits = run(engine, batch).copy()
        logits[row, -1] = value
        return logits
    predictor = Predictor(str(tmp_path), 'paddle', Options())
    assert len(list(predictor.predict(images))) == 5
    monkeypatch.setattr(Engine, 'run', overflowing)
    with pytest.raises(InputError, match=re.escape(f'{tmp_path}/inference.json: found logits that are not finite (NaN '
                                                   'or Inf), expected a model whose numbers do not overflow in fp32')):
        list(predictor.predict(images))


@pytest.mark.parametrize('value, rows', [(np.nan, 2), (np.inf, 7)])
def test_logits_of_the_model_that_is_exported(checks, value, rows):
    reference = np.ones((7, 10), np.float32)
    reference[:rows, 3] = value
    with pytest.raises(InputError, match=f'^model: its logits are not finite on {rows} of 7 images, expected weights '):
        parity.measure(reference, lambda x: np.ones((len(x), 10)), checks.pixels)


@pytest.mark.parametrize('found, relative', [(0.0, 0.0), (1e-3, 1e27)])
def test_logits_that_are_all_zero(checks, found, relative):
    """A new head may be zeros; it was a ZeroDivisionError."""
    measured = parity.measure(np.zeros((7, 10), np.float32), lambda x: np.full((len(x), 10), found), checks.pixels)
    assert measured['relative'] == pytest.approx(relative) and measured['max_abs_logit'] == 0
