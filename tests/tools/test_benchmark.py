# SPDX-License-Identifier: Apache-2.0
"""python -m CaiT.tools.benchmark measures what it exports; benchmarks/threads.py compares answers."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from CaiT.errors import InputError
from CaiT.tools import benchmark

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_model_is_exported_and_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, 'OURS', [('paddle', 'fp32')])
    command = 'benchmark -models deit_tiny_patch16_224 --batches 1 --threads 1 --rounds 3 --seconds 0.01 --json'
    monkeypatch.setattr(sys, 'argv', [*command.split(), str(tmp_path / 'b.json')])
    assert benchmark.main() == 0
    rates = json.loads((tmp_path / 'b.json').read_text())['rows'][0]['rates']
    assert set(rates) == {'ours paddle fp32', 'ours paddle uint8 fp32'}
    assert all(len(row['windows']) == 3 and row['worst'] > 0 for row in rates.values())
    assert 'cells left: 0' in capsys.readouterr().out


def test_answers_of_another_thread_end_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import threads

    class Mixed:
        """Answers with the image before."""
        engine = type('Engine', (), {'graph': 'graph'})
        last = np.zeros(1)

        def logits(self, image):
            answer, self.last = self.last, image
            return answer

    with pytest.raises(InputError, match='answered with other logits'):
        threads.clients(Mixed(), [np.ones(1), 2 * np.ones(1)])(0.01)
    honest = type('Honest', (Mixed,), {'logits': lambda self, image: image})
    assert threads.clients(honest(), [np.ones(1), 2 * np.ones(1)])(0.0)[0] == 2
