# SPDX-License-Identifier: Apache-2.0
"""The benchmark report, line by line, as its parsers expect it."""
from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from CaiT.deploy import autolog

EXPECTED = r"""\[DATE\] root INFO:[ ]

\[DATE\] root INFO: ---------------------- Env info ----------------------
\[DATE\] root INFO:  OS_version: .+
\[DATE\] root INFO:  CUDA_version: None
\[DATE\] root INFO:  CUDNN_version: None
\[DATE\] root INFO:  drivier_version: None
\[DATE\] root INFO: ---------------------- Paddle info ----------------------
\[DATE\] root INFO:  paddle_version: \S+
\[DATE\] root INFO:  paddle_commit: \S+
\[DATE\] root INFO:  log_api_version: 1\.0
\[DATE\] root INFO: ----------------------- Conf info -----------------------
\[DATE\] root INFO:  runtime_device: cpu
\[DATE\] root INFO:  ir_optim: True
\[DATE\] root INFO:  enable_memory_optim: False
\[DATE\] root INFO:  enable_tensorrt: False
\[DATE\] root INFO:  enable_mkldnn: True
\[DATE\] root INFO:  cpu_math_library_num_threads: 2
\[DATE\] root INFO: ----------------------- Model info ----------------------
\[DATE\] root INFO:  model_name: cait_xxs24_224
\[DATE\] root INFO:  precision: bf16
\[DATE\] root INFO: ----------------------- Data info -----------------------
\[DATE\] root INFO:  batch_size: 4
\[DATE\] root INFO:  input_shape: 3x224x224
\[DATE\] root INFO:  data_num: 2
\[DATE\] root INFO: ----------------------- Perf info -----------------------
\[DATE\] root INFO:  cpu_rss\(MB\): \d+\.\d{4}, gpu_rss\(MB\): None, gpu_util: None%
\[DATE\] root INFO:  total time spent\(s\): 2\.6000
\[DATE\] root INFO:  preprocess_time\(ms\): 250\.0000, inference_time\(ms\): 1000\.0000, postprocess_TIME
""".replace('DATE', r'\d{4}/\d\d/\d\d \d\d:\d\d:\d\d').replace('TIME', r'time\(ms\): 50\.0000')
ENGINE = {'device': 'cpu', 'ir_optim': True, 'memory_optim': False, 'tensorrt': False, 'mkldnn': True, 'threads': 2}


@pytest.fixture
def stage_times(monkeypatch):
    seconds = iter([10.0, 10.2, 11.2, 11.3, 20.0, 20.3, 21.3, 21.3])
    monkeypatch.setattr(time, 'perf_counter', lambda: next(seconds))
    times = autolog.StageTimes()
    for _ in range(2):
        times.start()
        for _ in range(3):
            times.stamp()
    return times


def test_report_is_exact(stage_times, capsys):
    assert stage_times.batches == 2
    autolog.emit(autolog.report(stage_times, 'cait_xxs24_224', 'bf16', 4, '3x224x224', ENGINE))
    assert re.fullmatch(EXPECTED, capsys.readouterr().out)


def test_log_parsers_find_every_key(stage_times, capsys):
    """Split at blanks, the value is the next word up to a comma: PaddleDetection's log_parser_excel."""
    autolog.emit(autolog.report(stage_times, 'cait_xxs24_224', 'bf16', 4, '3x224x224', ENGINE))
    words = [word for line in capsys.readouterr().out.splitlines() for word in line.split(' ')]
    for key, value in {'runtime_device:': 'cpu', 'precision:': 'bf16', 'batch_size:': '4', 'data_num:': '2',
                       'inference_time(ms):': '1000.0000', 'preprocess_time(ms):': '250.0000', 'gpu_util:': 'None%',
                       'gpu_rss(MB):': 'None', 'enable_mkldnn:': 'True', 'input_shape:': '3x224x224'}.items():
        assert words[words.index(key) + 1].strip().split(',')[0] == value


def test_memory_is_the_peak_of_this_process():
    code = ("from CaiT.deploy import autolog; before = autolog.peak_rss_mb(); block = bytearray(b'x') * (200 << 20); "
            "del block; print(autolog.peak_rss_mb() - before)")
    grown = float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)
    assert 195 < grown < 220  # it stays after the block is gone


def test_absent_gpu_tools_do_not_hang(stage_times, monkeypatch):
    monkeypatch.setenv('PATH', '')
    lines = autolog.report(stage_times, 'm', 'fp32', 1, '3x8x8', {**ENGINE, 'device': 'gpu'})
    assert ' runtime_device: gpu' in lines and ' drivier_version: None' in lines
