# SPDX-License-Identifier: Apache-2.0
"""What benchmarks report by number: medians, ratios, and the speed that the GEMMs alone would allow."""
from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from CaiT.tools import benchmark
from CaiT.tools.model_table import macs

sys.path.append(str(Path(__file__).resolve().parents[2] / 'benchmarks'))
import against_peers
import cold_start


def test_throughput_and_ratio():
    """The ratio is the median of the ratios, not the ratio of the medians."""
    one, other = benchmark.throughput([4.0, 1.0, 9.0]), benchmark.throughput([1.0, 2.0, 10.0])
    assert one == {'median': 4.0, 'best': 9.0, 'worst': 1.0, 'windows': [4.0, 1.0, 9.0]}
    assert benchmark.ratio(one, other) == 0.9 and benchmark.ratio(other, one) == pytest.approx(10 / 9)


def test_a_limit_is_gemms_speed_over_the_models_operations():
    """A multiply-add is two operations."""
    rates = {'GEMM f32, GFLOP': benchmark.throughput([100.0, 300.0, 200.0]), 'ours': benchmark.throughput([1.0])}
    found = against_peers.limits(rates, 'vit_base_patch32_224')
    per_image = 2 * macs('vit_base_patch32_224')['total'] / 1e9
    assert list(rates) == ['ours'] and list(found) == ['fp32']
    assert found['fp32']['median'] == pytest.approx(200 / per_image)
    assert found['fp32']['windows'] == pytest.approx([100 / per_image, 300 / per_image, 200 / per_image])


def test_operations_of_the_gemms(monkeypatch):
    pytest.importorskip('openvino')
    monkeypatch.setattr(against_peers, 'window', lambda run, images: run() and (lambda seconds: (3, seconds)))
    linear = SimpleNamespace(weight=SimpleNamespace(shape=[16, 64]))
    model = SimpleNamespace(embed_dim=16, blocks=[SimpleNamespace(mlp=SimpleNamespace(fc1=linear))],
                            patch_embed=SimpleNamespace(num_patches=4))
    (run,) = against_peers.gemm(model, 'f32', 1).values()
    products = 16 * 48 + 48 * 16 + 16 * 16 + 16 * 64 + 64 * 16
    amount, seconds = run(0.5)
    assert seconds == 0.5 and amount == pytest.approx(3 * 6 * 2 * 8 * 4 * products / 1e9)


def test_cold_starts_are_compared_round_by_round():
    """The median of the ratios is not the ratio of the medians."""
    found = cold_start.rows({cold_start.IMPORT: [1.0, 1.0, 1.0], cold_start.BARE: [1.0, 2.0, 10.0],
                             'ours paddle': [4.0, 1.0, 9.0]})['ours paddle']
    assert (found['ratio to bare'], found['seconds'], found['best'], found['above import paddle']) == (0.9, 4, 1, 3)
