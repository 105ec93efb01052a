# SPDX-License-Identifier: Apache-2.0
"""Inference on a GPU: what is decided and handed to Paddle, on a simulated device. No GPU was ever at hand."""
from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import inference
from small_models import small_data

from CaiT.deploy import parity
from CaiT.deploy.engines import BATCH, BaseEngine, Options, paddle_gpu
from CaiT.deploy.engines.paddle_engine import Engine
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError
from CaiT.tools.simulated_gpu import simulated_gpu

GPU = dict(use_gpu=True)


@pytest.fixture(scope='module')
def exported(cait, checks, tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    weights = {'file': 'w.pdparams', 'sha256': '0' * 64}
    export(cait, folder, 'x', small_data(), checks, weights, [('paddle', 'fp32', kind) for kind in ('float', 'uint8')])
    return folder


@pytest.fixture
def calls(monkeypatch):
    """The calls of a Config."""
    found = []

    class Config:
        def __init__(self, *files):
            self.files = files

        def __getattr__(self, name):
            return lambda *args: found.append((name, *args))

    monkeypatch.setattr(inference, 'Config', Config)
    return found


@pytest.mark.parametrize('precision, name, gpu', [('fp32', 'Float32', 0), ('fp16', 'Half', 1), ('bf16', 'Bfloat16', 3)])
def test_what_is_handed_to_paddle(exported, calls, monkeypatch, precision, name, gpu):
    with simulated_gpu():
        monkeypatch.setattr(paddle.device.cuda, 'device_count', lambda: 4)
        options = Options(precision, gpu_id=gpu, **GPU)
        config = paddle_gpu.configure(inference, exported / 'inference.json', options, None)
    assert config.files == (str(exported / 'inference.json'), str(exported / 'inference.pdiparams'))
    assert ('enable_use_gpu', 256, gpu, getattr(inference.PrecisionType, name)) in calls
    assert {('enable_new_ir', True), ('enable_new_executor',), ('set_optimization_level', 3),
            ('enable_memory_optim',)} <= set(call for call in calls if call[0] != 'exp_disable_mixed_precision_ops')


@pytest.mark.parametrize('kind, batch', [('float', 1), ('float', 5), ('uint8', 3)])
def test_those_settings_on_a_cpu(exported, kind, batch):
    """Passes, executor and memory optimization give the same logits; without the first two Paddle raises."""
    checks = parity.synthetic(small_data(), 7)
    images = np.ascontiguousarray(np.resize(checks.array(kind), (batch, *checks.array(kind).shape[1:])))
    stem = exported / ('inference_uint8' if kind == 'uint8' else 'inference')

    def run(*steps):
        config = inference.Config(f'{stem}.json', f'{stem}.pdiparams')
        config.disable_glog_info()
        for step in steps:
            step(config)
        predictor = inference.create_predictor(config)
        handle = predictor.get_input_handle(predictor.get_input_names()[0])
        handle.reshape(images.shape)
        handle.copy_from_cpu(images)
        predictor.run()
        return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()

    plain, found = run(), run(paddle_gpu.optimize, lambda config: config.enable_memory_optim())
    assert np.abs(found - plain).max() <= 1e-5 * np.abs(plain).max()
    with pytest.raises(ValueError, match='memory_optimize_pass'):
        run(lambda config: config.enable_memory_optim())


@pytest.mark.parametrize('capability, options, message', [
    ((7, 0), dict(precision='bf16'), '--precision bf16: found a GPU of compute capability 7.0, expected 8.0 or higher'),
    ((6, 1), dict(precision='fp16'), '--precision fp16: found a GPU of compute capability 6.1, expected 7.0 or higher'),
    ((9, 0), dict(gpu_id=1), '--gpu-id: found 1, expected less than 1, the number of GPUs here'),
    ((9, 0), dict(use_tensorrt=True), '--use-tensorrt True: found no module paddle.tensorrt, expected TensorRT and a '
     'Paddle built with it (https://www.paddlepaddle.org.cn/install)'),
    ((9, 0), dict(use_tensorrt=True, input='uint8'), '--use-tensorrt True: found --input uint8, expected a graph for '
     'float images')])
def test_what_a_gpu_cannot_do_is_refused(exported, capability, options, message):
    with simulated_gpu(capability), pytest.raises(InputError) as caught:
        Predictor(str(exported), 'paddle', Options(**GPU, **options))
    assert str(caught.value) == message


@pytest.mark.parametrize('backend, options, message', [
    ('paddle', Options('fp16'), '--precision fp16: a CPU would ignore it'),
    ('paddle', Options(**GPU), '--use-gpu True: this Paddle is built for CPU; install paddlepaddle-gpu'),
    ('onnxruntime', Options(**GPU), '--use-gpu True: --backend onnxruntime computes on the CPU'),
    ('openvino', Options('bf16', **GPU), '--use-gpu True: --backend openvino computes on the CPU')])
def test_what_a_cpu_cannot_do_is_refused(exported, monkeypatch, backend, options, message):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    with pytest.raises(InputError, match=message):
        Predictor(str(exported), backend, options) if options.use_gpu else Engine(exported / 'inference.json', options)


@pytest.mark.parametrize('batch', [1, 8, 64])
def test_a_gpu_gets_whole_batches(tmp_path, batch):
    """The limit of 8 was measured on CPUs."""
    assert BaseEngine(tmp_path, Options(batch=batch, **GPU)).chunk == batch
    assert BaseEngine(tmp_path, Options(batch=batch)).chunk == min(batch, BATCH)


@pytest.fixture
def tensorrt(monkeypatch):
    """Stand-ins of the modules that only Paddle's GPU packages have; what is converted, in order."""
    made = []

    def convert(path, config):
        made.append((path, config.precision_mode, config.inputs[0]))
        for ending in ('.json', '.pdiparams'):
            with open(config.save_model_dir + ending, 'w') as file:
                file.write('{}')

    exporter = ModuleType('paddle.tensorrt.export')
    exporter.Input = lambda **shapes: shapes
    exporter.TensorRTConfig = lambda inputs: SimpleNamespace(inputs=inputs)
    exporter.PrecisionMode = SimpleNamespace(FP32='32', FP16='16', BF16='b16')
    exporter.convert = convert
    package, library = ModuleType('paddle.tensorrt'), ModuleType('tensorrt')
    package.export, library.__version__ = exporter, '10.3'
    for module in (package, exporter, library):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    return made


@pytest.mark.parametrize('precision, batch, mode', [('fp32', 1, '32'), ('fp16', 16, '16'), ('bf16', 4, 'b16')])
def test_tensorrt_converts_once(exported, calls, tensorrt, tmp_path, precision, batch, mode):
    graph = tmp_path / 'inference.json'
    for ending in ('.json', '.pdiparams'):
        graph.with_suffix(ending).write_bytes((exported / f'inference{ending}').read_bytes())
    options = Options(precision, batch=batch, use_tensorrt=True, **GPU)
    with simulated_gpu():
        found = [paddle_gpu.configure(inference, graph, options, (3, 32, 32)).files[0] for _ in range(2)]
        other = paddle_gpu.configure(inference, graph, Options(precision, batch=batch + 1, use_tensorrt=True, **GPU),
                                     (3, 32, 32)).files[0]
    assert found[0] == found[1] != other and len(tensorrt) == 2
    assert tensorrt[0] == (str(tmp_path / 'inference'), mode, dict(
        min_input_shape=(1, 3, 32, 32), optim_input_shape=(batch, 3, 32, 32), max_input_shape=(batch, 3, 32, 32)))
    assert len(list((tmp_path / 'tensorrt').iterdir())) == 2  # nothing temporary
    assert ('enable_use_gpu', 256, 0, inference.PrecisionType.Float32) in calls


def test_a_conversion_that_fails_leaves_nothing(exported, calls, tensorrt, monkeypatch, tmp_path):
    graph = tmp_path / 'inference.json'
    graph.write_text('{}')

    def fail(path, config):
        raise RuntimeError('(Unimplemented) Error: no converter for this operation')

    monkeypatch.setattr(sys.modules['paddle.tensorrt.export'], 'convert', fail)
    with simulated_gpu(), pytest.raises(InputError, match='cannot be converted .*no converter for this operation'):
        paddle_gpu.configure(inference, graph, Options(use_tensorrt=True, **GPU), (3, 32, 32))
    assert list((tmp_path / 'tensorrt').iterdir()) == []
    with simulated_gpu(), pytest.raises(InputError, match=r'm\.pdmodel is of Paddle 2, expected a \.json of Paddle 3'):
        paddle_gpu.configure(inference, tmp_path / 'm.pdmodel', Options(use_tensorrt=True, **GPU), (3, 32, 32))
