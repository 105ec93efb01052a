# SPDX-License-Identifier: Apache-2.0
"""Writes the small CaiT as Paddle 2 would: python write_pdmodel.py PATH makes PATH.pdmodel and PATH.pdiparams.

Paddle 3.3 still writes the old format, but its matmul and gelu refuse the old format's variables: here they are
written by operators that it still takes.
"""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # in a clone that is not installed
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument('path', metavar='PATH')
path = parser.parse_args().path

os.environ['FLAGS_enable_pir_api'] = '0'  # read when Paddle is imported

import paddle  # noqa: E402
from small_models import small  # noqa: E402

from CaiT.deploy.engines import paddle_ops  # noqa: E402
from CaiT.deploy.simplify import from_model, simplify  # noqa: E402


def matmul(x, y, transpose_y=False):
    axes = list(range(len(y.shape)))
    return x @ (y.transpose([*axes[:-2], axes[-1], axes[-2]]) if transpose_y else y)


layer = paddle_ops.InferenceLayer(simplify(from_model(small('cait')), 'matmul', True))
layer.ops.matmul = matmul
layer.ops.gelu = lambda x: x * 0.5 * (1.0 + paddle.erf(x / 2 ** 0.5))
paddle.jit.save(layer, path, input_spec=[paddle.static.InputSpec(layer.shape(None), layer.dtype, 'x')])
