# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol, by Triton's own client and by hand."""
from __future__ import annotations

import json

import numpy as np
import pytest
from served import NAMES, TOKEN

from CaiT.deploy.engines import Options
from CaiT.deploy.predictor import Predictor

pytest.importorskip('fastapi')
triton = pytest.importorskip('tritonclient.http')


@pytest.fixture(scope='module')
def batch(exported, images):
    """(transformed images, their logits)."""
    predictor = Predictor(str(exported), 'onnxruntime', Options())
    arrays = np.stack([predictor.transform(path) for path in images[:5]])
    return arrays, predictor.logits(arrays)


@pytest.fixture(scope='module')
def remote(server):
    with triton.InferenceServerClient(server.url.partition('//')[2], concurrency=4) as client:
        yield client


def asked(array: np.ndarray, binary: bool = True, name: str = 'x', kind: str = 'FP32') -> list:
    tensor = triton.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return [tensor]


def test_health_and_metadata(remote):
    assert remote.is_server_live() and remote.is_server_ready() and remote.is_model_ready('small')
    assert remote.is_model_ready('small', '1') and not remote.is_model_ready('small', '2')
    assert not remote.is_model_ready('smal')
    assert remote.get_server_metadata()['extensions'] == ['binary_tensor_data', 'classification']
    metadata = remote.get_model_metadata('small')
    assert metadata['inputs'] == [{'name': 'x', 'datatype': 'FP32', 'shape': [-1, 3, 32, 32]}]
    assert metadata['outputs'] == [{'name': name, 'datatype': 'FP32', 'shape': [-1, 10]}
                                   for name in ('logits', 'probabilities')]
    assert metadata['versions'] == ['1'] and metadata['platform'] == 'onnxruntime'


@pytest.mark.parametrize('as_bytes', [False, True])
@pytest.mark.parametrize('binary', [False, True])
@pytest.mark.parametrize('count', [1, 5])
def test_tensors(remote, batch, count, binary, as_bytes):
    outputs = [triton.InferRequestedOutput(name, binary_data=as_bytes) for name in ('probabilities', 'logits')]
    result = remote.infer('small', asked(batch[0][:count], binary), outputs=outputs, request_id='r 1')
    logits = result.as_numpy('logits')
    np.testing.assert_allclose(logits, batch[1][:count], rtol=1e-5, atol=1e-5)
    exponentials = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(result.as_numpy('probabilities'), exponentials / exponentials.sum(1, keepdims=True),
                               rtol=1e-5)
    response = result.get_response()
    assert (response['id'], response['model_name'], response['model_version']) == ('r 1', 'small', '1')
    assert [one['name'] for one in response['outputs']] == ['probabilities', 'logits']
    assert ('parameters' in response['outputs'][0]) == as_bytes


def test_all_outputs_by_default_and_several_requests_at_a_time(remote, batch):
    waiting = [remote.async_infer('small', asked(batch[0][index:index + 1]), model_version='1') for index in range(4)]
    for index, one in enumerate(waiting):
        result = one.get_result()
        np.testing.assert_allclose(result.as_numpy('logits'), batch[1][index:index + 1], rtol=1e-5, atol=1e-5)
        assert result.as_numpy('probabilities').sum() == pytest.approx(1, abs=1e-6)


def test_classification(remote, batch):
    outputs = [triton.InferRequestedOutput('probabilities', binary_data=True, class_count=3)]
    found = remote.infer('small', asked(batch[0][:2]), outputs=outputs).as_numpy('probabilities')
    best = np.argsort(-batch[1][:2], 1)[:, :3]
    assert [[text.decode().split(':', 2)[1:] for text in row] for row in found] == [
        [[str(k), NAMES[k]] for k in row] for row in best]


def test_raw_images_with_a_token(strict, images, exported):
    predictor = Predictor(str(exported), 'onnxruntime', Options(input='uint8'))
    pixels = np.stack([predictor.transform(path) for path in images[:3]])
    with triton.InferenceServerClient(strict.url.partition('//')[2]) as client:
        headers = {'Authorization': f'Bearer {TOKEN}'}
        result = client.infer('other', asked(pixels, kind='UINT8'), headers=headers)
        np.testing.assert_allclose(result.as_numpy('logits'), predictor.logits(pixels), rtol=1e-5, atol=1e-5)
        with pytest.raises(triton.InferenceServerException, match='authorization: expected'):
            client.infer('other', asked(pixels, kind='UINT8'))


@pytest.mark.parametrize('name, shape, kind, message', [
    ('y', (1, 3, 32, 32), 'FP32', "inputs: found the name 'y', expected 'x'"),
    ('x', (1, 3, 32, 33), 'FP32', r'x: found the shape \[1, 3, 32, 33\], expected \[N, 3, 32, 32\]'),
    ('x', (3, 32, 32), 'FP32', r'x: found the shape \[3, 32, 32\], expected \[N, 3, 32, 32\]'),
    ('x', (1, 3, 32, 32), 'FP64', "x: found the datatype 'FP64', expected 'FP32'")])
def test_other_tensors(remote, name, shape, kind, message):
    array = np.zeros(shape, np.float64 if kind == 'FP64' else np.float32)
    with pytest.raises(triton.InferenceServerException, match=message) as caught:
        remote.infer('small', asked(array, name=name, kind=kind))
    assert caught.value.status() == '400'


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(remote, batch, value):
    array = batch[0][:1].copy()
    array[0, 1, 2, 3] = value
    with pytest.raises(triton.InferenceServerException, match='x: found values that are not finite'):
        remote.infer('small', asked(array))


