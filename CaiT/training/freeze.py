# SPDX-License-Identifier: Apache-2.0
"""Which parameters are trained: TRAIN.FREEZE, for linear probing, BitFit and the like."""
from __future__ import annotations

import fnmatch
from typing import Sequence

from paddle import nn

from CaiT.errors import InputError
from CaiT.weights.load_report import brief


def freeze(model: nn.Layer, patterns: Sequence[str]) -> str:
    """Stop the gradients of the parameters whose names match; returns a line for the log, '' without patterns.

    A pattern has the wildcards of fnmatch and is matched against the whole public name ('blocks.0.attn.qkv.weight').
    One that begins with '!' trains what it matches after all; of several that match a name, the last counts. InputError
    for a pattern that matches no parameter, and when none is left to train.
    """
    parameters = dict(model.named_parameters())
    frozen = set()
    for pattern in patterns:
        matched = fnmatch.filter(parameters, pattern.lstrip('!'))
        if not matched:
            some = brief(parameters)
            raise InputError(f'TRAIN.FREEZE: {pattern!r} matches no parameter, expected a pattern of names like '
                             f'{some[0]}, {some[len(some) // 2]} or {some[-1]}')
        frozen = frozen - set(matched) if pattern.startswith('!') else frozen | set(matched)
    trained = [name for name in parameters if name not in frozen]
    if not trained:
        raise InputError(f'TRAIN.FREEZE: {list(patterns)!r} freezes every parameter, expected some to train')
    for name in frozen:
        parameters[name].stop_gradient = True
    if not patterns:
        return ''
    values = sum(int(parameters[name].size) for name in trained)
    total = sum(int(parameter.size) for parameter in parameters.values())
    return (f'frozen: {len(frozen)} of {len(parameters)} tensors; {values:,} of {total:,} values are trained: '
            f'{", ".join(brief(trained))}')
