# SPDX-License-Identifier: Apache-2.0
"""Hostile and unlucky clients: each gets one sentence or a closed connection, and nobody else loses an answer."""
from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from served import TOKEN, assert_equal, counters, post, sent, status

pytest.importorskip('fastapi')

from CaiT.serve.guard import Guard, Limits
from CaiT.serve.metrics import Metrics

BEARER = f'Bearer {TOKEN}'


@pytest.fixture
def neighbor(client, images, expected):
    """Another client gets its right answers before, during and after the test."""
    stop, found = threading.Event(), []

    def ask() -> None:
        while True:
            index = len(found) % 12
            found.append((index, client.post('/classify', params={'topk': 10}, content=images[index].read_bytes())))
            if stop.wait(0.02):
                return
    thread = threading.Thread(target=ask)
    thread.start()
    yield found
    stop.set()
    thread.join()
    for index, answer in found:
        assert answer.status_code == 200, answer.text
        assert_equal(answer.json(), expected[index])


# Token

@pytest.mark.parametrize('headers', [
    {}, {'Authorization': 'Bearer'}, {'Authorization': TOKEN}, {'Authorization': f'Basic {TOKEN}'},
    {'Authorization': f'Bearer {TOKEN[:-1]}'}, {'Authorization': f'Bearer {TOKEN}x'}, {'Authorization': 'Bearer \xe9'}])
def test_without_the_token(strict, headers):
    raw = {name: value.encode('latin-1') for name, value in headers.items()}
    for method, path in (('POST', '/classify'), ('GET', '/metrics'), ('GET', '/v2/models/other'), ('GET', '//')):
        answer = httpx.request(method, strict.url + path, headers=raw, content=b'x' if method == 'POST' else None)
        assert answer.status_code == 401 and answer.headers['www-authenticate'] == 'Bearer'
        assert answer.json()['error'].startswith('authorization: expected the header "Authorization: Bearer TOKEN"')


def test_two_tokens_are_none(strict):
    answer = strict.raw(f'GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: {BEARER}\r\nauthorization: {BEARER}\r\n'
                        'connection: close\r\n\r\n'.encode())
    assert status(answer) == 401


def test_with_the_token_and_what_needs_none(strict, strict_client):
    assert strict_client.get('/metrics').status_code == 200
    for path in ('/', '/docs', '/openapi.json', '/v2/health/live', '/v2/health/ready'):
        assert httpx.get(strict.url + path).status_code == 200


# Bodies

@pytest.mark.parametrize('body, headers, code, message', [
    (b'', {'content-length': 262145}, 413, b'body: found 262145 bytes, expected at most 262144'),
    (b'x', {'content-length': '9' * 30}, 400, b''),
    (b'x', {'content-length': 'x'}, 400, b''), (b'x', {'content-length': -1}, 400, b''),
    (b'xx', {'content-length': '2\r\nContent-Length: 3'}, 400, b''),
    (b'0\r\n\r\n', {'content-length': 5, 'transfer-encoding': 'chunked'}, 400, b''),
    (b'x', {'content-length': 2}, 408, b'body: not complete after 0.7 seconds'),
    (b'zz\r\n', {'content-length': None, 'transfer-encoding': 'chunked'}, 400, b''),
    (b'fffff\r\n' + bytes(1 << 19), {'content-length': None, 'transfer-encoding': 'chunked'}, 413,
     b'body: found more than 262144 bytes'),
    (b'x', {'content-encoding': 'gzip'}, 415, b'content-encoding: found a compressed body'),
    (b'', {'content-length': None}, 400, b'body: found no bytes, expected an image')])
def test_bodies(strict, body, headers, code, message):
    answer = strict.raw(post(body, authorization=BEARER, **headers))
    assert status(answer) in (code, 0 if code == 400 and not message else code) and message in answer


def test_a_large_body_is_refused_and_its_sender_reads_why(strict):
    answer = httpx.post(strict.url + '/classify', content=bytes(3 << 20), headers={'Authorization': BEARER})
    assert answer.status_code == 413


def test_slow_heads_and_bodies_are_cut_off(strict, server, neighbor):
    head = post(b'', authorization=BEARER, content_length=1000)
    start = time.monotonic()

    def drip(data: bytes) -> bytes:
        """A byte every 50 ms."""
        with strict.connect() as connection:
            connection.settimeout(0.05)
            found = b''
            for byte in data:
                try:
                    connection.send(bytes([byte]))
                    found += connection.recv(4096) or b'closed'
                except socket.timeout:
                    continue
                except OSError:
                    break
                if found.endswith(b'closed'):
                    break
            return found + b'%d ms' % ((time.monotonic() - start) * 1000)
    with ThreadPoolExecutor(8) as threads:
        heads = [threads.submit(drip, head) for _ in range(4)]
        bodies = [threads.submit(lambda: sent(strict.connect(), head + b'x' * 500)) for _ in range(3)]
        for one in heads:
            assert one.result().startswith(b'HTTP/1.1 408 Request Timeout\r\n'), one.result()
        for one in bodies:
            assert status(one.result()) == 408
    assert time.monotonic() - start < 5
    with strict.connect() as connection:
        assert connection.recv(1) == b''  # a connection without a byte


