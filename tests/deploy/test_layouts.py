# SPDX-License-Identifier: Apache-2.0
"""Model repositories: checked with Triton's own schema, with the keys of OpenVINO Model Server's, and by running what
they describe."""
from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import need, small, small_data

from CaiT.deploy import layouts, metadata
from CaiT.deploy.engines import Options
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f'class {k}' for k in range(9)] + ['two\nlines "and" é']


@pytest.fixture(scope='module')
def exported(cait, checks, tmp_path_factory):
    """(folder, its metadata, the lines printed) with both repositories."""
    need('onnxruntime')
    need('openvino')
    folder = tmp_path_factory.mktemp('layouts')
    meta = export(cait, folder, 'small', small_data(), checks, {'file': 'w', 'sha256': ''},
                  [('onnxruntime', 'fp32', 'float'), ('onnxruntime', 'fp32', 'uint8'), ('onnxruntime', 'int8', 'uint8'),
                   ('openvino', 'fp32', 'float'), ('openvino', 'fp32', 'uint8')], NAMES, calibration=checks)
    return folder, meta, layouts.write(['triton', 'ovms'], folder, meta)


def test_what_is_written(exported):
    folder, meta, lines = exported
    assert sorted(path.relative_to(folder).as_posix() for name in layouts.LAYOUTS
                  for path in (folder / name).rglob('*') if path.is_file()) == sorted([
                      'ovms/config.json',
                      *[f'ovms/{name}/1/model.{end}' for name in ('small', 'small_uint8') for end in ('bin', 'xml')],
                      *[f'triton/{name}/{file}' for name in ('small', 'small_int8_uint8', 'small_uint8')
                        for file in ('1/model.onnx', 'config.pbtxt', 'labels.txt')]])
    assert lines[0] == f'{folder}/triton/small/1: triton, fp32 float' and len(lines) == 5
    assert not list(folder.glob('.export.*'))
    assert (folder / 'triton/small/labels.txt').read_text(encoding='utf-8').splitlines()[8:] == [
        'class 8', 'two lines "and" é']


def test_files_of_another_export_are_not_taken(exported, tmp_path):
    """Another process may export between the writing of the graphs and that of the repository."""
    for file in exported[0].iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / 'onnxruntime.onnx').read_bytes())
    data[-9] ^= 1
    (tmp_path / 'onnxruntime.onnx').write_bytes(data)
    with pytest.raises(InputError, match='onnxruntime.onnx: its content is not what metadata.json .* describes'):
        layouts.write(['triton'], tmp_path, exported[1])
    assert not (tmp_path / 'triton').exists()


