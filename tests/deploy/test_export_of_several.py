# SPDX-License-Identifier: Apache-2.0
"""An export for several engines and precisions does what is possible and lists the rest."""
from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from CaiT import export_model, runtime
from CaiT.deploy import clients, engines
from CaiT.deploy.export import possible
from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


FP32 = ('paddle', 'fp32', 'float')


def targets(backends, precisions):
    return list(itertools.product(backends, precisions, ['float']))


@pytest.fixture(autouse=True)
def everything_is_installed(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, 'find_spec', lambda name: name)
    monkeypatch.setattr(runtime, 'cpu_flags', lambda: {'avx512_bf16'})


@pytest.mark.parametrize('backends, precisions, calibration, good, refused', [
    (['paddle', 'onnxruntime'], ['fp32', 'int8'], True,
     ['paddle fp32', 'onnxruntime fp32', 'onnxruntime int8'], ["paddle int8 float: --precision: found 'int8'"]),
    (['onnxruntime', 'openvino'], ['fp32', 'bf16'], False,
     ['onnxruntime fp32', 'openvino fp32', 'openvino bf16'], ["onnxruntime bf16 float: --precision: found 'bf16'"]),
    (['openvino'], ['int8', 'fp32'], False, ['openvino fp32'], ['openvino int8 float: --precision int8: needs'])])
def test_what_is_possible(cait, backends, precisions, calibration, good, refused):
    found, lines = possible(targets(backends, precisions), cait, 'x', calibration)
    assert [' '.join(target[:2]) for target in found] == good
    assert len(lines) == len(refused)
    for line, expected in zip(lines, refused):
        assert line.startswith(f'not exported: {expected}') and '\n' not in line


def test_a_missing_library_and_a_processor_without_bf16(cait, monkeypatch):
    monkeypatch.setattr(engines.importlib.util, 'find_spec', lambda name: None if name == 'openvino' else name)
    monkeypatch.setattr(runtime, 'cpu_flags', lambda: {'avx2'})
    found, lines = possible(targets(['paddle', 'openvino'], ['fp32', 'bf16']), cait, 'x', False)
    assert found == [('paddle', 'fp32', 'float')] and len(lines) == 3
    assert 'this processor has no AVX512-BF16' in lines[0] and 'openvino is not installed' in lines[1]


@pytest.mark.parametrize('missing, refused', [
    ('onnx', {'onnxruntime fp32', 'onnxruntime int8', 'openvino fp32', 'openvino bf16', 'openvino int8'}),
    ('nncf', {'openvino int8'})])
def test_a_missing_package_that_only_exports_need(cait, monkeypatch, missing, refused):
    """The engine is installed: it could run exports made elsewhere."""
    monkeypatch.setattr(engines.importlib.util, 'find_spec', lambda name: None if name == missing else name)
    asked = [target for target in targets(['paddle', 'onnxruntime', 'openvino'], ['fp32', 'bf16', 'int8'])
             if target[:2] not in (('paddle', 'int8'), ('onnxruntime', 'bf16'))]
    found, lines = possible(asked, cait, 'x', True)
    assert {' '.join(target[:2]) for target in asked if target not in found} == refused
    assert sorted(lines) == sorted(f'not exported: {one} float: --backend {one.split()[0]}: {missing} is not '
                                   f'installed; install it with: pip install {missing}' for one in refused)


@pytest.mark.parametrize('words, flag', [
    (['--attention'], '--attention'), (['--client=gradio'], '--client gradio'),
    (['--client', 'web', '--ort-web=package'], '--client web')])
@pytest.mark.parametrize('missing, named', [(['onnx'], 'onnx'), (['onnxruntime', 'onnx'], 'onnxruntime, onnx')])
def test_attention_without_its_packages_is_refused_before_weights_are_sought(monkeypatch, words, flag, missing, named):
    monkeypatch.setattr(engines.importlib.util, 'find_spec', lambda name: None if name in missing else name)
    monkeypatch.setattr(clients, 'check', lambda *_: None)
    monkeypatch.setattr(sys, 'argv', ['export_model.py', '-pretrained=/nowhere', *words])
    with pytest.raises(InputError) as caught:
        export_model.main()
    assert str(caught.value) == (f'{flag}: {named} is not installed; install it with: pip install '
                                 f'{named.replace(",", "")}')


@pytest.mark.parametrize('flags, good', [
    (set(), []), ({'amx_bf16'}, ['openvino']), ({'avx512_bf16'}, ['paddle', 'openvino'])])
def test_the_instructions_that_each_engine_needs_for_bf16(cait, monkeypatch, flags, good):
    monkeypatch.setattr(runtime, 'cpu_flags', lambda: flags)
    found, lines = possible(targets(['paddle', 'openvino'], ['bf16']) + [FP32], cait, 'x', False)
    assert [target[0] for target in found[:-1]] == good and found[-1] == FP32
    assert len(lines) == 2 - len(good) and all('this processor has no AVX512-BF16' in line for line in lines)


def test_nothing_possible_is_an_error(cait):
    with pytest.raises(InputError, match="^--precision: found 'int8', but paddle"):
        possible(targets(['paddle'], ['int8']), cait, 'x', True)


def test_the_command_writes_the_rest_and_says_so_with_status_1(tmp_path):
    import paddle

    from tests.deploy.small_models import small
    paddle.save(small('cait').state_dict(), str(tmp_path / 'w.pdparams'))
    (tmp_path / 'config.yaml').write_text(
        'MODEL: {NAME: cait_xxs24_224, NUM_CLASSES: 10, PATCH_SIZE: 8, EMBED_DIM: 48, NUM_HEADS: 4, DEPTH: 3}\n'
        'DATA: {IMAGE_SIZE: 32}\n', encoding='utf-8')
    words = [f'-pretrained={tmp_path}/w', '--precision', 'fp32', 'int8', f'--save-inference-dir={tmp_path}/m']
    done = subprocess.run([sys.executable, 'export_model.py', *words], cwd=ROOT, capture_output=True, text=True,
                          timeout=200)
    assert done.returncode == 1, done.stderr
    assert (tmp_path / 'm/inference.json').is_file()
    assert "not exported: paddle int8 float: --precision: found 'int8'" in done.stderr
