# SPDX-License-Identifier: Apache-2.0
"""The page of the server in headless Chromium: the answers of infer.py, bad files, the token, a narrow window."""
from __future__ import annotations

import json
import shutil

import pytest
from served import NAMES, TOKEN, assert_equal

from tests import browser

pytest.importorskip('fastapi')

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not browser.chromium(), reason='needs Chromium')]
SHOWN = """[...document.querySelectorAll('#predictions .row')].map(
    (row) => [row.firstChild.textContent, row.lastChild.textContent, row.querySelector('.bar').style.width])"""


@pytest.fixture(scope='module')
def chrome():
    with browser.Browser(browser.chromium()) as one:
        yield one


def answered(page) -> list:
    """Name, probability and width of the bar of each row, once the page shows an answer."""
    page.wait("document.getElementById('time').textContent || document.getElementById('error').textContent")
    return page.evaluate(SHOWN)


def refused(page) -> str:
    """The sentence of an error, once there is one; there are no rows then."""
    page.wait("document.getElementById('error').textContent")
    assert page.evaluate(SHOWN) == []
    return page.evaluate("document.getElementById('error').textContent")


def assert_rows(rows: list, best: list) -> None:
    """The classes in order, the probabilities to the tenth of a percent that is shown."""
    assert [name for name, _, _ in rows] == [NAMES[k] for k, _ in best]
    for (_, percent, width), (_, probability) in zip(rows, best):
        assert percent.endswith(' %') and abs(float(percent[:-2]) - 100 * probability) < 0.051
        assert abs(float(width.rstrip('%')) - 100 * probability) < 0.01


@pytest.mark.parametrize('width', [1280, 390])
def test_answers_as_infer_without_an_error_or_another_host(server, chrome, images, expected, width):
    page = chrome.open(server.url + '/', width)
    for index in (0, 1, 2):  # PNG, JPEG, WebP
        page.upload('#image', str(images[index]))
        assert_rows(answered(page), expected[index][:5])
        assert page.evaluate("document.getElementById('preview').naturalWidth") > 0
        page.evaluate("document.getElementById('time').textContent = ''")
    assert page.console == []
    assert [one for one in page.requests if not one.startswith((server.url, 'data:', f'blob:{server.url}'))] == []
    assert page.evaluate('document.documentElement.scrollWidth') <= width


def test_a_bad_file_gets_a_sentence_and_the_next_one_its_answer(server, chrome, images, expected, tmp_path):
    page = chrome.open(server.url + '/')
    cut = images[4].read_bytes()
    for name, content, sentence in (('text.png', b'no image', 'image: cannot be decoded'),
                                    ('empty.jpg', b'', 'image: cannot be decoded'),
                                    ('cut.jpg', cut[:len(cut) // 2], 'image: cannot be decoded')):
        (tmp_path / name).write_bytes(content)
        page.upload('#image', str(tmp_path / name))
        assert refused(page).startswith(sentence)
    assert set(page.console) == {'Failed to load resource: the server responded with a status of 400 (Bad Request) '
                                 f'{server.url}/classify'}  # what Chromium says about every such answer
    page.upload('#image', str(images[4]))
    assert_rows(answered(page), expected[4][:5])
    assert page.evaluate("document.getElementById('error').textContent") == ''


def test_a_dropped_image(server, chrome, images, expected):
    page = chrome.open(server.url + '/')
    page.evaluate(f"""(() => {{
        const dropped = new DataTransfer();
        dropped.items.add(new File([Uint8Array.from({list(images[5].read_bytes())})], 'a.webp'));
        document.dispatchEvent(new DragEvent('drop', {{ dataTransfer: dropped }}));
    }})()""")
    assert_rows(answered(page), expected[5][:5])


@pytest.mark.parametrize('name', ['a.png', 'ä "quoted"; name=x\\.png'])
def test_the_form_without_its_script(server, chrome, images, expected, tmp_path, name):
    """What browsers send by themselves: the answer is shown as JSON."""
    shutil.copy(images[6], tmp_path / name)
    page = chrome.open(server.url + '/')
    page.evaluate("document.getElementById('image').replaceWith(document.getElementById('image').cloneNode())")
    page.upload('#image', str(tmp_path / name))
    page.evaluate("document.getElementById('form').submit()")
    page.wait("location.pathname === '/classify' && document.readyState === 'complete'")
    assert_equal(json.loads(page.evaluate("document.querySelector('pre').textContent")), expected[6][:5])


def test_the_token_is_asked_for(strict, chrome, images, expected):
    page = chrome.open(strict.url + '/')
    assert page.evaluate("document.getElementById('token-field').hidden")
    page.upload('#image', str(images[3]))
    assert refused(page).startswith('authorization: expected the header "Authorization: Bearer TOKEN"')
    assert not page.evaluate("document.getElementById('token-field').hidden")
    page.evaluate(f"document.getElementById('token').value = '{TOKEN}'")
    page.evaluate("document.querySelector('button').click()")
    assert_rows(answered(page), expected[3][:2])


def test_the_description_of_the_interface(server, chrome):
    page = chrome.open(server.url + '/docs', 390)
    page.wait("document.body.innerText.includes('/classify')")
    assert '/v2/models/{model}/infer' in page.evaluate('document.body.innerText')
    assert page.console == [] and page.evaluate('document.documentElement.scrollWidth') <= 390
    assert [one for one in page.requests if not one.startswith(server.url) and not one.startswith('data:')] == []
