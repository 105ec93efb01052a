# SPDX-License-Identifier: Apache-2.0
"""TRAIN.FREEZE: what is trained, what keeps its bits, and that both can be resumed."""
from __future__ import annotations

import fnmatch

import numpy as np
import pytest

from CaiT import create_model
from CaiT.errors import InputError
from CaiT.training import checkpoint, jobs
from CaiT.training.freeze import freeze

PROBE, BITFIT = ['*', '!head*'], ['*', '!*.bias', '!head*']


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}


@pytest.mark.parametrize('name', ['cait', 'vit', 'deit_tiny_distilled_patch16_224'])
@pytest.mark.parametrize('patterns, wanted', [
    (PROBE, ['head*']), (BITFIT, ['*.bias', 'head*']), (['*.weight', '!norm.weight', '*token'], None), ([], ['*'])])
def test_what_is_trained_by_name(name, patterns, wanted):
    model = create_model(name, embed_dim=16, depth=1, num_heads=2, image_size=32)
    names = [name for name, _ in model.named_parameters()]
    line = freeze(model, patterns)
    expected = {name for pattern in wanted for name in fnmatch.filter(names, pattern)} if wanted else {
        name for name in names if name == 'norm.weight' or not name.endswith(('.weight', 'token'))}
    assert trained_names(model) == expected
    assert (line == '') == (not patterns) and (not patterns or f'frozen: {len(names) - len(expected)} of ' in line)


@pytest.mark.parametrize('patterns, message', [
    (['heads*'], "TRAIN.FREEZE: 'heads*' matches no parameter, expected a pattern of names like "),
    (['*', '!Head.weight'], "TRAIN.FREEZE: '!Head.weight' matches no parameter, expected "),
    (['*'], "TRAIN.FREEZE: ['*'] freezes every parameter, expected some to train"),
    (['!*', '*'], "TRAIN.FREEZE: ['!*', '*'] freezes every parameter, expected some to train")])
def test_patterns_that_cannot_be_meant(patterns, message):
    with pytest.raises(InputError) as caught:
        freeze(create_model('vit', embed_dim=16, depth=1, num_heads=2, image_size=32), patterns)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize('opts', [[], ['TRAIN.RECOMPUTE', True], ['TRAIN.ACCELERATE', False],
                                  ['TRAIN.OPTIMIZER.NAME', 'LAMB'], ['TRAIN.OPTIMIZER.NAME', 'Momentum']])
@pytest.mark.parametrize('patterns, wanted', [(PROBE, ['head*']), (BITFIT, ['*.bias', 'head*'])])
def test_frozen_weights_keep_their_bits_and_the_run_resumes(config, trained_once, tmp_path, opts, patterns, wanted):
    start = checkpoint.read(trained_once / 'last.pdstate')['model']
    opts = [*opts, 'TRAIN.FREEZE', patterns, 'TRAIN.WARMUP_EPOCHS', 0, 'TRAIN.EMA_DECAY', 0.5]
    jobs.train(config(*opts, pretrained=str(trained_once / 'last'), epochs=1, output_dir=str(tmp_path)))
    jobs.train(config(*opts, pretrained=str(trained_once / 'last'), output_dir=str(tmp_path), resume='auto'))
    state = checkpoint.read(tmp_path / 'last.pdstate')
    changed = {name for name, array in state['model'].items() if not np.array_equal(array, start[name])}
    assert changed == {name for pattern in wanted for name in fnmatch.filter(start, pattern)}
    assert {key.split('/')[0] for key in state['optimizer']} == changed
    assert 'frozen: ' in (tmp_path / 'log_train.txt').read_text()


def test_the_line_counts_tensors_and_values():
    model = create_model('vit', embed_dim=16, depth=1, num_heads=2, image_size=32, num_classes=3)
    total = sum(int(parameter.size) for parameter in model.parameters())
    assert freeze(model, PROBE) == (f'frozen: {len(model.parameters()) - 2} of {len(model.parameters())} tensors; '
                                    f'51 of {total:,} values are trained: head.weight, head.bias')