def test_all_bodies_together_are_bounded():
    """As many as sixteen of the largest; what an answered request held is free for others."""
    async def ask(guard: Guard, sizes: list, go: asyncio.Event) -> int:
        answers, chunks = [], [{'type': 'http.request', 'body': bytes(size), 'more_body': True} for size in sizes]

        async def receive() -> dict:
            if chunks:
                return chunks.pop(0)
            await go.wait()
            return {'type': 'http.request', 'body': b'', 'more_body': False}

        async def send(message: dict) -> None:
            answers.append(message)
        await guard({'type': 'http', 'method': 'POST', 'path': '/classify', 'headers': []}, receive, send)
        return answers[0]['status']

    async def app(scope: dict, receive: object, send: object) -> None:
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})

    async def run() -> None:
        guard, go = Guard(app, Limits(100, 30, 50), lambda: True, Metrics()), asyncio.Event()
        waiting = [asyncio.ensure_future(ask(guard, [60, 40], go)) for _ in range(16)]
        await asyncio.sleep(0.05)
        assert guard.buffered == 1600
        assert await ask(guard, [1], go) == 503 and guard.buffered == 1600
        go.set()
        assert await asyncio.gather(*waiting) == [200] * 16 and guard.buffered == 0
        assert await ask(guard, [100], go) == 200
    asyncio.run(run())


@pytest.mark.parametrize('head', [b'GET / HTTP/1.1\r\nx: ' + b'a' * 200_000, b'GET /' + b'a' * 200_000,
                                  b'GET / HTTP/1.1\r\n' + b'a: b\r\n' * 30_000])
def test_an_endless_head(server, head):
    answer = server.raw(head)
    assert answer == b'' or status(answer) == 431


@pytest.mark.parametrize('data', [
    b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', b'\0' * 100, b'GET\r\n\r\n', b'GET / HTTP/9\r\n\r\n',
    b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', b'CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n',
    b'GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n', b'GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n'])
def test_what_is_no_http(server, data):
    answer = server.raw(data + b'\r\n\r\n')
    assert answer == b'' or 400 <= status(answer) < 500


# The queue

def test_a_full_queue_answers_503_and_those_in_it_get_their_answer(strict, images, expected):
    def one(_: int) -> httpx.Response:
        return httpx.post(strict.url + '/classify', content=images[3].read_bytes(), headers={'Authorization': BEARER})
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(one, range(12)))
    accepted, refused = ([one for one in found if one.status_code == code] for code in (200, 503))
    assert len(accepted) >= 3 and len(refused) >= 1 and len(accepted) + len(refused) == 12
    for answer in refused:
        assert answer.headers['retry-after'] == '1'
        assert answer.json() == {'error': '3 requests are waiting already'}
    for answer in accepted:
        assert_equal(answer.json(), expected[3][:2])


def memory(client) -> float:
    """MB of the server."""
    return counters(client.get('/metrics').text, 'process_')['process_resident_memory_bytes'] / 1e6


def cut(server, data: bytes, reset: bool) -> None:
    """Send and go away, with a reset or not."""
    with server.connect() as connection:
        connection.sendall(data)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))


def giant() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')


def slowly_sent(server, data: bytes) -> bytes:
    """The answer to a request that comes in ten parts, one every 25 ms."""
    step = -(-len(data) // 10)
    with server.connect() as connection:
        for start in range(0, len(data), step):
            connection.sendall(data[start:start + step])
            time.sleep(0.025)
        return sent(connection, b'')


def hostile(server, image: bytes, generator: random.Random) -> None:
    """One hostile request."""
    path = generator.choice(['/classify', '/v2/models/small/infer', '/../../etc/passwd', '/classify?topk=\xb2', '/%00'])
    body = bytearray(image)
    kind = generator.randrange(8)
    if kind == 0:  # cut
        data = post(image, path)
        cut(server, data[:generator.randrange(len(data))], generator.random() < 0.5)
    elif kind == 1:  # gone before the answer
        cut(server, post(image), True)
    elif kind == 2:  # damaged
        for _ in range(20):
            body[generator.randrange(len(body))] = generator.randrange(256)
        answer = server.raw(post(bytes(body), path))
        assert status(answer) in (200, 400, 404, 405, 0), answer
    elif kind == 3:  # a wrong type
        kinds = ['multipart/form-data; boundary=' + 'b' * 200, 'application/json', '', 'multipart/form-data;' * 50]
        answer = server.raw(post(image, path, content_type=generator.choice(kinds)))
        assert status(answer) in (200, 400, 404, 405, 0), answer
    elif kind == 4:  # huge
        answer = server.raw(post(b'', path, content_length=generator.choice([1 << 40, 1 << 64, 10 ** 30])))
        assert status(answer) in (400, 413, 0), answer
    elif kind == 5:  # huge when it is decoded
        answer = server.raw(post(giant()))
        assert status(answer) == 400 and b'pixels' in answer, answer
    elif kind == 6:  # slow, but in time
        assert status(slowly_sent(server, post(image))) == 200
    else:  # noise
        server.raw(bytes(generator.randrange(256) for _ in range(200)) + b'\r\n\r\n')


@pytest.mark.parametrize('count', [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_hostile_requests_cost_nobody_an_answer(server, client, images, neighbor, count):
    generators, before = [random.Random(index) for index in range(count)], memory(client)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda one: hostile(server, images[one.randrange(12)].read_bytes(), one), generators))
    assert server.process.poll() is None
    deadline = time.monotonic() + 10
    while counters(client.get('/metrics').text)['cait_requests_in_flight'] > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert counters(client.get('/metrics').text)['cait_requests_in_flight'] <= 1
    assert not [line for line in server.lines if 'Traceback' in line], server.lines
    print(f'{count} hostile requests, {len(neighbor)} answers beside them; memory {before:.0f} MB before, '
          f'{memory(client):.0f} MB after')
    assert memory(client) < before + 100
