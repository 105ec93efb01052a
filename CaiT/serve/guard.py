# SPDX-License-Identifier: Apache-2.0
"""What every request passes before a route sees it: the token, and the size, time and number of bodies."""
from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import json
import re
import time
from typing import Any, Callable, Dict, List, Tuple

from CaiT.serve.metrics import Metrics

OPEN_PATHS = ('/', '/docs', '/openapi.json', '/v2/health/live', '/v2/health/ready')  # without a token
BUFFERED_BODIES = 16  # all bodies together may have as many times the largest one
LINGER_SECONDS, LINGER_PAUSE = 2.0, 0.3  # for which a refused client may go on sending, so that it reads the response
RETRY_SECONDS = 1

Headers = List[Tuple[bytes, bytes]]


@dataclasses.dataclass(frozen=True)
class Limits:
    """``body`` in bytes, ``body_seconds`` from the head of a request to the end of its body, ``queue`` requests that
    wait for an answer at a time; ``token`` is asked for unless it is empty."""
    body: int
    body_seconds: float
    queue: int
    token: str = ''


class Refused(Exception):
    """A request that is answered with an error: HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


class Guard:
    """ASGI application around ``app``, which gets the body of a POST in one piece."""

    def __init__(self, app: Any, limits: Limits, is_ready: Callable[[], bool], metrics: Metrics) -> None:
        self.app, self.limits, self.is_ready, self.metrics = app, limits, is_ready, metrics
        self.in_flight = self.buffered = 0
        self.token = _digest(limits.token)

    async def __call__(self, scope: Dict[str, Any], receive: Any, send: Any) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def sending(message: Dict[str, Any]) -> None:
            nonlocal status
            status = message.get('status', status)
            await send(message)
        try:
            if scope['method'] == 'POST':
                await self._post(scope, receive, sending)
            else:
                self._check_token(scope)
                await self.app(scope, receive, sending)
        except Refused as refused:
            await _refuse(refused, receive, sending)
        except Disconnected:
            status = 499
        except asyncio.CancelledError:  # --drain-seconds are over
            if status:
                raise
            await _answer(_busy('the server ends'), sending, more=False)
        route = route_name(scope['path'])
        self.metrics.requests.labels(route, status or 500).inc()
        self.metrics.request_seconds.labels(route).observe(time.monotonic() - start)

    async def _post(self, scope: Dict[str, Any], receive: Any, send: Any) -> None:
        self._check_token(scope)
        headers = dict(scope['headers'])
        if headers.get(b'content-encoding', b'identity').lower() != b'identity':
            raise Refused(415, 'content-encoding: found a compressed body, expected one as it is')
        declared = headers.get(b'content-length', b'0')
        if not declared.isdigit() or len(declared) > 20 or int(declared) > self.limits.body:
            raise Refused(413, f'body: found {_text(declared)} bytes, expected at most {self.limits.body}')
        self._check_queue()
        body = bytearray()
        try:
            try:
                await asyncio.wait_for(self._read(receive, body), self.limits.body_seconds)
            except asyncio.TimeoutError:
                raise Refused(408, f'body: not complete after {self.limits.body_seconds:g} seconds') from None
            self._check_queue()
            self.in_flight += 1
            try:
                await self.app(scope, _whole(bytes(body), receive), send)
            finally:
                self.in_flight -= 1
        finally:
            self.buffered -= len(body)

    async def _read(self, receive: Any, body: bytearray) -> None:
        """Append the body to ``body``; raises Refused as soon as it is too large."""
        more = True
        while more:
            message = await receive()
            if message['type'] == 'http.disconnect':
                raise Disconnected
            chunk, more = message.get('body', b''), message.get('more_body', False)
            body += chunk
            self.buffered += len(chunk)
            if len(body) > self.limits.body:
                raise Refused(413, f'body: found more than {self.limits.body} bytes, expected at most as many')
            if self.buffered > BUFFERED_BODIES * self.limits.body:
                raise _busy('too many bodies are being read')

    def _check_queue(self) -> None:
        if not self.is_ready():
            raise _busy('the model is being loaded')
        if self.in_flight >= self.limits.queue:
            raise _busy(f'{self.in_flight} requests are waiting already')

    def _check_token(self, scope: Dict[str, Any]) -> None:
        if not self.limits.token or scope['path'] in OPEN_PATHS:
            return
        given = [value for name, value in scope['headers'] if name == b'authorization']
        word, _, token = (given[0] if len(given) == 1 else b'').partition(b' ')
        # Digests have one length, and they are compared in constant time.
        if not hmac.compare_digest(_digest(token.strip()), self.token) or word.lower() != b'bearer':
            raise Refused(401, 'authorization: expected the header "Authorization: Bearer TOKEN" with the token of '
                          'this server', **{'www-authenticate': 'Bearer'})


class Disconnected(Exception):
    """The client is gone before its request was complete."""


def route_name(path: str) -> str:
    """The route of an address as a label: a few words, whatever clients send."""
    if path in ('/', '/classify', '/metrics', '/docs', '/openapi.json', '/v2', '/v2/health/live', '/v2/health/ready'):
        return path
    match = re.fullmatch(r'/v2/models/[^/]+(?:/versions/[^/]+)?(/ready|/infer)?', path)
    return f'/v2/models{match.group(1) or ""}' if match else 'other'


def error_body(sentence: str) -> bytes:
    """The JSON of an error, as the Open Inference Protocol has it."""
    return json.dumps({'error': ' '.join(sentence.split())}, ensure_ascii=False).encode()


def _busy(sentence: str) -> Refused:
    return Refused(503, sentence, **{'retry-after': str(RETRY_SECONDS)})


def _digest(token: Any) -> bytes:
    return hashlib.sha256(token if isinstance(token, bytes) else token.encode()).digest()


def _text(value: bytes) -> str:
    return value[:20].decode('ascii', 'replace')


def _whole(body: bytes, receive: Any) -> Any:
    """A ``receive`` that gives ``body`` and then what the connection gives."""
    messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def next_message() -> Dict[str, Any]:
        return messages.pop() if messages else await receive()
    return next_message


async def _answer(refused: Refused, send: Any, more: bool) -> None:
    """The response of a refused request; with ``more`` its end is to follow."""
    body = error_body(str(refused))
    headers: Headers = [(b'content-type', b'application/json'), (b'content-length', str(len(body)).encode()),
                        (b'connection', b'close')]
    headers += [(name.encode(), value.encode()) for name, value in refused.headers.items()]
    await send({'type': 'http.response.start', 'status': refused.status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body, 'more_body': more})


async def _refuse(refused: Refused, receive: Any, send: Any) -> None:
    """Answer, and let the client finish sending for a moment: closing at once would reset the connection, and it would
    never read why."""
    await _answer(refused, send, more=True)
    end, more = time.monotonic() + LINGER_SECONDS, True
    while more and time.monotonic() < end:
        try:
            message = await asyncio.wait_for(receive(), LINGER_PAUSE)
        except asyncio.TimeoutError:
            break
        more = message['type'] == 'http.request' and message.get('more_body', False)
    await send({'type': 'http.response.body', 'body': b'', 'more_body': False})
