# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium for tests, driven through its own pipe: no driver, no package.

    with Browser('/usr/bin/chromium') as browser:
        page = browser.open('http://127.0.0.1:8000/')
        page.upload('#file', 'image.png')
        page.wait("document.title === 'x'")

Everything that a page asks of another host, and every line and exception in its console, is kept.
"""
from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional


def chromium() -> Optional[str]:
    """The browser's program, None where there is none."""
    return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


class Browser:
    def __init__(self, program: str) -> None:
        self.profile = tempfile.mkdtemp(prefix='chromium')
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()
        command = (f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}')
        self.process = subprocess.Popen(
            ['bash', '-c', command, program, '--headless=new', '--no-sandbox', '--remote-debugging-pipe',
             '--disable-background-networking', '--disable-component-update', '--disable-dev-shm-usage',
             '--enable-unsafe-swiftshader', '--no-first-run', f'--user-data-dir={self.profile}', 'about:blank'],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.buffer, self.count = b'', 0
        self.pages: Dict[str, Page] = {}

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: Any) -> None:
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            self.call('Browser.close', timeout=10)
        self.process.terminate()
        self.process.wait()
        os.close(self.write)
        os.close(self.read)
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method: str, timeout: float = 60, session: str = '', **parameters: Any) -> Dict[str, Any]:
        """The answer of the browser; its events meanwhile go to their pages."""
        self.count += 1
        number = self.count
        message = {'id': number, 'method': method, 'params': parameters, **({'sessionId': session} if session else {})}
        os.write(self.write, json.dumps(message).encode() + b'\0')
        end = time.monotonic() + timeout
        while True:
            answer = self.receive(end - time.monotonic())
            if answer is None:
                raise TimeoutError(f'{method}: no answer in {timeout} s')
            if answer.get('id') == number:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']

    def receive(self, timeout: float) -> Optional[Dict[str, Any]]:
        """The next message; None when there is none in time."""
        end = time.monotonic() + timeout
        while b'\0' not in self.buffer:
            if not select.select([self.read], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            self.buffer += os.read(self.read, 1 << 20)
        line, _, self.buffer = self.buffer.partition(b'\0')
        message = json.loads(line)
        page = self.pages.get(message.get('sessionId', ''))
        if 'method' in message and page:
            page.heard(message['method'], message['params'])
        return message

    def open(self, url: str, width: int = 1280, height: int = 900, scale: float = 1) -> Page:
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        page = self.pages[session] = Page(self, session)
        for domain in ('Page', 'Runtime', 'Log', 'Network', 'DOM'):
            page.call(f'{domain}.enable')
        page.resize(width, height, scale)
        page.call('Page.navigate', url=url)
        page.wait("location.href !== 'about:blank' && document.readyState === 'complete'")
        return page


class Page:
    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session
        self.console: List[str] = []   # errors and warnings
        self.requests: List[str] = []  # URLs

    def call(self, method: str, **parameters: Any) -> Dict[str, Any]:
        return self.browser.call(method, session=self.session, **parameters)

    def heard(self, method: str, event: Dict[str, Any]) -> None:
        if method == 'Network.requestWillBeSent':
            self.requests.append(event['request']['url'])
        elif method == 'Runtime.exceptionThrown':
            self.console.append(json.dumps(event['exceptionDetails'])[:500])
        elif method == 'Runtime.consoleAPICalled' and event['type'] in ('error', 'warning', 'assert'):
            self.console.append(' '.join(str(one.get('value', one)) for one in event['args']))
        elif method == 'Log.entryAdded' and event['entry']['level'] in ('error', 'warning'):
            self.console.append(event['entry']['text'] + ' ' + event['entry'].get('url', ''))

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=scale,
                  mobile=width < 600)

    def evaluate(self, code: str) -> Any:
        """The value of JavaScript code; promises are awaited."""
        answer = self.call('Runtime.evaluate', expression=code, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in answer:
            raise RuntimeError(json.dumps(answer['exceptionDetails'])[:1000])
        return answer['result'].get('value')

    def wait(self, code: str, timeout: float = 120) -> None:
        """Until ``code`` is true."""
        end = time.monotonic() + timeout
        while not self.evaluate(f'Boolean({code})'):
            if time.monotonic() > end:
                raise TimeoutError(f'{code}: not in {timeout} s; {self.evaluate("document.body.innerText")[:500]}; '
                                   f'console: {self.console}')
            self.browser.receive(0.1)

    def upload(self, selector: str, *paths: str) -> None:
        """Choose files in a file input."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', nodeId=node, files=[str(path) for path in paths])

    def screenshot(self, path: str) -> None:
        """The whole page as PNG."""
        answer = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(answer['data']))


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, with the headers that isolate a page where ``isolated``."""
    isolated = False

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header('Cross-Origin-Opener-Policy', 'same-origin')
            self.send_header('Cross-Origin-Embedder-Policy', 'require-corp')
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: str, isolated: bool = False) -> Iterator[str]:
    """The address of a static server of ``folder``."""
    handler = type('Folder', (Handler,), {'isolated': isolated})
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f'http://127.0.0.1:{server.server_address[1]}/'
        finally:
            server.shutdown()
            thread.join()
