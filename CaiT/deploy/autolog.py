# SPDX-License-Identifier: Apache-2.0
"""The benchmark report of Paddle's certification scripts, in the format of the auto_log package (1.2.0).

Order, labels, spacing and the misspelled label 'drivier_version' are the package's, because log parsers depend on
them. Unlike the package, this reports the peak memory of this process, times measured after warm-up and the settings
actually in effect.
"""
from __future__ import annotations

import sys
import time
from typing import Any, Dict, List, Mapping, Optional, TextIO

STAGES = ('preprocess_time', 'inference_time', 'postprocess_time')
API_VERSION = '1.0'


class StageTimes:
    """Seconds per stage and batch: call ``start``, then ``stamp`` after every stage."""

    def __init__(self, warm_up: bool = True) -> None:
        """``warm_up``: whether the engine is to run untimed before the first measured batch."""
        self.warm_up = warm_up
        self.stages: List[List[float]] = [[] for _ in STAGES]
        self._row: List[float] = []
        self._last = 0.0

    def start(self) -> None:
        self._row, self._last = [], time.perf_counter()

    def stamp(self) -> None:
        """Record the end of the next stage; after the last stage the batch is counted."""
        now = time.perf_counter()
        self._row.append(now - self._last)
        self._last = now
        if len(self._row) == len(STAGES):
            for stage, seconds in zip(self.stages, self._row):
                stage.append(seconds)

    @property
    def batches(self) -> int:
        return len(self.stages[0])

    @property
    def total_seconds(self) -> float:
        """Over all batches and stages."""
        return sum(map(sum, self.stages))

    def mean_ms(self, stage: int) -> float:
        """Mean milliseconds of a stage per batch; 0 when nothing ran."""
        return 1000 * sum(self.stages[stage]) / max(self.batches, 1)


def report(times: StageTimes, model_name: str, precision: str, batch_size: int, input_shape: str,
           engine: Mapping[str, Any]) -> List[str]:
    """The lines of the report; ``engine`` is what ``BaseEngine.describe`` returned."""
    gpu = _gpu() if engine['device'] == 'gpu' else {}
    paddle = sys.modules.get('paddle')
    sections = [
        ('---------------------- Env info ----------------------', [
            f'OS_version: {_os()}',
            f'CUDA_version: {_cuda(paddle)}',
            f'CUDNN_version: {_cudnn(paddle)}',
            f'drivier_version: {gpu.get("driver")}']),
        ('---------------------- Paddle info ----------------------', [
            f'paddle_version: {getattr(paddle, "__version__", None)}',
            f'paddle_commit: {getattr(getattr(paddle, "version", None), "commit", None)}',
            f'log_api_version: {API_VERSION}']),
        ('----------------------- Conf info -----------------------', [
            f'runtime_device: {engine["device"]}',
            f'ir_optim: {engine["ir_optim"]}',
            f'enable_memory_optim: {engine["memory_optim"]}',
            f'enable_tensorrt: {engine["tensorrt"]}',
            f'enable_mkldnn: {engine["mkldnn"]}',
            f'cpu_math_library_num_threads: {engine["threads"]}']),
        ('----------------------- Model info ----------------------', [
            f'model_name: {model_name}',
            f'precision: {precision}']),
        ('----------------------- Data info -----------------------', [
            f'batch_size: {batch_size}',
            f'input_shape: {input_shape}',
            f'data_num: {times.batches}']),
        ('----------------------- Perf info -----------------------', [
            f'cpu_rss(MB): {peak_rss_mb():.4f}, gpu_rss(MB): {gpu.get("memory")}, gpu_util: {gpu.get("util")}%',
            f'total time spent(s): {times.total_seconds:.4f}',
            ', '.join(f'{name}(ms): {times.mean_ms(stage):.4f}' for stage, name in enumerate(STAGES))]),
    ]
    lines = ['\n']
    for title, values in sections:
        lines.append(title)
        lines.extend(f' {value}' for value in values)  # the package prints its (empty) identifier before the blank
    return lines


def emit(lines: List[str], stream: Optional[TextIO] = None) -> None:
    """Print the lines in the format of the package's root logger."""
    from datetime import datetime
    stamp = datetime.now().strftime('%Y/%m/%d %H:%M:%S')
    for line in lines:
        print(f'[{stamp}] root INFO: {line}', file=stream or sys.stdout)


def peak_rss_mb() -> float:
    """Peak resident memory of this process, MiB."""
    try:
        with open('/proc/self/status', encoding='utf-8') as file:
            return next(int(line.split()[1]) for line in file if line.startswith('VmHWM')) / 1024
    except (OSError, StopIteration):
        pass
    import resource  # on Linux its value includes the parent's memory before exec
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == 'darwin' else 1024)  # macOS counts bytes, Linux KiB


def _os() -> str:
    """Name and version of the distribution, e.g. 'Ubuntu 22.04', else of the kernel."""
    import platform
    values: Dict[str, str] = {}
    try:
        with open('/etc/os-release', encoding='utf-8') as file:
            for line in file:
                key, _, value = line.strip().partition('=')
                values[key] = value.strip('"')
    except OSError:
        pass
    return ' '.join(filter(None, (values.get('NAME'), values.get('VERSION_ID')))) or platform.platform()


def _cuda(paddle: Any) -> Optional[str]:
    return paddle.version.cuda() if paddle is not None and paddle.is_compiled_with_cuda() else None


def _cudnn(paddle: Any) -> Optional[str]:
    return paddle.version.cudnn() if paddle is not None and paddle.is_compiled_with_cuda() else None


def _gpu() -> Dict[str, str]:
    """Memory (MiB), use (%) and driver of the first GPU; empty when nvidia-smi is missing or fails."""
    import shutil
    import subprocess
    if shutil.which('nvidia-smi') is None:
        return {}
    command = ['nvidia-smi', '--query-gpu=memory.used,utilization.gpu,driver_version', '--format=csv,noheader,nounits']
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(('memory', 'util', 'driver'), (word.strip() for word in text.splitlines()[0].split(','))))
