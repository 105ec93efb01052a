# SPDX-License-Identifier: Apache-2.0
"""Connections that cannot be held: limits on the head of a request, on a reader of responses and on their number.

uvicorn limits none of these by itself; the bodies are guarded in guard.py.
"""
from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any, Iterator, Optional

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10  # bytes of a request's first line and header fields
MAX_CONNECTIONS = 1000
WRITE_SECONDS = 30.0  # for which a client may leave a full response unread


class Connection(HttpToolsProtocol):
    """HTTP/1.1 with a time limit from the first byte (or the connection) to the end of a request's head."""

    head_seconds = 10.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.head_timer: Optional[asyncio.TimerHandle] = None
        self.write_timer: Optional[asyncio.TimerHandle] = None
        self.head_bytes = 0
        if len(self.connections) > MAX_CONNECTIONS:
            self.refuse(503, 'Service Unavailable', 'too many connections')
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self._start_head_timer()
        if self.head_timer:
            self.head_bytes += len(data)
        super().data_received(data)
        if self.head_timer and self.head_bytes > MAX_HEAD:
            self.refuse(431, 'Request Header Fields Too Large', f'found more than {MAX_HEAD} bytes of header fields')

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._stop_head_timer()
        if self.write_timer:
            self.write_timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self.write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self.write_timer:
            self.write_timer.cancel()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, 'Bad Request', 'not an HTTP request')

    def refuse(self, status: int, phrase: str, error: str) -> None:
        """Answer with an error and close the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = f'{{"error":"{error}"}}'
            fields = f'content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n'
            self.transport.write(f'HTTP/1.1 {status} {phrase}\r\n{fields}\r\n{body}'.encode())
        self.transport.close()

    def _start_head_timer(self) -> None:
        if not self.head_timer:
            self.head_bytes = 0
            self.head_timer = self.loop.call_later(self.head_seconds, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self.head_timer:
            self.head_timer.cancel()
            self.head_timer = None

    def _head_timed_out(self) -> None:
        if not self.head_bytes:
            self.transport.close()
        self.refuse(408, 'Request Timeout', f'no complete request within {self.head_seconds:g} seconds')


class Server(uvicorn.Server):
    """uvicorn, except that SIGTERM and SIGINT end it with status 0 once every request is answered."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        self.take_signals()
        yield

    def take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
