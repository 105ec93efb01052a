# SPDX-License-Identifier: Apache-2.0
"""The checks of gpu_check: functions that return (status, detail). A difference that is too large raises."""
from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
IMPOSSIBLE = 'not possible here'
MODEL = 'cait_xxs24_224'
HALF_TOLERANCE = {'float16': 0.02, 'bfloat16': 0.1}  # of max|logit|, for logits of 24 blocks computed in half
Found = Tuple[str, str]


def gpus() -> int:
    import paddle
    return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0


def device() -> ContextManager:
    """Paddle's GPU; without one, a simulated one."""
    import paddle
    if gpus():
        paddle.set_device('gpu:0')
        return contextlib.nullcontext()
    from CaiT.tools.simulated_gpu import simulated_gpu
    return simulated_gpu()


def passed(detail: str) -> Found:
    return ('passed' if gpus() else 'passed, simulated'), detail


def on_device(details: List[str]) -> Found:
    """Of a check that needs no simulation: without a GPU it runs on the CPU."""
    return passed('; '.join(details) + ('' if gpus() else '; on the CPU'))


def expect(name: str, found: float, limit: float) -> str:
    if not found <= limit:
        raise AssertionError(f'{name}: found {found:.3g}, expected at most {limit:g}')
    return f'{name} {found:.2g} (limit {limit:g})'


def installation() -> Found:
    import paddle
    lines = [f'paddle {paddle.__version__}, python {platform.python_version()}, numpy {np.__version__}, '
             f'{platform.platform()}']
    for index in range(gpus()):
        found = paddle.device.cuda.get_device_properties(index)
        lines.append(f'gpu:{index} {found.name}, compute capability {found.major}.{found.minor}, '
                     f'{found.total_memory / 2**30:.1f} GiB')
    if not gpus():
        return IMPOSSIBLE, f'{lines[0]}; no GPU that this Paddle can use'
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        driver = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split()
        lines.append(f'driver {driver[0] if driver else "unknown"}, CUDA {paddle.version.cuda()}, '
                     f'cuDNN {paddle.version.cudnn()}')
    return 'passed', '\n'.join(lines)


def logits_float32() -> Found:
    """Paddle's GPU products are TF32 unless this variable is set before the first."""
    os.environ['NVIDIA_TF32_OVERRIDE'] = '0'
    from CaiT.tools import check_goldens, goldens
    limit, found = check_goldens.TOLERANCE * (5 if gpus() else 1), []
    with device() if gpus() else contextlib.nullcontext():
        for name in (MODEL, 'deit_tiny_patch16_224'):
            row = check_goldens.compare(name, goldens.FOLDER)
            found.append(expect(name, max(row.errors.values()), limit))
    return on_device(found)


def logits_half(dtype: str) -> Found:
    import paddle

    from CaiT.accelerate import accelerate
    from CaiT.models.registry import create_model
    from CaiT.tools import check_goldens, goldens
    from CaiT.training.amp import decide
    with device():
        decide(paddle.get_device(), 'O1', dtype)
        model = create_model('deit_tiny_patch16_224')
        goldens.fill(model)
        line = accelerate(model)
        model.eval()
        images = paddle.to_tensor(goldens.noise((2, 3, 224, 224), 0))
        with paddle.no_grad(), paddle.amp.auto_cast(level='O1', dtype=dtype):
            logits = model(images).astype('float32').numpy()
    expected = goldens.arrays(goldens.FOLDER, 'deit_tiny_patch16_224')['logits_f64']
    return passed(f'{expect("deit_tiny", check_goldens.relative(logits, expected), HALF_TOLERANCE[dtype])}; {line}')


def training_steps() -> Found:
    os.environ['NVIDIA_TF32_OVERRIDE'] = '0'
    from CaiT.tools import check_goldens, goldens
    with device() if gpus() else contextlib.nullcontext():
        found = check_goldens.training(goldens.FOLDER)
    scale = 3 if gpus() else 1
    return on_device([expect(name, value, scale * check_goldens.TRAINING_TOLERANCES[name])
                      for name, value in found.items()])


