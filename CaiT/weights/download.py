# SPDX-License-Identifier: Apache-2.0
"""From a URL to a whole file: resumed, retried, through proxies, with progress; or one line saying why not.

HTTP, redirects and proxies are httpx's, which comes with Paddle. Resuming and retrying are written here, because
neither pooch (no resume, no Retry-After) nor huggingface_hub (its own host only) does them for six hosts.
"""
from __future__ import annotations

import contextlib
import email.utils
import itertools
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional
from urllib.parse import urlsplit

from CaiT import safe_json
from CaiT.errors import InputError
from CaiT.files import check_regular, write_json

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 5               # in a row without progress, before giving up
PROGRESS = 1 << 20         # bytes that count as progress
BACKOFF, LONGEST_WAIT = 1.0, 300.0  # seconds: before the second attempt (doubled each time), and at most
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0  # seconds
STALL, SLOWEST = 60.0, 1024  # a connection that brings less than SLOWEST bytes/s for STALL seconds counts as cut
RETRIED = (408, 425, 429, 500, 502, 503, 504)

Say = Callable[[str], None]


class _Again(Exception):
    """A fault that another attempt may not meet: the message, and seconds that the server asks to wait."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass
class _Server:
    """What a server said of a file: ``validator`` is an ETag or a date, ``length`` in bytes; None where it is silent.
    Kept beside a partial file, because only bytes of the same file may be continued."""
    url: str
    validator: Optional[str]
    length: Optional[int]


def download(url: str, part: Path, say: Say) -> None:
    """Bring ``url`` to ``part``, continuing what is there; the length has been checked when this returns.

    What the server said of the file is kept beside it as ``.part.json``, for the next time when this one ends early.
    InputError when the file cannot be had.
    """
    failures, best, wait = 0, 0, BACKOFF
    with _client() as client:
        while True:
            try:
                _transfer(client, url, part)
                return
            except _Again as fault:
                size = _size(part)
                if size >= best + PROGRESS:
                    failures, best, wait = 0, size, BACKOFF
                failures += 1
                if failures >= ATTEMPTS:
                    raise InputError(f'{url}: {fault}; gave up after {failures} attempts'
                                     + (f', {size:,} bytes are kept for the next' if size else '')
                                     + _surroundings() + '; download it elsewhere and give -pretrained=FILE, or put it '
                                     f'into {part.parent} as {part.stem}') from None
                pause = max(fault.wait, wait)
                if pause > LONGEST_WAIT:
                    raise InputError(f'{url}: {fault} and asks to wait {pause:.0f} s; try again then') from None
                say(f'zoo: {fault}; next attempt in {pause:g} s')
                time.sleep(pause)
                wait = min(2 * wait, LONGEST_WAIT)


def _transfer(client: 'httpx.Client', url: str, part: Path) -> None:
    """One attempt. A partial file is continued when the server says that it still has the same one."""
    known, size = _known(part), _size(part)
    ours = size > 0 and known is not None and known.url == url and known.validator is not None
    if ours and size == known.length:
        return
    resumes = ours and (known.length is None or size < known.length)
    with _answer(client, url, {'Range': f'bytes={size}-', 'If-Range': known.validator} if resumes else {}) as response:
        if response.status_code != 200 and not (resumes and _continues(response, known, size)):
            forget(part)
            raise _Again('the server cannot continue the partial file, it is begun again')
        if response.status_code == 200:
            size, known = 0, _Server(url, _validator(response), _length(response))
        blocks = _blocks(response, size, known.length)
        first = next(blocks, b'')
        _refuse_html(response, first, url)
        _check_disk_space(part, known.length, size)
        write_json(f'{part}.json', vars(known))
        _write(part, first, blocks, size, known.length)


def _continues(response: 'httpx.Response', known: _Server, size: int) -> bool:
    """Whether an answer is the rest, from ``size`` on, of the file that is known."""
    return (response.status_code == 206 and _range_start(response) == size
            and known.length in (None, _range_total(response)))


def _write(part: Path, first: bytes, blocks: Iterator[bytes], size: int, length: Optional[int]) -> None:
    from tqdm import tqdm
    with open(part, 'ab' if size else 'wb') as file, \
            tqdm(total=length, initial=size, unit='B', unit_scale=True, unit_divisor=1024, desc=part.stem,
                 disable=None) as bar:
        for block in itertools.chain([first], blocks):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if length is not None and size != length:
        raise _Again(f'{size:,} bytes arrived, the server announced {length:,}')
    if not size:
        raise _Again('an empty file arrived')


def _blocks(response: 'httpx.Response', size: int, length: Optional[int]) -> Iterator[bytes]:
    """What arrives, as it arrives, behind the ``size`` bytes that are there; _Again when nothing more comes."""
    import httpx
    of = '' if length is None else f'of {length:,} '
    begun, brought = time.monotonic(), 0
    try:
        for block in response.iter_raw():
            yield block
            size, brought, now = size + len(block), brought + len(block), time.monotonic()
            if now - begun > STALL:
                if brought < SLOWEST * STALL:
                    raise _Again(f'{brought:,} bytes came in {now - begun:.0f} s, the connection is given up')
                begun, brought = now, 0
    except httpx.TimeoutException:
        raise _Again(f'nothing came for {READ_TIMEOUT:g} s at {size:,} {of}bytes') from None
    except httpx.HTTPError as error:
        raise _Again(f'connection cut at {size:,} {of}bytes ({_reason(error)})') from None


def probe(url: str) -> Dict[str, Any]:
    """What the server says of a file without sending it: {'bytes', 'sha256'}, None where it does not say.

    Hugging Face names the SHA-256 of a large file (X-Linked-Etag). InputError when it does not answer with a file.
    """
    with _client() as client:
        try:
            with _answer(client, url, {'Range': 'bytes=0-63'}) as response:
                length = _range_total(response) if response.status_code == 206 else _length(response)
                _refuse_html(response, next(_blocks(response, 0, length), b''), url)
                tags = [step.headers.get('x-linked-etag', '').strip('"') for step in (*response.history, response)]
        except _Again as fault:
            raise InputError(f'{url}: {fault}' + _surroundings()) from None
    return dict(bytes=length, sha256=next((tag for tag in tags if len(tag) == 64), None))


@contextlib.contextmanager
def _answer(client: 'httpx.Client', url: str, headers: Dict[str, str]) -> Iterator['httpx.Response']:
    """A streamed answer that is a file, wholly or in part (or 416); _Again or InputError when it is something else."""
    import httpx
    try:
        with client.stream('GET', url, headers=headers) as response:
            status = response.status_code
            if url.startswith('https:') and any(step.url.scheme != 'https' for step in (*response.history, response)):
                raise InputError(f'{url}: redirected to {response.url}, which is not encrypted: refused')
            if status in RETRIED:
                raise _Again(f'the server answers {status} {response.reason_phrase}', _retry_after(response))
            if status not in (200, 206, 416):
                raise InputError(f'{url}: the server answers {status} {response.reason_phrase}, expected a file'
                                 + _surroundings())
            yield response
    except httpx.TooManyRedirects:
        raise InputError(f'{url}: redirected more than {client.max_redirects} times, expected a file') from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise InputError(f'{url}: redirected to what is no web address ({error})') from None
    except httpx.TimeoutException:
        raise _Again(f'{urlsplit(url).netloc} did not answer in time') from None
    except httpx.HTTPError as error:
        raise _Again(f'{urlsplit(url).netloc} cannot be reached ({_reason(error)})') from None


def _client() -> 'httpx.Client':
    try:
        import httpx
    except ImportError:
        raise InputError('downloading weights needs the package httpx: pip install httpx') from None
    try:  # proxies are those of HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY
        return httpx.Client(follow_redirects=True, max_redirects=10,
                            timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
                            headers={'Accept-Encoding': 'identity', 'User-Agent': 'paddle-cait'})
    except (ValueError, ImportError) as error:  # a proxy's address that is none, or of a kind httpx has no package for
        raise InputError(f'proxy settings of the environment: {error}') from None


def _refuse_html(response: 'httpx.Response', block: bytes, url: str) -> None:
    kind = response.headers.get('content-type', '').split(';')[0].strip().lower()
    start = block[:256].lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if kind in ('text/html', 'application/xhtml+xml') or start.startswith((b'<!doctype', b'<html', b'<?xml')):
        hint = '; open it in a browser' if urlsplit(url).netloc.endswith('google.com') else ''
        raise InputError(f'{url}: a web page arrived ({kind or "no content type"}), expected a weight file{hint}'
                         + _surroundings())


def _length(response: 'httpx.Response') -> Optional[int]:
    text = response.headers.get('content-length', '')
    return _number(text) if not response.headers.get('content-encoding') else None


def _number(text: str) -> Optional[int]:
    """A number of bytes in a header; None for what is none."""
    return int(text) if text.isdecimal() and len(text) <= 20 else None


def _validator(response: 'httpx.Response') -> Optional[str]:
    """What If-Range may carry: a strong ETag or a date; without one a partial file cannot be told from another's."""
    tag = response.headers.get('etag', '')
    return tag if tag and not tag.startswith('W/') else response.headers.get('last-modified')


