# SPDX-License-Identifier: Apache-2.0
"""The command: flags, the port, the token, warm-up before ready, the end."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from served import BACKENDS, ROOT, Served, counters, post, sent

from CaiT import runtime
from CaiT.errors import InputError
from CaiT.serve import command

pytest.importorskip('fastapi')


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-m', 'CaiT', 'serve', *words], cwd=ROOT, capture_output=True, text=True,
                          timeout=60, env={**os.environ, **environment})


def check(*words: str) -> None:
    command.check(command.parser().parse_args(list(words)))


@pytest.mark.parametrize('words, message', [
    (['--port=70000'], '--port: found 70000, expected 0 to 65535'), (['--queue=0'], '--queue: found 0, expected 1 to'),
    (['--topk=0'], '--topk: found 0, expected 1 to'), (['--max-body=0'], '--max-body: found 0, expected'),
    (['--max-pixels=2000'], '--max-pixels: found 2000, expected'), (['--batch-window=-3'], '--batch-window: found -3'),
    (['--model-name=a/b'], "--model-name: found 'a/b', expected a name without /"),
    (['--batch-size=-1'], '--batch-size: found -1'), (['--precision=fp8'], "--precision: found 'fp8', expected one of"),
    (['--cpu-threads=9999'], '--cpu-threads: found 9999, expected at most'), (['--head-seconds=0'], '--head-seconds: '),
    (['--use-tensorrt'], '--use-tensorrt True: has no effect on a CPU')])
def test_flags(words, message):
    with pytest.raises(InputError) as caught:
        check(*words)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize('value, words, threads, streams', [
    ('2', [], 2, 2), ('3', ['--streams=2'], 3, 2), ('2', ['--cpu-threads=1'], 1, 4), ('none', [], 1, 4),
    ('0', ['--streams=2'], 2, 2)])
def test_threads_are_those_the_user_has_set(monkeypatch, value, words, threads, streams):
    from CaiT.deploy import predictor
    from CaiT.serve import server
    monkeypatch.setattr(runtime, 'cores', lambda: 4)
    monkeypatch.setattr(runtime, '_first_environment', lambda: {'OMP_NUM_THREADS'})
    monkeypatch.setenv('OMP_NUM_THREADS', value)
    monkeypatch.delenv(runtime.SET_HERE, raising=False)
    monkeypatch.setattr(predictor, 'Predictor', lambda folder, backend, options, meta: options)
    monkeypatch.setattr(server, 'serve', lambda service, limits, address, args: (address.close(), service.make())[1])
    monkeypatch.setattr('sys.argv', ['serve', '--port=0', *words])
    options = command.main()
    assert (options.threads, options.streams) == (threads, streams)


def test_the_token(tmp_path, monkeypatch):
    monkeypatch.delenv(command.TOKEN, raising=False)
    assert command.token(None) == ''
    monkeypatch.setenv(command.TOKEN, ' from-environment\n')
    assert command.token(None) == 'from-environment'
    file = tmp_path / 'token'
    file.write_text('from-the-file\n', encoding='utf-8')
    assert command.token(str(file)) == 'from-the-file'
    for content in ('', 'short', 'a token with blanks', 'ümlaut-token', 'x' * 5000):
        file.write_text(content, encoding='utf-8')
        with pytest.raises(InputError, match=f'--token-file {file}: found .* characters, expected 8 to 4096 letters'):
            command.token(str(file))
    with pytest.raises(InputError, match='--token-file /none: No such file'):
        command.token('/none')


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(command, 'PACKAGES', {'json': 'json', 'nonsense_a': 'nonsense-a', 'nonsense_b': 'nonsense-b'})
    with pytest.raises(InputError, match='^serve: nonsense-a, nonsense-b is not installed; install it with: pip '
                                         'install nonsense-a nonsense-b$'):
        command.check_packages()


def test_a_port_in_use_and_an_address_of_another_machine(exported):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(f'--model-dir={exported}', f'--port={port}')
    assert (done.returncode, done.stdout) == (2, '') and done.stderr.count('\n') == 1
    assert done.stderr.startswith(f'error: --host 127.0.0.1 --port {port}: cannot be used (Address already in use)')
    for host in ('192.0.2.1', 'no such host', 'x' * 70):
        with pytest.raises(InputError, match='^--host'):
            command.listening(host, 0)


def test_small_packets_do_not_wait_for_each_other():
    """asyncio sets TCP_NODELAY on connections only where the socket names its protocol."""
    with command.listening('127.0.0.1', 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_model_that_cannot_be_loaded(tmp_path):
    done = run(f'--model-dir={tmp_path}', '--port=0')
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert done.stderr.startswith(f'error: {tmp_path}/metadata.json: no such file; make the folder with: ')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_last_answers_come_before_the_end(exported, images, number):
    server = Served(exported, '--backend=onnxruntime', '--batch-window=1500', '--body-seconds=2').ready()
    with ThreadPoolExecutor(3) as threads:
        found = [threads.submit(httpx.post, f'{server.url}/classify', content=path.read_bytes())
                 for path in images[:3]]
        half = threads.submit(sent, server.connect(), post(images[0].read_bytes())[:-9])  # never completed
        idle = server.connect()
        while counters(httpx.get(f'{server.url}/metrics').text)['cait_requests_in_flight'] < 3:
            time.sleep(0.02)
        server.process.send_signal(number)
        assert [one.result().status_code for one in found] == [200] * 3
        assert server.process.wait(10) == 0
        assert b' 408 ' in half.result() or half.result() == b''
        assert idle.recv(1) == b''
    assert server.lines[-1] == 'serve: ended' and not [line for line in server.lines if 'Traceback' in line]
    with pytest.raises(OSError):
        server.connect()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('backend', ['paddle', *(pytest.param(one, marks=pytest.mark.slow) for one in BACKENDS
                                                 if one != 'paddle')])
def test_every_engine_ends_with_status_0(exported, backend, number):
    """Paddle sets signal handlers when it is imported, which is after the server's."""
    server = Served(exported, f'--backend={backend}').ready()
    server.process.send_signal(number)
    assert server.process.wait(30) == 0
    assert server.lines[-1] == 'serve: ended' and not [line for line in server.lines if 'Error' in line]


