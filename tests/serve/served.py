# SPDX-License-Identifier: Apache-2.0
"""A server in a process of its own, and clients that speak less politely than a library."""
from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from tests.deploy.small_models import is_installed

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f'class "{k}" é' for k in range(10)]
TOKEN = 'a-token-of-16-chars'
BACKENDS = [name for name in ('onnxruntime', 'openvino', 'paddle') if is_installed(name)]


class Served:
    """``python -m CaiT serve`` at a free port; ``lines`` are what it prints."""

    def __init__(self, folder: Path, *flags: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'CaiT', 'serve', f'--model-dir={folder}', '--port=0', *flags], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        self.lines: List[str] = []
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip('\n'))
            if line.startswith('serve: ready: '):
                self._ready.set()
        self._ready.set()

    def ready(self) -> 'Served':
        assert self._ready.wait(60) and self.process.poll() is None, self.lines
        self.port = int(re.match(r'serve: http://127\.0\.0\.1:(\d+), loading ', self.lines[0]).group(1))
        self.url = f'http://127.0.0.1:{self.port}'
        return self

    def end(self) -> int:
        """The exit status after SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def connect(self) -> socket.socket:
        return socket.create_connection(('127.0.0.1', self.port), timeout=10)

    def raw(self, data: bytes) -> bytes:
        """All that the server answers to these bytes until it closes the connection; b'' when it resets it."""
        with self.connect() as connection:
            return sent(connection, data)


def sent(connection: socket.socket, data: bytes) -> bytes:
    """Send ``data``, then read until the server closes."""
    found = b''
    try:
        connection.sendall(data)
    except OSError:
        pass  # it has stopped reading
    try:
        while True:
            part = connection.recv(65536)
            if not part:
                return found
            found += part
    except OSError:
        return found


def post(body: bytes, path: str = '/classify', **headers: Any) -> bytes:
    """The bytes of a POST whose connection is closed after the answer; ``headers`` with _ for -."""
    fields = {'host': 'x', 'content-length': len(body), 'connection': 'close',
              **{name.replace('_', '-'): value for name, value in headers.items()}}
    lines = ''.join(f'{name}: {value}\r\n' for name, value in fields.items() if value is not None)
    return f'POST {path} HTTP/1.1\r\n{lines}\r\n'.encode() + body


def status(answer: bytes) -> int:
    return int(answer.split(b' ', 2)[1]) if answer.startswith(b'HTTP/1.1 ') else 0


def counters(text: str, prefix: str = 'cait_') -> Dict[str, float]:
    """The samples of a page of metrics."""
    return {name: float(value) for name, value in re.findall(rf'^({prefix}\S+) (\S+)$', text, re.M)}


def assert_equal(found: dict, expected: list) -> None:
    """The same classes in the same order with the same probabilities, up to rounding."""
    assert [one['class_id'] for one in found['predictions']] == [k for k, _ in expected]
    np.testing.assert_allclose([one['prob'] for one in found['predictions']], [p for _, p in expected], rtol=2e-5)
    assert [one['class_name'] for one in found['predictions']] == [NAMES[k] for k, _ in expected]
