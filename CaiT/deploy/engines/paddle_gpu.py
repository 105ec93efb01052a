# SPDX-License-Identifier: Apache-2.0
"""Paddle Inference on a GPU, with or without TensorRT. Never run on one: the settings are those that PaddleX uses, and
each call is accepted by Paddle 3.3.1 on a CPU; paddle.tensorrt is only in Paddle's GPU packages (docs/gpu.md).

TensorRT reads a graph of Paddle 3 only after ``paddle.tensorrt.export`` has converted it for a range of shapes;
``Config.enable_tensorrt_engine`` is for the .pdmodel of Paddle 2.
"""
from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple

from CaiT.deploy.engines import Options, reason
from CaiT.errors import InputError

CAPABILITY = {'fp16': 7, 'bf16': 8}  # compute capability from which a GPU has it in Paddle
PADDLE_PRECISION = {'fp32': 'Float32', 'fp16': 'Half', 'bf16': 'Bfloat16'}
MEMORY_POOL = 256  # MiB of device memory that Paddle takes at first


def check_device(options: Options) -> None:
    """InputError when there is no such GPU, or when it lacks the precision: Paddle would use float32 unsaid."""
    import paddle
    if not paddle.is_compiled_with_cuda():
        raise InputError('--use-gpu True: this Paddle is built for CPU; install paddlepaddle-gpu')
    count = paddle.device.cuda.device_count()
    if options.gpu_id >= count:
        raise InputError(f'--gpu-id: found {options.gpu_id}, expected less than {count}, the number of GPUs here')
    if options.precision in CAPABILITY:
        major, minor = paddle.device.cuda.get_device_capability(options.gpu_id)
        least = CAPABILITY[options.precision]
        if major < least:
            raise InputError(f'--precision {options.precision}: found a GPU of compute capability {major}.{minor}, '
                             f'expected {least}.0 or higher')


def configure(inference: Any, graph: Path, options: Options, image_shape: Optional[Sequence[int]]) -> Any:
    """The Config of a predictor. ``image_shape`` is the shape of one image, which TensorRT needs."""
    check_device(options)
    if options.use_tensorrt:
        graph = converted(graph, options, image_shape)
    config = inference.Config(str(graph), str(graph.with_suffix('.pdiparams')))
    config.disable_glog_info()
    config.exp_disable_mixed_precision_ops({'feed', 'fetch'})  # images and logits stay float32
    # TensorRT has chosen its precision when the graph was converted.
    precision = PADDLE_PRECISION['fp32' if options.use_tensorrt else options.precision]
    config.enable_use_gpu(MEMORY_POOL, options.gpu_id, getattr(inference.PrecisionType, precision))
    if graph.suffix == '.json':
        if not options.use_tensorrt:
            optimize(config)
        config.enable_memory_optim()
    return config


def optimize(config: Any) -> None:
    """All passes over a graph of Paddle 3, and its executor. Without these two, ``enable_memory_optim`` makes
    ``create_predictor`` raise (3.3.1)."""
    config.enable_new_ir(True)
    config.enable_new_executor()
    config.set_optimization_level(3)


def converted(graph: Path, options: Options, image_shape: Optional[Sequence[int]]) -> Path:
    """The graph for TensorRT, for 1 to ``options.batch`` images: made at its first use, which takes minutes, and kept
    in the folder ``tensorrt`` beside the graph, under a name with all that it depends on."""
    import paddle
    if graph.suffix != '.json':
        raise InputError(f'--use-tensorrt True: {graph.name} is of Paddle 2, expected a .json of Paddle 3 to convert')
    if options.input != 'float' or image_shape is None:
        found = f'--input {options.input}' if options.input != 'float' else f'{graph.name}, whose input has no shape'
        raise InputError(f'--use-tensorrt True: found {found}, expected a graph for float images')
    for module in ('paddle.tensorrt', 'tensorrt'):
        if importlib.util.find_spec(module) is None:
            raise InputError(f'--use-tensorrt True: found no module {module}, expected TensorRT and a Paddle built '
                             'with it (https://www.paddlepaddle.org.cn/install)')
    import tensorrt
    from paddle.tensorrt import export as paddle_export
    major, minor = paddle.device.cuda.get_device_capability(options.gpu_id)
    name = (f'{graph.stem}-{options.precision}-batch{options.batch}-sm{major}{minor}-paddle{paddle.__version__}-'
            f'tensorrt{tensorrt.__version__}-{graph.stat().st_mtime_ns}')
    folder = graph.parent / 'tensorrt' / name
    if not folder.is_dir():
        try:
            _convert(paddle_export, graph, folder, options, tuple(image_shape))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f'--use-tensorrt True: {graph} cannot be converted ({reason(error)})') from None
    return folder / graph.name


def _convert(paddle_export: Any, graph: Path, folder: Path, options: Options, image_shape: Tuple[int, ...]) -> None:
    least, usual, most = ((count, *image_shape) for count in (1, options.batch, options.batch))
    images = paddle_export.Input(min_input_shape=least, optim_input_shape=usual, max_input_shape=most)
    config = paddle_export.TensorRTConfig(inputs=[images])
    config.precision_mode = getattr(paddle_export.PrecisionMode, options.precision.upper())
    folder.parent.mkdir(exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix='.', suffix='.tmp', dir=folder.parent))
    try:
        config.save_model_dir = str(temporary / graph.stem)
        paddle_export.convert(str(graph.with_suffix('')), config)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
