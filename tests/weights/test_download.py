# SPDX-License-Identifier: Apache-2.0
"""Downloads from a server on this machine that does everything wrong. No network."""
from __future__ import annotations

import email.utils
import hashlib
import io
import json
import pickle
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from CaiT.errors import InputError
from CaiT.weights import download
from CaiT.weights.cache import cache_folder, fetch
from CaiT.weights.zoo import find
from tests.weights.fileserver import file, ranges, serve, status

ROOT = Path(__file__).resolve().parents[2]
ARRAYS = {'head.weight': np.arange(50_000, dtype='float32').reshape(1000, 50)}
CONTENT = save(ARRAYS)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = 'cait_xxs24_224.timm.safetensors'
AT_FIRST_USE = f'sha256 {SHA256} recorded at first use: nothing is published to compare it with, later uses are'


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A cache of the test's own, no proxies, no waiting."""
    for name in ('HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'HF_ENDPOINT', 'CAIT_MIRROR', 'CAIT_OFFLINE'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv('CAIT_HOME', str(tmp_path))
    monkeypatch.setattr(download, 'BACKOFF', 0.01)


def entry(url, sha256='', hash_status=''):
    return replace(find('cait_xxs24_224', 'timm'), url=f'{url}/model.safetensors', sha256=sha256,
                   hash_status=hash_status)


def folder():
    """Names in the cache but the lock's, which stays."""
    path = cache_folder()
    return sorted(f.name for f in path.iterdir() if not f.name.endswith('.lock')) if path.is_dir() else []


def elsewhere(name=NAME):
    """How a message ends after the last attempt."""
    return f'; download it elsewhere and give -pretrained=FILE, or put it into {cache_folder()} as {name}'


def refused(wanted, **options):
    """The one line with which a download is refused."""
    with pytest.raises(InputError) as error:
        fetch(wanted, **options)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_a_file_arrives_whole_and_is_asked_for_once():
    said = []
    with serve(file(CONTENT)) as server:
        path = fetch(entry(server.url), say=said.append)
        assert path == cache_folder() / NAME and path.read_bytes() == CONTENT
        assert said == [f'zoo: {path} ({SIZE:,} bytes): {AT_FIRST_USE}']
        assert json.loads(Path(f'{path}.json').read_text()) == {
            'sha256': SHA256, 'url': f'{server.url}/model.safetensors', 'checked': AT_FIRST_USE}
        assert fetch(entry(server.url), say=said.append) == path
        assert len(said) == 1 and len(server.requests) == 1
        assert server.requests[0][1]['Accept-Encoding'] == 'identity'
    assert folder() == [NAME, f'{NAME}.json']
    np.testing.assert_array_equal(load_file(path)['head.weight'], ARRAYS['head.weight'])


def test_a_cut_connection_is_continued_where_it_ended():
    said = []
    with serve(file(CONTENT, cut=100_000), file(CONTENT)) as server:
        path = fetch(entry(server.url), say=said.append)
        assert ranges(server) == [('', ''), ('bytes=100000-', '"one"')]
    assert path.read_bytes() == CONTENT
    assert said[0].startswith(f'zoo: connection cut at 100,000 of {SIZE:,} bytes (')
    assert said[0].endswith('; next attempt in 0.01 s') and len(said) == 2


@pytest.mark.parametrize('known, asked', [
    ({'validator': '"one"'}, ('bytes=70000-', '"one"')),          # the same file: the rest
    ({'validator': '"old"'}, ('bytes=70000-', '"old"')),          # changed at the server: it sends all of it
    ({'validator': None}, ('', '')),                              # no way to tell: from the start
    ({'validator': '"one"', 'url': 'http://a/b'}, ('', '')),      # of another address
    ({'validator': '"one"', 'length': 60_000}, ('', '')),         # longer than the file
    (None, ('', '')),                                             # nothing is known of it
])
def test_a_partial_file_of_an_earlier_process(known, asked):
    with serve(file(CONTENT)) as server:
        wanted = entry(server.url)
        part = cache_folder() / f'{NAME}.part'
        part.parent.mkdir(parents=True)
        begun = CONTENT[:70_000] if asked[1] == '"one"' else b'x' * 70_000
        part.write_bytes(begun)
        if known is not None:
            Path(f'{part}.json').write_text(json.dumps({'url': wanted.url, 'length': SIZE, **known}))
        assert fetch(wanted, say=str).read_bytes() == CONTENT
        assert ranges(server) == [asked]
    assert folder() == [NAME, f'{NAME}.json']


def test_a_partial_file_that_is_complete_is_not_asked_for_again():
    with serve(status(404)) as server:
        wanted = entry(server.url)
        part = cache_folder() / f'{NAME}.part'
        part.parent.mkdir(parents=True)
        part.write_bytes(CONTENT)
        Path(f'{part}.json').write_text(json.dumps({'url': wanted.url, 'length': SIZE, 'validator': '"one"'}))
        assert fetch(wanted, say=str).read_bytes() == CONTENT
        assert server.requests == []


@pytest.mark.parametrize('lie', [f'bytes 5-{SIZE - 1}/{SIZE}', f'bytes 100000-{SIZE}/{SIZE + 1}'])
def test_a_lying_content_range_is_not_believed(lie):
    said = []
    with serve(file(CONTENT, cut=100_000), file(CONTENT, content_range=lie), file(CONTENT)) as server:
        assert fetch(entry(server.url), say=said.append).read_bytes() == CONTENT
        assert ranges(server) == [('', ''), ('bytes=100000-', '"one"'), ('', '')]
    assert said[1] == 'zoo: the server cannot continue the partial file, it is begun again; next attempt in 0.02 s'


def test_a_rest_that_is_only_some_of_the_rest_is_continued():
    said = []
    with serve(file(CONTENT, cut=100_000), file(CONTENT, cut=500, announce=500), file(CONTENT)) as server:
        assert fetch(entry(server.url), say=said.append).read_bytes() == CONTENT
        assert ranges(server)[2] == ('bytes=100500-', '"one"')
    assert said[1] == f'zoo: 100,500 bytes arrived, the server announced {SIZE:,}; next attempt in 0.02 s'


def test_an_announced_length_that_never_comes():
    with serve(file(CONTENT, announce=SIZE + 10, etag='')) as server:
        message = refused(entry(server.url), say=str)
        assert len(server.requests) == 5
    assert message.startswith(f'{server.url}/model.safetensors: connection cut at {SIZE:,} of {SIZE + 10:,} bytes (')
    assert message.endswith(f'; gave up after 5 attempts, {SIZE:,} bytes are kept for the next' + elsewhere())
    assert folder() == [f'{NAME}.part', f'{NAME}.part.json']


@pytest.mark.parametrize('body, announce, reason', [
    (CONTENT, SIZE - 8, 'truncated or damaged safetensors file'),
    (b'PK\x03\x04' + CONTENT, 0, 'damaged zip archive (File is not a zip file)'),
    (b'\0' * 999, 0, 'its first bytes match no known weight format'),
    (pickle.dumps(print), 0, 'the pickle refers to builtins.print; refused'),
])
def test_what_is_no_whole_weight_file_is_not_kept(body, announce, reason):
    with serve(file(body, announce=announce)) as server:
        message = refused(entry(server.url), say=str)
    assert message.startswith(f'{server.url}/model.safetensors: what arrived is no whole weight file: ')
    assert reason in message and message.endswith('; nothing was kept')
    assert folder() == []


def torch_zip(damage=False):
    """A zip as PyTorch writes it: recognized by its names, its sums can be compared without PyTorch."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        archive.writestr('archive/data.pkl', b'a pickle')
        archive.writestr('archive/data/0', b'numbers')
    return content.getvalue().replace(b'numbers', b'nUmbers', 1) if damage else content.getvalue()


def test_sums_of_a_pytorch_file_are_compared():
    content = torch_zip()  # holds the time of day
    with serve(file(torch_zip(damage=True)), file(content)) as server:
        assert refused(entry(server.url), say=str) == (
            f'{server.url}/model.safetensors: what arrived is no whole weight file: damaged zip archive '
            '(archive/data/0); nothing was kept')
        assert folder() == []
        assert fetch(entry(server.url), say=str).read_bytes() == content


@pytest.mark.parametrize('reply, kind', [
    (file(CONTENT, content_type='text/html; charset=utf-8'), 'text/html'),
    (file(b'\n <!DOCTYPE html><html>Sign in</html>', content_type='application/octet-stream'),
     'application/octet-stream'),
    (file(b'<HTML>'), 'no content type'),
])
def test_a_web_page_instead_of_weights(reply, kind):
    """Not tried again; a partial file of before stays as it was."""
    with serve(reply) as server:
        wanted = entry(server.url)
        part = cache_folder() / f'{NAME}.part'
        part.parent.mkdir(parents=True)
        part.write_bytes(b'begun')
        assert refused(wanted, say=str) == (f'{wanted.url}: a web page arrived ({kind}), expected a weight file')
        assert len(server.requests) == 1 and part.read_bytes() == b'begun'
    assert folder() == [f'{NAME}.part']


@pytest.mark.parametrize('code, words', [(404, '404 Not Found'), (403, '403 Forbidden'), (410, '410 Gone')])
def test_an_answer_that_another_attempt_would_not_change(code, words):
    with serve(status(code)) as server:
        assert refused(entry(server.url), say=str) == (
            f'{server.url}/model.safetensors: the server answers {words}, expected a file')
        assert len(server.requests) == 1
    assert folder() == []


def test_too_many_requests_waits_as_long_as_the_server_says(monkeypatch):
    slept, said = [], []
    monkeypatch.setattr(download.time, 'sleep', slept.append)
    monkeypatch.setattr(download, 'BACKOFF', 4)
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    answers = status(429, Retry_After='7'), status(429, Retry_After=date), status(503), status(503, Retry_After='5')
    with serve(*answers, file(CONTENT)) as server:
        fetch(entry(server.url), say=said.append)
        assert len(server.requests) == 5
    assert slept[0] == 7 and 95 < slept[1] <= 100
    assert slept[2:4] == [16, 32]  # the server may ask for more than the doubled pause, not for less
    assert said[0] == 'zoo: the server answers 429 Too Many Requests; next attempt in 7 s'


def test_a_server_that_asks_for_an_hour_is_not_waited_for():
    with serve(status(429, Retry_After='3600')) as server:
        assert refused(entry(server.url), say=str) == (
            f'{server.url}/model.safetensors: the server answers 429 Too Many Requests and asks to wait 3600 s; '
            'try again then')


def test_a_server_that_never_recovers_is_given_up():
    said = []
    with serve(status(503)) as server:
        assert refused(entry(server.url), say=said.append) == (
            f'{server.url}/model.safetensors: the server answers 503 Service Unavailable; gave up after 5 attempts'
            + elsewhere())
        assert len(server.requests) == 5
    assert [line.split('; ')[1] for line in said] == [
        f'next attempt in {wait} s' for wait in ('0.01', '0.02', '0.04', '0.08')]


def test_attempts_count_only_without_progress(monkeypatch):
    monkeypatch.setattr(download, 'ATTEMPTS', 2)
    monkeypatch.setattr(download, 'PROGRESS', 40_000)
    with serve(*[file(CONTENT, cut=50_000) for _ in range(4)], file(CONTENT)) as server:
        assert fetch(entry(server.url), say=str).read_bytes() == CONTENT
        assert [asked for asked, _ in ranges(server)] == ['', 'bytes=50000-', 'bytes=100000-', 'bytes=150000-',
                                                          'bytes=200000-']


def test_redirects_are_followed_but_not_for_ever():
    with serve(status(302, Location='/b'), status(307, Location='/c'), file(CONTENT)) as server:
        assert fetch(entry(server.url), say=str).read_bytes() == CONTENT
        assert [path for path, _ in server.requests] == ['/model.safetensors', '/b', '/c']
    with serve(status(302, Location='/again')) as server:
        wanted = replace(entry(server.url), tag='other')
        assert refused(wanted, say=str) == f'{wanted.url}: redirected more than 10 times, expected a file'
        assert len(server.requests) == 11


def test_a_redirect_that_drops_encryption_is_refused(monkeypatch):
    import httpx

    def reply(request):
        return httpx.Response(302, headers={'Location': 'http://a.invalid/b'}) if request.url.scheme == 'https' \
            else httpx.Response(200, content=CONTENT)
    monkeypatch.setattr(download, '_client', lambda: httpx.Client(transport=httpx.MockTransport(reply),
                                                                  follow_redirects=True))
    wanted = replace(entry(''), url='https://a.invalid/model.safetensors')
    assert refused(wanted, say=str) == (
        'https://a.invalid/model.safetensors: redirected to http://a.invalid/b, which is not encrypted: refused')
    assert folder() == []


def test_a_server_that_falls_silent_is_asked_again(monkeypatch):
    monkeypatch.setattr(download, 'READ_TIMEOUT', 0.1)
    said = []
    with serve(file(CONTENT, pause=0.5), file(CONTENT)) as server:
        assert fetch(entry(server.url), say=said.append).read_bytes() == CONTENT
        assert ranges(server)[1] == (f'bytes={SIZE - 1}-', '"one"')
    assert said[0] == (f'zoo: nothing came for 0.1 s at {SIZE - 1:,} of {SIZE:,} bytes; next attempt in 0.01 s')


def test_a_connection_that_crawls_is_given_up(monkeypatch):
    """At 1,000 bytes, just too few for the time they took; what came is kept."""
    monkeypatch.setattr(download, 'STALL', 0.05)
    monkeypatch.setattr(download, 'SLOWEST', 1000 / 0.05 + 1)
    said = []
    with serve(file(CONTENT, cut=1000, pause=0.1), file(CONTENT)) as server:
        assert fetch(entry(server.url), say=said.append).read_bytes() == CONTENT
        assert ranges(server)[1] == ('bytes=1000-', '"one"')
    assert said[0] == 'zoo: 1,000 bytes came in 0 s, the connection is given up; next attempt in 0.01 s'


def test_nobody_answers():
    with socket.socket() as taken:  # bound, not listening: refused at once, and by nobody else
        taken.bind(('127.0.0.1', 0))
        host = f'127.0.0.1:{taken.getsockname()[1]}'
        message = refused(entry(f'http://{host}'), say=str)
    assert message.startswith(f'http://{host}/model.safetensors: {host} cannot be reached (')
    assert message.endswith('gave up after 5 attempts' + elsewhere())


def test_an_empty_file_is_none():
    with serve(status(200)) as server:
        assert refused(entry(server.url), say=str) == (
            f'{server.url}/model.safetensors: an empty file arrived; gave up after 5 attempts' + elsewhere())


@pytest.mark.parametrize('sha256, hash_status, said', [
    (SHA256, 'published', f'sha256 is {SHA256}, as published'),
    (SHA256[:8], 'published', f'sha256 begins with {SHA256[:8]}, as published'),
    (SHA256, 'transcribed', 'sha256 equals the transcription in the table, which is confirmed by that'),
])
def test_the_right_hash(sha256, hash_status, said):
    lines = []
    with serve(file(CONTENT)) as server:
        path = fetch(entry(server.url, sha256, hash_status), say=lines.append)
    assert lines == [f'zoo: {path} ({SIZE:,} bytes): {said}']


@pytest.mark.parametrize('sha256, found', [('a' * 64, f'is {SHA256}'), ('a1311bcf', f'begins with {SHA256[:8]}')])
def test_a_wrong_hash_is_not_kept(sha256, found):
    with serve(file(CONTENT)) as server:
        assert refused(entry(server.url, sha256, 'published'), say=str) == (
            f'{server.url}/model.safetensors: sha256 {found}, expected {sha256} as published; nothing was kept')
    assert folder() == []


def test_a_wrong_transcribed_hash_asks_and_can_be_answered():
    with serve(file(CONTENT)) as server:
        wanted = entry(server.url, 'b' * 64, 'transcribed')
        message = refused(wanted, say=str)
        assert message == (
            f'{wanted.url}: sha256 is {SHA256}, the table has {"b" * 64}, a transcription that nobody has confirmed: '
            'either may be wrong and nothing was kept; compare with the page of the file at its publisher, and if that '
            f'shows the first one, run python -m CaiT.tools.weights get cait_xxs24_224.timm --sha256 {SHA256} and '
            'report it')
        assert folder() == []
        lines = []
        path = fetch(wanted, sha256=SHA256.upper(), say=lines.append)
        assert lines == [f'zoo: {path} ({SIZE:,} bytes): sha256 is {SHA256}, as was asked for']
        assert fetch(wanted, say=lines.append) == path and len(lines) == 1


def test_a_malformed_hash_is_refused_before_anything_is_asked():
    assert refused(entry('http://127.0.0.1:9'), sha256='abc', say=str) == "sha256: found 'abc', expected 64 hex digits"


def test_a_cached_file_that_changed_is_refused():
    with serve(file(CONTENT)) as server:
        path = fetch(entry(server.url), say=str)
        path.write_bytes(CONTENT[:-1] + b'\x01')
        changed = hashlib.sha256(path.read_bytes()).hexdigest()
        assert refused(entry(server.url), say=str) == (
            f'{path}: sha256 is {changed}, expected {SHA256} as {NAME}.json recorded at first use: the file has '
            'changed since; delete both to download it again')
        Path(f'{path}.json').write_text('{}')
        assert refused(entry(server.url), say=str) == (
            f'{path}.json: holds no record of a hash, expected {{"sha256": …}}; delete it')


def test_a_file_put_there_by_hand_is_checked_and_recorded_offline(monkeypatch):
    monkeypatch.setenv('CAIT_OFFLINE', '1')
    wanted, said = entry('http://127.0.0.1:9'), []
    path = cache_folder() / NAME
    assert refused(wanted, say=str) == (
        f'cait_xxs24_224.timm: is not in the cache as {path}, and CAIT_OFFLINE forbids to download it; put '
        f'{wanted.url} there or unset CAIT_OFFLINE')
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-4])
    assert 'truncated or damaged safetensors file' in refused(wanted, say=str)
    path.write_bytes(CONTENT)
    assert fetch(wanted, say=said.append) == path and said == [f'zoo: {path}: {AT_FIRST_USE}']
    assert fetch(wanted, say=said.append) == path and len(said) == 1
    assert refused(replace(wanted, tag='other', sha256='a1311bcf', hash_status='published'), say=str)


def test_two_processes_download_once():
    code = ('import sys; from dataclasses import replace; from CaiT.weights.cache import fetch; '
            'from CaiT.weights.zoo import find; '
            'print(fetch(replace(find("cait_xxs24_224", "timm"), url=sys.argv[1], sha256="", hash_status="")))')
    with serve(file(CONTENT, pause=1.0)) as server:
        both = [subprocess.Popen([sys.executable, '-c', code, f'{server.url}/model.safetensors'], cwd=ROOT,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [process.communicate(timeout=30) for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
        assert len(server.requests) == 1
    path = cache_folder() / NAME
    assert path.read_bytes() == CONTENT and [out.split()[-1] for out, _ in outputs] == [str(path)] * 2
    assert sorted(len(out.splitlines()) for out, _ in outputs)[0] <= 2
    assert folder() == [NAME, f'{NAME}.json']


def test_the_one_who_waits_says_so():
    from filelock import FileLock
    with serve(file(CONTENT)) as server:
        target, said = cache_folder() / NAME, []
        target.parent.mkdir(parents=True)
        lock = FileLock(f'{target}.lock')
        lock.acquire()

        def say(line):
            said.append(line)
            target.write_bytes(CONTENT)  # what the other process brings
            lock.release()
        assert fetch(entry(server.url), say=lambda line: say(line) if not said else said.append(line)) == target
        assert said[0] == f'zoo: another process is downloading {NAME}, waiting for it'
        assert server.requests == []


def test_mirror_and_proxy(monkeypatch):
    with serve(file(CONTENT)) as server:
        monkeypatch.setenv('CAIT_MIRROR', f'{server.url}/weights/')
        assert fetch(entry('http://a.invalid'), say=str).read_bytes() == CONTENT
        monkeypatch.delenv('CAIT_MIRROR')
        monkeypatch.setenv('HTTP_PROXY', server.url)
        fetch(replace(entry('http://a.invalid'), tag='other'), say=str)
        assert [path for path, _ in server.requests] == [f'/weights/{NAME}', 'http://a.invalid/model.safetensors']
    with serve(status(404)) as server:
        monkeypatch.setenv('HTTP_PROXY', server.url)
        wanted = replace(entry('http://a.invalid'), tag='third')
        assert refused(wanted, say=str) == (
            f'{wanted.url}: the server answers 404 Not Found, expected a file (HTTP_PROXY set)')
    monkeypatch.setenv('HTTP_PROXY', 'nonsense://x')
    assert refused(wanted, say=str).startswith('proxy settings of the environment: ')


def test_the_cache_folder(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / 'weights'
    monkeypatch.delenv('CAIT_HOME')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    assert cache_folder() == tmp_path / 'xdg' / 'cait' / 'weights'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert cache_folder() == tmp_path / '.cache' / 'cait' / 'weights'


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('CAIT_HOME', str(tmp_path / 'file'))
    assert refused(entry('http://127.0.0.1:9'), say=str) == f'{tmp_path}/file/weights: Not a directory'


def test_a_full_disk_is_reported_before_the_first_byte(monkeypatch):
    usage = download.shutil.disk_usage
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda path: usage(path)._replace(free=1000))
    with serve(file(CONTENT)) as server:
        assert refused(entry(server.url), say=str) == (
            f'{cache_folder()}: 1,000 bytes are free, expected {SIZE:,} for {NAME}; CAIT_HOME chooses another folder')
    assert folder() == []


def test_progress_knows_what_was_there(monkeypatch):
    import tqdm
    bars, real = [], tqdm.tqdm

    def spy(**options):
        bars.append((options['initial'], options['total'], options['desc'], options['disable']))
        return real(**options)
    monkeypatch.setattr(tqdm, 'tqdm', spy)
    with serve(file(CONTENT, cut=100_000), file(CONTENT)) as server:
        fetch(entry(server.url), say=str)
    assert bars == [(0, SIZE, NAME, None), (100_000, SIZE, NAME, None)]


def test_probe_tells_length_and_hash_without_the_file():
    with serve(status(302, Location='/b', X_Linked_Etag=f'"{SHA256}"'), file(CONTENT)) as server:
        assert download.probe(f'{server.url}/a') == {'bytes': SIZE, 'sha256': SHA256}
        assert ranges(server)[1][0] == 'bytes=0-63'
    with serve(file(CONTENT, content_type='text/html')) as server, pytest.raises(InputError, match='a web page'):
        download.probe(f'{server.url}/a')
    with serve(status(503)) as server, pytest.raises(InputError, match='503 Service Unavailable$'):
        download.probe(f'{server.url}/a')
