# SPDX-License-Identifier: Apache-2.0
"""Logits that overflow are an error of infer, of the server's engine and of export; those that are all 0 are none."""
from __future__ import annotations

import copy
import re
from types import SimpleNamespace

import numpy as np
import pytest
from small_models import small_data

from CaiT.deploy import parity
from CaiT.deploy.attention import Attention
from CaiT.deploy.engines import Options
from CaiT.deploy.engines.paddle_engine import Engine
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError
from CaiT.report.attention import explain


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


@pytest.mark.parametrize('value', [np.nan, -np.inf])
def test_logits_of_attention_maps(cait, checks, tmp_path, value):
    """Their faithfulness had been NaN, with status 0."""
    model = copy.deepcopy(cait)
    model.head.bias.set_value(np.full(10, value, np.float32))
    with pytest.raises(InputError, match='^attention: the logits of the model are not finite, expected weights '):
        explain(model, np.zeros((1, 3, 32, 32), np.float32))
    meta = export(cait, tmp_path, 'x', small_data(), checks, {'file': 'w', 'sha256': ''},
                  [('onnxruntime', 'fp32', 'uint8')], attention=True)
    attention = Attention(tmp_path, meta)
    run = attention.engine.session.run
    attention.engine.session = SimpleNamespace(run=lambda *words: [run(*words)[0] * value, *run(*words)[1:]])
    with pytest.raises(InputError, match=r'found logits that are not finite \(NaN or Inf\), expected a model '):
        attention(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize('found, relative', [(0.0, 0.0), (1e-3, 1e27)])
def test_logits_that_are_all_zero(checks, found, relative):
    """A new head may be zeros; it was a ZeroDivisionError."""
    measured = parity.measure(np.zeros((7, 10), np.float32), lambda x: np.full((len(x), 10), found), checks.pixels)
    assert measured['relative'] == pytest.approx(relative) and measured['max_abs_logit'] == 0
