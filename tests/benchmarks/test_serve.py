# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the server: percentiles, ratios of one round, wrong answers. Speed itself is not tested."""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import serve  # noqa: E402


@pytest.fixture
def port():
    """A server of one connection at a time that answers the class 'length of the image' in two parts."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen()

        def respond() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                data = b''
                while True:
                    part = connection.recv(65536)
                    if not part:
                        break
                    data += part
                    if b'\r\n\r\n' not in data or len(data) < data.index(b'\r\n\r\n') + 4 + int(
                            data.split(b'content-length: ')[1].split(b'\r\n')[0]):
                        continue
                    image = data.split(b'\r\n\r\n')[1]
                    code = b'503 Busy' if image == b'busy' else b'200 OK'
                    body = json.dumps({'predictions': [{'class_id': len(image), 'prob': 0.5}]}).encode()
                    connection.sendall(b'HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n' % (code, len(body)) + body[:9])
                    connection.sendall(body[9:])
                    data = b''
        threading.Thread(target=respond, daemon=True).start()
        yield listener.getsockname()[1]


def test_a_client_reads_whole_answers_and_every_image_is_sent(port):
    found = []
    row = serve.closed_loop(port, [b'a', b'bb', b'ccc'], 1, 60, 7, lambda *one: found.append(one))
    assert found == [(number % 3, (number % 3 + 1, 0.5)) for number in range(7)]
    assert row['requests'] == 7 and 0 < row['p50'] <= row['p95'] <= row['p99']
    with pytest.raises(InputError, match='the server answers HTTP/1.1 503 Busy'):
        serve.closed_loop(port, [b'busy'], 1, 60, 5)
    assert serve.closed_loop(port, [b'a'], 1, 0.2, 10 ** 9)['requests'] > 1


def test_percentiles():
    row = serve.summary([index / 1000 for index in range(200, 0, -1)], 4.0)
    assert row == {'requests': 200, 'images/s': 50.0, 'p50': 101.0, 'p95': 191.0, 'p99': 199.0}


def test_ratios_are_of_the_same_round():
    """The machine is twice as slow in the second round."""
    def rows(*speeds: float) -> list:
        return [{'requests': 10, 'images/s': speed, 'p50': 1.0, 'p95': 2.0, 'p99': 3.0} for speed in speeds]
    found = serve.table([100.0, 50.0, 100.0], {'16': {'batched': rows(90, 45, 100), 'unbatched': rows(60, 30, 50)}})
    assert found['folder images/s'] == 100 and found['clients']['16']['batched']['images/s'] == 90
    assert found['clients']['16']['ratio to folder'] == 0.9 and found['clients']['16']['ratio to unbatched'] == 1.5


@pytest.mark.parametrize('answers, message', [
    ([(1, 0.5), (2, 0.7)], None), ([(1, 0.5), (3, 0.7)], r'b: infer.py says \(2, 0.7\), the server \(3, 0.7\); 3 of 6'),
    ([(1, 0.4998), (2, 0.7)], r'a: infer.py says \(1, 0.5\), the server \(1, 0.4998\); 3 of 6 differ')])
def test_answers_are_compared(monkeypatch, tmp_path, answers, message):
    import contextlib
    paths = [str(tmp_path / name) for name in 'ab']
    for path in paths:
        Path(path).write_bytes(b'')
    monkeypatch.setattr(serve, 'folder_run', lambda words, paths: (1.0, [(1, 0.5), (2, 0.7)]))
    monkeypatch.setattr(serve, 'server', lambda words: contextlib.nullcontext((0, os.getpid())))
    monkeypatch.setattr(serve, 'closed_loop', lambda port, images, clients, seconds, count, compare: [
        compare(number % 2, answers[number % 2]) for number in range(count)])
    if message:
        with pytest.raises(InputError, match=message):
            serve.check([], 'fp32', paths, 6)
    else:
        found = serve.check([], 'fp32', paths, 6)
        assert found['requests'] == 6 and found['largest difference of a probability'] == 0
        assert len(found['memory in MB before, after a tenth, after all']) == 3


@pytest.mark.slow
def test_one_small_run(tmp_path):
    pytest.importorskip('fastapi')
    from tests.deploy.small_models import need, small, small_data
    need('onnxruntime')
    from PIL import Image

    from CaiT.deploy import parity
    from CaiT.deploy.export import export
    export(small('cait'), tmp_path, 'x', small_data(), parity.synthetic(small_data(), 4), {'file': 'w', 'sha256': ''},
           [('onnxruntime', 'fp32', 'float')])
    (tmp_path / 'images').mkdir()
    for index, pixels in enumerate(parity.synthetic(small_data(40), 70).pixels):
        Image.fromarray(pixels).save(tmp_path / 'images' / f'{index}.png')
    done = subprocess.run([sys.executable, 'benchmarks/serve.py', f'--model-dir={tmp_path}',
                           f'--images={os.path.relpath(tmp_path / "images", ROOT)}',
                           '--engines=onnxruntime/fp32', '--clients', '1', '4',
                           '--rounds=1', '--seconds=0.3', '--check=50', f'--output={tmp_path}/r.json'],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'r.json').read_text(encoding='utf-8'))['engines']['onnxruntime/fp32']
    assert set(found['clients']) == {'1', '4'} and found['check']['different answers'] == 0