def small_config(folder: Path, *opts: Any, **flags: Any) -> Any:
    """A CaiT of two blocks on 24 + 12 images of stripes, which are written to ``folder``."""
    from PIL import Image

    from CaiT.config import get_config
    data = folder / 'data'
    if not data.is_dir():
        data.mkdir()
        rng = np.random.default_rng(0)
        for split, count in (('train', 24), ('val', 12)):
            lines = []
            for index in range(count):
                pixels = rng.integers(0, 80, (16, 16, 3), dtype=np.uint8)
                pixels[:, index % 3::3] += 150
                Image.fromarray(pixels).save(data / f'{split}{index}.png')
                lines.append(f'{split}{index}.png {index % 3}\n')
            (data / f'{split}_list.txt').write_text(''.join(lines), encoding='utf-8')
    words = ['MODEL.NAME', 'cait', 'MODEL.INIT_VALUES', 0.1, 'MODEL.EMBED_DIM', 32, 'MODEL.DEPTH', 2,
             'MODEL.NUM_HEADS', 4, 'MODEL.PATCH_SIZE', 8, 'DATA.IMAGE_SIZE', 16, 'AUG.KIND', 'pad_crop',
             'DATA.NUM_WORKERS', 0, 'TRAIN.BASE_LR', 1e-3, 'TRAIN.LR_BATCH', 0, 'TRAIN.WARMUP_EPOCHS', 1,
             'TRAIN.EMA_DECAY', 0.5, 'TRAIN.GRAD_CLIP', 1.0, 'TRAIN.ACCUM_ITER', 2, 'DEVICE', 'gpu', *opts]
    return get_config(opts=list(map(str, words)), data_path=str(data), num_classes=3, batch_size=4, **flags)


def mixed_precision(level: str, dtype: str) -> Found:
    """One epoch, resumed for a second one, against two epochs; evaluation and prediction with the result."""
    from CaiT.training import checkpoint, jobs
    with tempfile.TemporaryDirectory() as name, device():
        folder = Path(name)
        make = functools.partial(small_config, folder, 'TRAIN.AMP.LEVEL', level, 'TRAIN.AMP.DTYPE', dtype, amp=True)
        jobs.train(make(epochs=2, output_dir=str(folder / 'whole')))
        with stopped_after_one_epoch():
            jobs.train(make(epochs=2, output_dir=str(folder / 'parts')))
        jobs.train(make(epochs=2, output_dir=str(folder / 'parts'), resume='auto'))
        whole, parts = (checkpoint.read(folder / one / 'last.pdstate') for one in ('whole', 'parts'))
        apart = max(float(np.abs(whole[part][key] - parts[part][key]).max())
                    for part in ('model', 'ema') for key in whole[part])
        result = jobs.evaluate(make(pretrained=str(folder / 'whole/last'), output_dir=str(folder / 'eval')))
        log = (folder / 'whole/log_train.txt').read_text(encoding='utf-8')
    if f'mixed precision {level} {dtype}' not in log:
        raise AssertionError(f'the log does not say mixed precision {level} {dtype}')
    return passed(f'{expect("weights apart after a resume", apart, 1e-3 if gpus() else 0.0)}; '
                  f'validation loss {result.loss:.3f}')


@contextlib.contextmanager
def stopped_after_one_epoch() -> Any:
    from unittest import mock

    from CaiT.training.trainer import Trainer
    save = Trainer._save

    def save_and_stop(job: Any, *tags: str) -> None:
        save(job, *tags)
        raise StopIteration

    with mock.patch.object(Trainer, '_save', save_and_stop), contextlib.suppress(StopIteration):
        yield


def fused_attention(dtype: str) -> Found:
    from CaiT.accelerate import fused_attention as module
    if not gpus():
        found = expect('float32 on a CPU', module.largest_difference('float32'), 1e-6)
        return 'passed, simulated', f'{found}; the fused kernel was not run'
    with device():
        return passed(expect(dtype, module.largest_difference(dtype), {'float16': 0.01, 'bfloat16': 0.05}[dtype]))


def two_processes() -> Found:
    if gpus() < 2:
        return IMPOSSIBLE, f'found {gpus()} GPUs, expected two'
    with tempfile.TemporaryDirectory() as name:
        small_config(Path(name))
        command = [sys.executable, '-m', 'paddle.distributed.launch', '--devices', '0,1', '--log_dir', f'{name}/log',
                   'CaiT/main_multi_gpu.py', f'-data_path={name}/data', '-num_classes=3', '-batch_size=4', '-epochs=1',
                   f'-output_dir={name}/run', '-opts', 'MODEL.NAME', 'cait', 'MODEL.EMBED_DIM', '32',
                   'MODEL.DEPTH', '2', 'MODEL.NUM_HEADS', '4', 'MODEL.PATCH_SIZE', '8', 'DATA.IMAGE_SIZE', '16',
                   'DATA.NUM_WORKERS', '0']
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
        if done.returncode or not (Path(name) / 'run/last.pdstate').is_file():
            raise AssertionError(f'paddle.distributed.launch left with {done.returncode}: {done.stdout[-300:]}')
    return 'passed', 'one epoch with NCCL'