def _range_start(response: 'httpx.Response') -> Optional[int]:
    start = response.headers.get('content-range', '').replace('bytes ', '').split('-')[0]
    return _number(start)


def _range_total(response: 'httpx.Response') -> Optional[int]:
    total = response.headers.get('content-range', '').rpartition('/')[2]
    return _number(total)


def _retry_after(response: 'httpx.Response') -> float:
    """Seconds that the server asks to wait, given as a number or as a date; 0 without."""
    text = response.headers.get('retry-after', '').strip()
    if _number(text) is not None:
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _known(part: Path) -> Optional[_Server]:
    """What is known of a partial file; None, and it is begun again, where nothing can be read."""
    path = Path(f'{part}.json')
    try:
        check_regular(path)
        values = safe_json.load_json(path)
        known = _Server(values['url'], values['validator'], values['length'])
    except (OSError, InputError, KeyError, TypeError):
        return None
    is_whole = (isinstance(known.url, str) and isinstance(known.validator, (str, type(None)))
                and (known.length is None or type(known.length) is int))
    return known if is_whole and (known.validator or '').isprintable() else None


def forget(part: Path) -> None:
    """Remove a partial file and what is known of it."""
    for path in (part, Path(f'{part}.json')):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _check_disk_space(part: Path, length: Optional[int], size: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if length is not None and length - size > free:
        raise InputError(f'{part.parent}: {free:,} bytes are free, expected {length - size:,} for {part.stem}; '
                         'CAIT_HOME chooses another folder')


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _reason(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


def _surroundings() -> str:
    """The settings that may be why, for the end of an error."""
    names = [name for name in ('CAIT_MIRROR', 'HF_ENDPOINT', 'HTTPS_PROXY', 'HTTP_PROXY', 'https_proxy', 'http_proxy')
             if os.environ.get(name)]
    return f' ({", ".join(names)} set)' if names else ''
