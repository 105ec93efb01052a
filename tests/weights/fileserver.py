# SPDX-License-Identifier: Apache-2.0
"""A file server on 127.0.0.1 that does, request by request, what a test wants it to do wrong."""
from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, Iterator, List, Tuple

Answer = Callable[['Handler'], None]


class Handler(BaseHTTPRequestHandler):
    """The n-th request gets the n-th of ``server.answers``, the last one again and again."""

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers)))
            answers = self.server.answers
            reply = answers.pop(0) if len(answers) > 1 else answers[0]
        with contextlib.suppress(ConnectionError):
            reply(self)

    def start(self, status: int, headers: Dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serve(*answers: Answer) -> Iterator[ThreadingHTTPServer]:
    """A running server with ``.url`` and ``.requests``: (path, headers) of each."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    server.answers, server.requests, server.lock = list(answers), [], threading.Lock()
    server.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ranges(server: ThreadingHTTPServer) -> List[Tuple[str, str]]:
    """(Range, If-Range) of each request, '' where it had none."""
    return [(headers.get('Range', ''), headers.get('If-Range', '')) for _, headers in server.requests]


def file(content: bytes, cut: int = 0, announce: int = 0, pause: float = 0.0, **headers: str) -> Answer:
    """``content``, or its rest when it is asked for under the right ETag.

    ``cut``: the connection ends after so many bytes. ``announce``: the length that is claimed. ``pause``: seconds
    before the last byte. ``headers`` with _ for -; ``etag=''`` sends none.
    """
    named = {name.replace('_', '-'): value for name, value in headers.items()}
    named.setdefault('etag', '"one"')

    def reply(handler: Handler) -> None:
        asked, status, body = handler.headers.get('Range', ''), 200, content
        if asked and handler.headers.get('If-Range') in (None, named['etag']):
            status, begin = 206, int(asked.split('=')[1].split('-')[0])
            body = content[begin:]
            named.setdefault('content-range', f'bytes {begin}-{len(content) - 1}/{len(content)}')
        handler.start(status, {'Content-Length': announce or len(body),
                               **{name: value for name, value in named.items() if value}})
        body = body[:cut or len(body)]
        handler.wfile.write(body[:-1])
        handler.wfile.flush()
        time.sleep(pause)
        handler.wfile.write(body[-1:])
    return reply


def status(code: int, body: bytes = b'', **headers: str) -> Answer:
    """An reply without a file. ``headers`` with _ for -."""
    def reply(handler: Handler) -> None:
        handler.start(code, {'Content-Length': len(body),
                             **{name.replace('_', '-'): value for name, value in headers.items()}})
        handler.wfile.write(body)
    return reply