def inference(precision: str, tensorrt: bool = False) -> Found:
    """Logits of an exported DeiT against those of the same graph on the CPU."""
    from CaiT.deploy import parity
    from CaiT.deploy.engines import Options
    from CaiT.deploy.predictor import Predictor
    if not gpus():
        return IMPOSSIBLE, 'no GPU; its settings are tested on a CPU by tests/deploy/test_gpu_engine.py'
    if tensorrt and not importlib.util.find_spec('tensorrt'):
        return IMPOSSIBLE, 'TensorRT is not installed'
    with tempfile.TemporaryDirectory() as folder:
        data = exported(Path(folder))
        images = parity.synthetic(data, 8).array('float')
        expected = Predictor(folder, 'paddle', Options(threads=4)).logits(images)
        options = Options(precision, use_gpu=True, use_tensorrt=tensorrt, batch=8)
        found = Predictor(folder, 'paddle', options).logits(images)
    limit = {'fp32': 2e-3, 'fp16': 0.02, 'bf16': 0.1}[precision]  # fp32 products are TF32 here
    return 'passed', expect('logits', float(np.abs(found - expected).max() / np.abs(expected).max()), limit)


def exported(folder: Path) -> Any:
    from CaiT.data.transforms import DataConfig
    from CaiT.deploy import parity
    from CaiT.deploy.export import export
    from CaiT.models.registry import create_model
    from CaiT.tools import goldens
    name = 'deit_tiny_patch16_224'
    model = create_model(name)
    data = DataConfig.of(model)
    goldens.fill(model)
    model.eval()
    export(model, folder, name, data, parity.synthetic(data, 4), {'file': 'generated', 'sha256': '0' * 64},
           [('paddle', 'fp32', 'float')])
    return data


def throughput(side: str) -> Found:
    """Training steps in half precision: images/s and peak memory at three batch sizes, ours or timm's."""
    if not gpus():
        return IMPOSSIBLE, 'no GPU'
    if side == 'timm' and not all(map(importlib.util.find_spec, ('torch', 'timm'))):
        return IMPOSSIBLE, 'torch and timm are not installed'
    from CaiT.tools import gpu_throughput
    device()
    return 'passed', '\n'.join(gpu_throughput.measure(side, MODEL))


def certification() -> Found:
    if not gpus():
        return IMPOSSIBLE, 'no GPU'
    chain = 'test_tipc/configs/CaiT/train_linux_gpu_normal_amp_infer_python_linux_gpu_cpu.txt'
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    environment = {**os.environ, 'PYTHON': sys.executable, 'PATH': path}
    for script in ('prepare.sh', 'test_train_inference_python.sh'):
        done = subprocess.run(['bash', f'test_tipc/{script}', chain, 'lite_train_lite_infer'], cwd=ROOT, text=True,
                              env=environment, capture_output=True, timeout=230)
        if done.returncode:
            raise AssertionError(f'{script} left with {done.returncode}: {done.stdout[-300:]}')
    return 'passed', chain


HALVES: List[str] = ['float16', 'bfloat16']
CHECKS: Dict[str, Callable[[], Found]] = {
    'installation': installation,
    'logits float32': logits_float32,
    **{f'logits {dtype}': functools.partial(logits_half, dtype) for dtype in HALVES},
    'training steps': training_steps,
    **{f'amp {level} {dtype}': functools.partial(mixed_precision, level, dtype)
       for level in ('O1', 'O2') for dtype in HALVES},
    **{f'attention {dtype}': functools.partial(fused_attention, dtype) for dtype in HALVES},
    'two processes': two_processes,
    **{f'inference {precision}': functools.partial(inference, precision) for precision in ('fp32', 'fp16', 'bf16')},
    'inference TensorRT fp16': functools.partial(inference, 'fp16', True),
    'throughput': functools.partial(throughput, 'ours'),
    'throughput timm': functools.partial(throughput, 'timm'),
    'certification': certification,
}