X = {'name': 'x', 'datatype': 'FP32', 'shape': [1, 3, 32, 32]}
DATA = [0.5] * 3072


@pytest.mark.parametrize('body, message', [
    ([], 'body: found [], expected an object'), ({}, 'inputs: found None, expected a list'),
    ({'inputs': [X, X]}, "inputs: found 2, expected one, 'x'"), ({'inputs': [7]}, 'inputs: found 7, expected an'),
    ({'inputs': [X]}, 'data: found None, expected a list'),
    ({'inputs': [{**X, 'data': DATA[:-1]}]}, 'x: found 3071 values, expected 3072 for the shape [1, 3, 32, 32]'),
    ({'inputs': [{**X, 'data': [DATA, [1]]}]}, 'x: found lists of different lengths'),
    ({'inputs': [{**X, 'data': ['a'] * 3072}]}, 'x: found values that are no numbers'),
    ({'inputs': [{**X, 'data': [None] * 3072}]}, 'x: found values that are no numbers'),
    ({'inputs': [{**X, 'data': [1e300] * 3072}]}, 'x: found values that are not finite'),
    ({'inputs': [{**X, 'data': [10 ** 90] * 3072}]}, 'x: found values that are no numbers'),
    ({'inputs': [{**X, 'shape': [-1, 3, 32, 32]}]}, 'x: found the shape [-1, 3, 32, 32], expected [N, 3, 32, 32]'),
    ({'inputs': [{**X, 'shape': [0, 3, 32, 32], 'data': []}]}, 'x: found the shape [0, 3, 32, 32], expected [N, 3'),
    ({'inputs': [{**X, 'shape': [True, 3, 32, 32]}]}, 'x: found the shape [True, 3, 32, 32], expected'),
    ({'inputs': [{**X, 'parameters': {'binary_data_size': 12288}}]}, 'x: found 0 bytes and binary_data_size 12288'),
    ({'inputs': [{**X, 'data': DATA}], 'outputs': [{'name': 'z'}]}, "outputs: found 'z', expected 'logits' or"),
    ({'inputs': [{**X, 'data': DATA}], 'outputs': [{'name': 'logits'}] * 2}, 'outputs: found one name twice'),
    ({'inputs': [{**X, 'data': DATA}], 'id': 3}, 'id: found 3, expected a string'),
    ({'inputs': [{**X, 'data': DATA}], 'outputs': [{'name': 'logits', 'parameters': {'classification': 'x'}}]},
     "classification: found 'x', expected a number of classes")])
def test_other_json(client, body, message):
    answer = client.post('/v2/models/small/infer', json=body)
    assert answer.status_code == 400 and answer.json()['error'].startswith(message), answer.text


@pytest.mark.parametrize('content, headers, message', [
    (b'{', {}, 'not JSON: '), (b'\xff', {}, 'body: not JSON: not UTF-8'), (b'[' * 5000, {}, 'JSON nested 5000 deep'),
    (b'{}xx', {'Inference-Header-Content-Length': '9'}, "inference-header-content-length: found '9', expected"),
    (b'{}xx', {'Inference-Header-Content-Length': '-1'}, "inference-header-content-length: found '-1', expected"),
    (json.dumps({'inputs': [{**X, 'data': DATA}]}).encode() + b'xx', {
        'Inference-Header-Content-Length': str(len(json.dumps({'inputs': [{**X, 'data': DATA}]})))},
     'body: found 2 bytes behind the JSON, but no binary_data_size'),
    (b'', {}, 'not JSON: ')])
def test_other_bytes(client, content, headers, message):
    answer = client.post('/v2/models/small/infer', content=content, headers=headers)
    assert answer.status_code == 400 and answer.json()['error'].startswith(message), answer.text


@pytest.mark.parametrize('path, message', [
    ('/v2/models/big/infer', "model: found 'big', expected 'small'"),
    ('/v2/models/small/versions/2/infer', "version: found '2', expected '1'")])
def test_other_models(client, path, message):
    answer = client.post(path, json={})
    assert (answer.status_code, answer.json()) == (404, {'error': message})


def test_nested_lists(client, batch):
    answer = client.post('/v2/models/small/versions/1/infer', json={'inputs': [
        {**X, 'shape': [2, 3, 32, 32], 'data': batch[0][:2].tolist()}]})
    assert answer.headers['content-type'] == 'application/json'
    logits = answer.json()['outputs'][0]
    assert logits['shape'] == [2, 10]
    np.testing.assert_allclose(logits['data'], batch[1][:2].reshape(-1), rtol=1e-5, atol=1e-5)


def test_images_whose_numbers_overflow_in_the_model(client, server, batch):
    """Finite numbers, logits that are not: no answer of NaN, and other images are answered."""
    wild = {'inputs': [{**X, 'shape': [1, 3, 32, 32], 'data': [3e38] * 3072}]}
    answer = client.post('/v2/models/small/infer', json=wild)
    assert (answer.status_code, answer.json()) == (
        500, {'error': 'the engine failed; the log of the server says why'})
    answer = client.post('/v2/models/small/infer', json={'inputs': [
        {**X, 'shape': [1, 3, 32, 32], 'data': batch[0][0].ravel().tolist()}]})
    np.testing.assert_allclose(answer.json()['outputs'][0]['data'], batch[1][0], rtol=1e-5, atol=1e-5)
