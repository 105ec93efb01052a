# SPDX-License-Identifier: Apache-2.0
"""app.py: answers, bad files and limits; with Gradio and Chromium (make gradio-test), the page itself."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parent / 'deploy'))
from small_models import need, small, small_data

import app
from CaiT.deploy import clients, parity
from CaiT.deploy.attention import Attention
from CaiT.deploy.clients import gradio as attention_of
from CaiT.deploy.engines import Options
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError
from CaiT.report.attention import explain
from tests import browser

ROOT = Path(__file__).resolve().parents[1]
NAMES = ['cat', 'dog', 'cat', *(f'{k}' for k in range(7))]
PYTHONS = [one for one in os.environ.get('CAIT_GRADIO', '').split(':') if one]


@pytest.fixture(scope='module')
def exported(tmp_path_factory) -> str:
    need('onnxruntime')
    folder, network, checks = tmp_path_factory.mktemp('app'), small('cait'), parity.synthetic(small_data(), 4)
    meta = export(network, folder, 'small', small_data(), checks, {'file': 'w', 'sha256': ''},
                  [('paddle', 'fp32', 'float')], NAMES, attention='--client gradio')
    assert clients.write(['gradio'], clients.Request(network, folder, meta, checks)) == [
        f'python app.py --model-dir={folder}: a page with classes and attention']
    return str(folder)


@pytest.fixture(scope='module')
def model(exported) -> app.Classifier:
    predictor = Predictor(exported, 'paddle', Options())
    return app.Classifier(predictor, Attention(exported, predictor.meta))


@pytest.fixture
def image(tmp_path) -> str:
    pixels = parity.synthetic(small_data(50), 2).pixels[-1]
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    return str(tmp_path / 'a.png')


def test_the_answer_is_that_of_infer(model, exported, image):
    best = next(iter(Predictor(exported, 'paddle', Options()).predict([image], 5))).best
    classes, shown, sentence = model(image)
    assert list(classes.values()) == [probability for _, probability in best]
    assert [name.split(' (')[0] for name in classes] == [NAMES[class_id] for class_id, _ in best]
    assert shown.size == (32, 32) and re.fullmatch(r'\d+ ms\.', sentence)


def test_classes_of_one_name_are_both_shown(model):
    assert model.names([(2, 0.5), (1, 0.3), (0, 0.2)]) == {'cat': 0.5, 'dog': 0.3, 'cat (0)': 0.2}


def test_the_attention_is_that_of_the_model(model, image):
    from CaiT.data.transforms import eval_transform
    pixels, values = attention_of.last_block(model.attention, image)
    said = explain(small('cait'), eval_transform(small_data())(image)[None])
    np.testing.assert_allclose(values.ravel(), said.attention[0, -1].mean(0)[1:], atol=1e-5)
    assert pixels.shape == (32, 32, 3)


def test_colors_of_the_attention():
    values = np.zeros((10, 10), np.float32)
    values[0, :5], values[0, 5:] = 50, 0.25  # a twentieth outshines the rest: yellow is reached before
    values[9] = 0.25
    shown = np.asarray(attention_of.overlay(np.zeros((10, 10, 3), np.uint8), values))
    np.testing.assert_array_equal(shown[0, 0], [120, 124, 16])  # half of yellow
    np.testing.assert_array_equal(shown[9, 9], [120, 124, 16])
    np.testing.assert_array_equal(shown[4, 4], [6, 4, 68])      # half of blue


@pytest.mark.parametrize('content, sentence', [
    (b'', 'This file cannot be decoded (the file is empty).'),
    (b'no image', 'This file cannot be decoded (it is damaged, or of none of the formats '),
    (bytes(app.MAX_BYTES + 1), 'This file has 10.0 MB, expected at most 10.')])
def test_a_bad_file_gets_one_sentence(model, tmp_path, content, sentence):
    (tmp_path / 'x.jpg').write_bytes(content)
    classes, shown, said = model(str(tmp_path / 'x.jpg'))
    assert classes is None and shown is None and said.startswith(sentence) and '\n' not in said


def test_no_file(model):
    assert model(None) == (None, None, 'Drop an image, or choose one below.')


def test_several_users_at_once(model, image):
    expected = model(image)[0]
    with ThreadPoolExecutor(8) as pool:
        assert all(found[0] == expected for found in pool.map(model, [image] * 40))


def test_sample_photographs(tmp_path):
    pytest.importorskip('sklearn')
    found = app.examples(tmp_path)
    assert [Path(one).name for one in found] == ['china.jpg', 'flower.jpg']
    assert Image.open(found[0]).size == (640, 427)


@pytest.mark.parametrize('words, message', [
    (['--precision=fp8'], r"^--precision: found 'fp8', expected one of fp32, bf16, int8$"),
    (['--port=70000'], '^--cpu-threads 0, --port 70000: expected no negative numbers, and a port below 65536$'),
    (['--model-dirs=x'], 'unknown flag --model-dirs, did you mean --model-dir')])
def test_bad_flags(monkeypatch, words, message):
    monkeypatch.setitem(sys.modules, 'gradio', type(sys)('gradio'))
    monkeypatch.setattr(sys, 'argv', ['app.py', *words])
    with pytest.raises(InputError, match=message):
        app.main()


def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    monkeypatch.setattr(sys, 'argv', ['app.py'])
    with pytest.raises(InputError, match=r'^app.py: gradio is not installed; install it with: pip install gradio$'):
        app.main()


@pytest.mark.slow
@pytest.mark.skipif(not (PYTHONS and browser.chromium()), reason='make gradio-test: needs Chromium, and interpreters '
                    'with Gradio in CAIT_GRADIO')
@pytest.mark.parametrize('python', PYTHONS or [''])
@pytest.mark.parametrize('width', [1280, 390])
def test_the_page(python, width, exported, image, model, tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(b'no image')
    process = subprocess.Popen([python, str(ROOT / 'app.py'), f'--model-dir={exported}', '--port=7873'], cwd=tmp_path,
                               env={**os.environ, 'PYTHONPATH': str(ROOT), 'GRADIO_ANALYTICS_ENABLED': 'False'},
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in process.stdout:
            if 'Running on' in line:
                break
        assert process.poll() is None
        with browser.Browser(browser.chromium()) as chrome:
            page = chrome.open('http://127.0.0.1:7873/', width)
            page.wait("document.querySelector('input[type=file]')")
            status = "[...document.querySelectorAll('textarea')].map((one) => one.value).join()"
            for path, wanted in ((image, r'\d+ ms\.'), (str(tmp_path / 'bad.jpg'), 'This file cannot be decoded .*')):
                page.upload('input[type=file]', path)
                page.wait(f'/^{wanted}$/.test({status})')
                shown = page.evaluate('document.body.innerText')
                if path == image:
                    for name, probability in model(image).classes.items():
                        assert name in shown and f'{100 * probability:.0f}%' in shown
                    page.evaluate("document.querySelector('button[aria-label=Clear], "
                                  "button[aria-label=\"Remove Image\"]').click()")
                    page.wait(f"{status}.startsWith('Drop')")
            assert page.evaluate('document.documentElement.scrollWidth') <= width
    finally:
        process.terminate()
        process.wait()