def slowly(exported, seconds: float) -> tuple:
    """(a server that takes so long to load its model, its address)."""
    slow = ROOT / 'tests' / 'serve' / 'slow_start'
    server = Served(exported, '--backend=onnxruntime', PYTHONPATH=f'{slow}{os.pathsep}{ROOT}', SLOW_START=str(seconds))
    while not server.lines:
        time.sleep(0.01)
    return server, server.lines[0].split()[1].rstrip(',')


def test_an_end_before_the_model_is_loaded(exported):
    server, url = slowly(exported, 60)
    while not [line for line in server.lines if line.startswith('serve: http')]:
        time.sleep(0.01)
    deadline = time.monotonic() + 10
    while True:
        try:
            assert httpx.get(f'{url}/v2/health/live').status_code == 200
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline
    start = time.monotonic()
    assert server.end() == 0 and time.monotonic() - start < 20


def test_what_outlasts_the_drain_is_said(exported, images):
    server = Served(exported, '--backend=onnxruntime', '--drain-seconds=0.3').ready()
    with ThreadPoolExecutor(1) as threads:
        connection = server.connect()
        half = threads.submit(sent, connection, post(images[0].read_bytes())[:-9])
        while counters(httpx.get(f'{server.url}/metrics').text).get('cait_bodies_bytes', 0) < 100:
            time.sleep(0.02)
        assert server.end() == 0
        assert half.result().endswith(b'{"error": "the server ends"}')
    assert not [line for line in server.lines if 'Traceback' in line], server.lines


def test_not_ready_before_the_warm_up(exported, images):
    server, url = slowly(exported, 1)
    assert not server._ready.is_set()
    with httpx.Client(base_url=url) as client:
        deadline = time.monotonic() + 5
        while True:
            try:
                assert client.get('/v2/health/live').status_code == 200
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
        assert client.get('/v2/health/ready').status_code == 503
        for path in ('/classify', '/v2/models/small/infer'):
            answer = client.post(path, content=images[0].read_bytes())
            assert (answer.status_code, answer.headers['retry-after']) == (503, '1')
            assert answer.json() == {'error': 'the model is being loaded'}
        assert client.get('/v2/models/small/ready').status_code == 503
        server.ready()
        assert client.get('/v2/health/ready').status_code == 200
        assert client.post('/classify', content=images[0].read_bytes()).status_code == 200
    assert server.end() == 0
