# SPDX-License-Identifier: Apache-2.0
"""POST /classify by curl and httpx: the same answers as infer.py, one sentence for what is no image."""
from __future__ import annotations

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from served import ROOT, assert_equal

pytest.importorskip('fastapi')


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new('RGB', (width, height), (9, 99, 199)).save(file, 'png')
    return file.getvalue()


@pytest.mark.parametrize('how', [['-F', 'image=@{}'], ['-F', 'any name=@{};type=text/plain'], ['--data-binary', '@{}'],
                                 ['-H', 'Content-Type: image/jpeg', '--data-binary', '@{}'],
                                 ['-H', 'Transfer-Encoding: chunked', '--data-binary', '@{}'],
                                 ['-F', 'note=a', '-F', 'image=@{}', '-F', 'more=b']])
def test_curl(server, images, expected, how):
    for index in (1, 2):
        done = subprocess.run(['curl', '-sS', *[word.format(images[index]) for word in how],
                               f'{server.url}/classify?topk=4'], capture_output=True, check=True)
        found = json.loads(done.stdout)
        assert found['model'] == 'small'
        assert_equal(found, expected[index][:4])


def test_infer_says_the_same(server, client, exported, images, tmp_path):
    out = tmp_path / 'r.jsonl'
    subprocess.run([sys.executable, 'infer.py', f'--model-dir={exported}', '--backend=onnxruntime', '--topk=3',
                    f'--output={out}', '--img-path', *images], cwd=ROOT, check=True, capture_output=True)
    rows = {row['path']: row for row in map(json.loads, out.read_text(encoding='utf-8').splitlines())}
    assert len(rows) == len(images)
    for path in images:
        found = client.post('/classify', content=path.read_bytes()).json()['predictions']
        row = rows[str(path)]
        assert len(found) == 5 and (found[0]['class_id'], found[2]['class_id']) == (row['class_id'], row['class_id_3'])
        assert found[0]['prob'] == pytest.approx(float(row['prob']), rel=2e-5)


def test_many_clients_get_each_their_own_answer(client, images, expected):
    def one(index: int) -> None:
        answer = client.post('/classify', params={'topk': 10}, content=images[index % 12].read_bytes())
        assert answer.status_code == 200
        assert_equal(answer.json(), expected[index % 12])
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(one, range(240)))


FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n%s\r\n--b--\r\n'


@pytest.mark.parametrize('content, kind, message', [
    (b'', '', 'body: found no bytes, expected an image'),
    (b'no image', 'image/png', 'image: cannot be decoded (it is damaged, or of none of the formats '),
    (png(40, 40)[:-60], 'image/png', 'image: cannot be decoded ('),
    (b'{"a": 1}', 'application/json', 'image: cannot be decoded ('),
    (FORM % b'no image', 'multipart/form-data; boundary=b', 'image: cannot be decoded ('),
    ((FORM % png(40, 40))[:-7], 'multipart/form-data; boundary=b', 'form: ends before its last boundary'),
    (FORM % png(40, 40), 'multipart/form-data', 'content-type: found multipart/form-data without a boundary'),
    (FORM % png(40, 40), 'multipart/form-data; boundary=c', 'form: not multipart/form-data ('),
    ((FORM % png(40, 40))[:-7] + FORM % b'', 'multipart/form-data; boundary=b', 'form: found 2 files'),
    (b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--\r\n', 'multipart/form-data; boundary=b',
     'form: found 0 files, expected one image'),
    (b'--b\r\n\r\nx\r\n' * 99 + b'--b--', 'multipart/form-data; boundary=b', 'form: found more than 16 parts')])
def test_what_is_no_image(client, content, kind, message):
    answer = client.post('/classify', content=content, headers={'Content-Type': kind})
    assert answer.status_code == 400 and answer.json()['error'].startswith(message), answer.text
    assert list(answer.json()) == ['error'] and '\n' not in answer.json()['error']


@pytest.mark.parametrize('topk', ['0', '11', '-1', 'x', '', '9' * 30, '٣'])
def test_a_wrong_topk(client, images, topk):
    answer = client.post('/classify', params={'topk': topk}, content=images[0].read_bytes())
    assert answer.status_code == 400 and answer.json()['error'] == f"topk: found '{topk[:20]}" + (
        '…' if len(topk) > 20 else '') + "', expected 1 to 10"


@pytest.mark.parametrize('width, height, allowed', [(200, 100, True), (201, 100, False), (1, 20001, False)])
def test_pixels(strict_client, width, height, allowed):
    answer = strict_client.post('/classify', content=png(width, height))
    if allowed:
        assert answer.status_code == 200 and len(answer.json()['predictions']) == 2
    else:
        assert (answer.status_code, answer.json()) == (
            400, {'error': f'image: cannot be decoded ({width}x{height} are more than 20000 pixels)'})


@pytest.mark.parametrize('method, path, status, message', [
    ('GET', '/nothing', 404, '/nothing: no such address'), ('GET', '/classify', 405, '/classify: no GET here'),
    ('DELETE', '/v2', 405, '/v2: no DELETE here'), ('POST', '/', 405, '/: no POST here'),
    ('GET', '/%2e%2e/%2e%2e/etc/passwd', 404, '/../../etc/passwd: no such address'),
    ('GET', '/pages/index.html', 404, '/pages/index.html: no such address')])
def test_other_addresses(client, method, path, status, message):
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()) == (status, {'error': message})


def test_pages_load_nothing_from_elsewhere(client):
    for path in ('/', '/docs'):
        page = client.get(path)
        assert page.status_code == 200 and "default-src 'self'" in page.headers['content-security-policy']
        assert '//' not in page.text.replace('<!DOCTYPE', '').replace('// ', '')
    schema = client.get('/openapi.json').json()
    assert set(schema['paths']) == {'/classify', '/metrics', '/v2', '/v2/health/live', '/v2/health/ready',
                                    '/v2/models/{model}', '/v2/models/{model}/ready', '/v2/models/{model}/infer'}
    body = schema['paths']['/classify']['post']['requestBody']['content']
    assert body['multipart/form-data']['schema']['required'] == ['image'] and 'application/octet-stream' in body
