# SPDX-License-Identifier: Apache-2.0
"""The line that accelerate returns is true, whatever the process and the user have set before."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import paddle
import pytest
from paddle import nn

import CaiT.accelerate as package
from CaiT import create_model, runtime
from CaiT.accelerate import accelerate, functions, layers, onednn, selfcheck, tensor_ops

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(image_size=32, embed_dim=16, num_heads=2, depth=1, num_classes=3)


@pytest.fixture
def fresh():
    """The verdict about oneDNN is reached again."""
    package._problem.cache_clear()
    yield
    package._problem.cache_clear()


def is_exchanged(model):
    return any(type(layer) in layers.FAST.values() for layer in model.sublayers(include_self=True))


def test_the_line():
    model = create_model('cait', **SMALL)
    line = accelerate(model)
    assert line == (f'acceleration: oneDNN {onednn.version()} in {line.split()[4]} layers, 3 blocks; '
                    f'{os.environ["OMP_NUM_THREADS"]} threads')
    exchanged = [layer for layer in model.sublayers(include_self=True) if type(layer) in layers.FAST.values()]
    assert int(line.split()[4]) == len(exchanged)
    assert accelerate(model) == line  # again: nothing more to exchange
    assert accelerate(nn.Conv2D(3, 3, 1)) == 'acceleration: none, the model has no layer that it knows'


def test_another_version_is_refused(fresh, monkeypatch):
    monkeypatch.setattr(onednn, 'version', lambda: '3.9.1')
    model = create_model('cait', **SMALL)
    assert accelerate(model) == 'acceleration: off, oneDNN 3.9.1 was not tested, expected 3.6'
    assert not is_exchanged(model)
    monkeypatch.setattr(onednn, 'version', lambda: '')
    package._problem.cache_clear()
    assert accelerate(model) == "acceleration: off, Paddle's wheel has no oneDNN library"


WRONG = {  # an operation of tensor_ops that is wrong, and what notices first
    'gelu': 'GELU', 'gelu_grad_': 'GELU', 'linear': 'linear', 'linear_grad': 'linear', 'layer_norm_grad': 'LayerNorm',
    'mul': 'MLP', 'apply_attn': 'talking-heads attention', 'scores': 'talking-heads attention',
    'add_to_each': 'position embedding', 'parameters_grad': 'linear'}


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_kernel_keeps_acceleration_off(name, fresh, monkeypatch):
    right = getattr(tensor_ops, name)

    def wrong(*arguments):
        found = right(*arguments)
        first = (found[0] if isinstance(found, tuple) else found)
        first.set_value(first * 1.1)
        return found
    monkeypatch.setattr(tensor_ops, name, wrong)
    model = create_model('cait', **SMALL)
    assert accelerate(model).startswith(f"acceleration: off, {WRONG[name]} differs from Paddle's by ")
    assert not is_exchanged(model)


def test_a_kernel_that_cannot_be_made_keeps_acceleration_off(fresh, monkeypatch):
    def broken(*_):
        raise RuntimeError('oneDNN: dnnl_primitive_create returned status 3')
    monkeypatch.setattr(tensor_ops, 'gelu', broken)
    assert accelerate(create_model('cait', **SMALL)) == (
        'acceleration: off, GELU: oneDNN: dnnl_primitive_create returned status 3')


def test_right_kernels_agree():
    assert selfcheck.disagreement() == ''


def test_a_gpu_is_left_alone(monkeypatch):
    monkeypatch.setattr(paddle, 'get_device', lambda: 'gpu:0')
    model = create_model('cait', **SMALL)
    assert accelerate(model).startswith('acceleration: none on gpu:0, ') and not is_exchanged(model)


def script(code, **environment):
    """Output of ``code`` in a process of its own, without this one's settings."""
    inherited = {key: value for key, value in os.environ.items()
                 if not key.startswith('FLAGS_') and key not in ('OMP_NUM_THREADS', 'MKL_DEBUG_CPU_TYPE')}
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, env={**inherited, **environment}, check=True,
                          capture_output=True, text=True, timeout=120).stdout


MAKE = ("from CaiT import create_model; model = create_model('vit', image_size=32, depth=1); "
        'from CaiT.accelerate import accelerate; print(accelerate(model)); ')
FLAG = "import paddle; print(paddle.get_flags('FLAGS_use_stride_kernel')['FLAGS_use_stride_kernel'])"


@pytest.mark.parametrize('first', ['', 'import paddle; paddle.rand([2, 2]).matmul(paddle.rand([2, 2])); '])
def test_a_script_without_prepare_gets_all_threads(first):
    """Paddle alone starts with one, and with views for transposes."""
    line, stride = script(first + MAKE + FLAG).splitlines()
    assert line.startswith('acceleration: oneDNN 3.') and f'{runtime.cores()} threads' in line
    assert stride == 'False'


@pytest.mark.parametrize('environment, expected', [
    ({'CAIT_RUNTIME': 'off'}, 'acceleration: off (CAIT_RUNTIME)'),
    ({'FLAGS_use_stride_kernel': '1'}, 'acceleration: off, FLAGS_use_stride_kernel is set in the environment'),
    ({'OMP_NUM_THREADS': '1'}, '; 1 threads')])
def test_what_the_user_has_set_stays(environment, expected):
    assert expected in script(MAKE, **environment).splitlines()[0]


def test_a_flag_that_is_changed_later_is_obeyed():
    """Transposes become views: plain operations run, and the numbers stay."""
    model = create_model('cait', **SMALL)
    x = paddle.rand([2, 3, 32, 32])
    expected = model(x).numpy()
    accelerate(model)
    paddle.set_flags({'FLAGS_use_stride_kernel': True})
    try:
        strided = paddle.rand([2, 32, 32, 3]).transpose([0, 3, 1, 2])
        assert not functions.is_eligible(strided)
        assert float(abs(model(x).numpy() - expected).max()) < 1e-5
        dense = paddle.to_tensor(strided.numpy())
        assert float((model(strided) - model(dense)).abs().max()) < 1e-6
    finally:
        paddle.set_flags({'FLAGS_use_stride_kernel': False})