def model_config():
    """Triton's protobuf classes, which come with its client; without the rest of it."""
    client = pytest.importorskip('tritonclient')
    path = Path(client.__path__[0]) / 'grpc' / 'model_config_pb2.py'
    spec = importlib.util.spec_from_file_location('model_config_pb2', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('name, kind, order, dims, mixes', [
    ('small', 'TYPE_FP32', 'FORMAT_NCHW', [3, 32, 32], True),
    ('small_uint8', 'TYPE_UINT8', 'FORMAT_NHWC', [32, 32, 3], True),
    ('small_int8_uint8', 'TYPE_UINT8', 'FORMAT_NHWC', [32, 32, 3], False)])
def test_triton_reads_its_configuration(exported, name, kind, order, dims, mixes):
    from google.protobuf import text_format
    schema = model_config()
    config = text_format.Parse((exported[0] / 'triton' / name / 'config.pbtxt').read_text(encoding='utf-8'),
                               schema.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == (name, 'onnxruntime', 8)
    image, = config.input
    assert (image.name, list(image.dims)) == ('x', dims)
    assert (schema.DataType.Name(image.data_type), schema.ModelInput.Format.Name(image.format)) == (kind, order)
    logits, = config.output
    assert (logits.name, list(logits.dims), logits.label_filename) == ('logits', [10], 'labels.txt')
    assert config.HasField('dynamic_batching') == mixes
    if mixes:
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    group, = config.instance_group
    assert (group.count, group.kind) == (1, schema.ModelInstanceGroup.KIND_CPU)
    assert [(one.batch_size, list(one.inputs['x'].dims)) for one in config.model_warmup] == [(1, dims), (8, dims)]
    # and the graph takes and gives what is described
    import onnxruntime
    session = onnxruntime.InferenceSession(str(exported[0] / 'triton' / name / '1' / 'model.onnx'))
    images = np.zeros((8, *dims), np.uint8 if kind == 'TYPE_UINT8' else np.float32)
    assert session.run(['logits'], {'x': images})[0].shape == (8, 10)


# Keys of a model in the schema of OpenVINO Model Server (src/schema.cpp there), with their types.
OVMS_KEYS = {'name': str, 'base_path': str, 'batch_size': (int, str), 'model_version_policy': dict,
             'shape': (dict, str), 'nireq': int, 'target_device': str, 'plugin_config': dict}


@pytest.mark.parametrize('count', [1, 3])
def test_openvino_model_server_gets_models_that_take_any_batch(exported, checks, count):
    folder = exported[0] / 'ovms'
    values = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    assert list(values) == ['model_config_list'] and len(values['model_config_list']) == 2
    import openvino
    for one, kind in zip(values['model_config_list'], ('float', 'uint8')):
        assert list(one) == ['config']
        config = one['config']
        assert all(isinstance(value, OVMS_KEYS[key]) for key, value in config.items())
        core = openvino.Core()
        model = core.read_model(str(folder / config['base_path'] / '1' / 'model.xml'))
        model.reshape({name: json.loads(shape.replace('(', '[').replace(')', ']'))
                       for name, shape in config['shape'].items()})
        images = checks.array(kind)[:count]
        found = core.compile_model(model, 'CPU', config['plugin_config'])(images)[0]
        expected = Predictor(str(exported[0]), 'openvino', Options(input=kind)).logits(images)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_versions_and_edited_files_stay(exported, cait, checks, tmp_path):
    """The same again changes nothing, other weights are the next version, edits are left alone."""
    kinds = [('onnxruntime', 'fp32', 'float'), ('openvino', 'fp32', 'float')]

    def again(model, weights: str) -> list:
        meta = export(model, tmp_path, 'm', small_data(), checks, {'file': weights, 'sha256': weights}, kinds)
        return layouts.write(['triton', 'ovms'], tmp_path, meta)
    assert again(cait, 'a') == [f'{tmp_path}/{layout}/m/1: {layout}, fp32 float' for layout in ('triton', 'ovms')]
    assert again(cait, 'a') == [f'{tmp_path}/{layout}/m/1: {layout}, fp32 float, was there already'
                                for layout in ('triton', 'ovms')]
    first = (tmp_path / 'triton/m/1/model.onnx').read_bytes()
    pbtxt, config = tmp_path / 'triton/m/config.pbtxt', tmp_path / 'ovms/config.json'
    pbtxt.write_text('# mine', encoding='utf-8')
    values = json.loads(config.read_text(encoding='utf-8'))
    values['model_config_list'][0]['config']['nireq'] = 7
    values['model_config_list'].append({'config': {'name': 'other', 'base_path': '/other'}})
    config.write_text(json.dumps(values), encoding='utf-8')
    other = small('cait', num_heads=2)
    assert again(other, 'b') == [line for layout, path in (('triton', pbtxt), ('ovms', config)) for line in (
        f'{tmp_path}/{layout}/m/2: {layout}, fp32 float', f'{path}: left as it is; remove it to have it written again')]
    assert pbtxt.read_text(encoding='utf-8') == '# mine' and json.loads(config.read_text(encoding='utf-8')) == values
    assert (tmp_path / 'triton/m/1/model.onnx').read_bytes() == first
    assert (tmp_path / 'triton/m/2/model.onnx').read_bytes() != first
    config.write_text('[]', encoding='utf-8')
    with pytest.raises(InputError, match=f'{config}: found no model_config_list of OpenVINO Model Server'):
        layouts.write(['ovms'], tmp_path, metadata.read(tmp_path))


@pytest.mark.parametrize('words, message', [
    (['--layout=triton'], '--layout triton: needs the graph of onnxruntime, expected --backend onnxruntime'),
    (['--layout', 'ovms', '--backend', 'onnxruntime'], '--layout ovms: needs the graph of openvino, expected '),
    (['--layout=seldon'], "--layout: found 'seldon', expected some of triton, ovms")])
def test_flags(words, message):
    done = subprocess.run([sys.executable, 'export_model.py', *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f'error: {message}') and done.stderr.count('\n') == 1
