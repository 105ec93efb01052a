# SPDX-License-Identifier: Apache-2.0
"""This project's side of the training benchmark; the other side needs timm and is not tested here."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'train_step.py'


@pytest.mark.slow
def test_one_step_per_request():
    result = subprocess.run([sys.executable, str(SCRIPT), '--serve', 'ours', '--batches', '2'], text=True, check=True,
                            input='\n\n', capture_output=True)
    ready, first, second = map(json.loads, result.stdout.splitlines())
    assert ready['settings'].startswith('runtime: ')
    assert 0 < second['seconds'] < 60 and 300 < first['peak'] <= second['peak'] < 3000


def test_a_peer_that_lacks_timm_is_one_line(tmp_path):
    (tmp_path / 'python').write_text('#!/bin/sh\necho "No package metadata was found for timm" >&2; exit 1\n')
    (tmp_path / 'python').chmod(0o755)
    result = subprocess.run([sys.executable, str(SCRIPT), '--peer-python', str(tmp_path / 'python'), '--output',
                             str(tmp_path / 'x.json')], text=True, check=False, capture_output=True)
    assert result.returncode == 2 and result.stderr.count('\n') == 1
    assert 'lacks something: No package metadata was found for timm' in result.stderr
