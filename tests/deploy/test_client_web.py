# SPDX-License-Identifier: Apache-2.0
"""``--client web``: what is written; the graph's attention; with Chromium (make web-test), the page itself."""
from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image
from small_models import need, small, small_data

from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.deploy import clients, parity
from CaiT.deploy.clients import ort_web, web
from CaiT.deploy.engines import Options
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError
from tests import browser

WEIGHTS = {'file': 'w', 'sha256': ''}
NAMES = [f'<b>{k}</b> & "名"' for k in range(10)]  # what HTML gives a meaning
PILLOW = int(PIL.__version__.split('.')[0])
PACKAGE = os.environ.get('CAIT_ORT_WEB', '')
in_browser = [pytest.mark.slow, pytest.mark.skipif(
    not (PACKAGE and browser.chromium()), reason='make web-test: needs Chromium, and onnxruntime-web in CAIT_ORT_WEB')]


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """A folder like the npm package's, known by its checksums."""
    (tmp_path / 'package' / 'dist').mkdir(parents=True)
    for name in ort_web.FILES:
        (tmp_path / 'package' / 'dist' / name).write_text(name)
    monkeypatch.setattr(ort_web, 'FILES', {name: web_sha(tmp_path / 'package' / 'dist' / name)
                                           for name in ort_web.FILES})
    return str(tmp_path / 'package')


def web_sha(path: Path) -> str:
    from CaiT.files import sha256
    return sha256(path)


def written(model, folder, checks, package, names=None, data=None, precision='fp32'):
    meta = export(model, folder, 'm', data or small_data(), checks, WEIGHTS, [('onnxruntime', 'fp32', 'uint8')], names)
    return clients.write(['web'], clients.Request(model, folder, meta, checks, precision, checks, package))


@pytest.mark.parametrize('precision', ['fp32', 'int8'])
def test_what_is_written(cait, checks, tmp_path, package, precision):
    need('onnxruntime')
    lines = written(cait, tmp_path / 'm', checks, package, NAMES, precision=precision)
    folder = tmp_path / 'm' / 'web'
    assert {path.name for path in folder.iterdir()} == {
        'index.html', 'style.css', 'app.js', 'decode.js', 'resize.js', 'model.json', 'model.onnx', '_headers',
        'onnxruntime-web.LICENSE', *ort_web.FILES}
    assert json.loads((folder / 'model.json').read_text(encoding='utf-8')) == {
        'name': 'm', 'num_classes': 10, 'classes': NAMES, 'activation': 'softmax',
        'data': small_data().as_dict(), 'precision': precision,
        'bytes': (folder / 'model.onnx').stat().st_size, 'prefix': 1, 'ort_web': '1.30.0',
        'pillow': PILLOW}
    assert 'Copyright (c) Microsoft Corporation' in (folder / 'onnxruntime-web.LICENSE').read_text()
    assert re.fullmatch(rf'{folder}: {precision} page for any web server; largest difference to the dynamic model '
                        rf'.* of max.logit., same class on \d of 7 images; try it: python -m http.server -d {folder}',
                        lines[0])


def test_nothing_on_the_page_comes_from_another_host():
    for path in web.SOURCE.iterdir():
        assert not re.search(r'(?:https?:)?//(?!www\.w3\.org)[\w.-]+\.\w+', re.sub(
            r'^\s*//.*$', '', path.read_text(encoding='utf-8'), flags=re.M)), path.name


@pytest.mark.parametrize('words, message', [
    ((['web'], ''), r'^--client web: needs onnxruntime-web, which is not part of this package; get it with: npm pack '
     r'onnxruntime-web@1\.30\.0 && tar xzf onnxruntime-web-1\.30\.0\.tgz, then --ort-web=package$'),
    ((['web'], '/nowhere'), r'^--ort-web /nowhere: found no dist/ort\.wasm\.bundle\.min\.mjs, expected the unpacked'),
    ((['paddlex'], 'package'), '^--ort-web package: has no effect without --client web$')])
def test_refused_before_weights_are_read(words, message):
    with pytest.raises(InputError, match=message):
        clients.check(*words)


def test_another_version_of_the_library_is_refused(package):
    ort_web.check(package)
    for name in ort_web.FILES:
        path = Path(package, 'dist', name)
        before = path.read_bytes()
        path.write_bytes(before + b' ')
        with pytest.raises(InputError, match=f'^--ort-web {package}: dist/{name} is not that of onnxruntime-web 1'):
            ort_web.check(package)
        path.write_bytes(before)


def test_a_model_without_onnx_graph(checks, tmp_path, package):
    model = small('vit')
    model.norm.register_forward_post_hook(lambda layer, inputs, output: output * 2)
    meta = export(model, tmp_path / 'm', 'm', small_data(), checks, WEIGHTS, [('paddle', 'fp32', 'float')])
    with pytest.raises(InputError, match=r'^--client web: m has no ONNX graph \(norm has a hook\), expected a model'):
        clients.write(['web'], clients.Request(model, tmp_path / 'm', meta, checks, ort_web=package))


@pytest.fixture(scope='module')
def page_folder(cait, tmp_path_factory) -> str:
    """A page with the real library, and its export."""
    folder = tmp_path_factory.mktemp('page')
    data = DataConfig(32, 0.9, 'bicubic', (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    written(cait, folder, parity.synthetic(data, 3), PACKAGE, NAMES, data)
    return str(folder)


@pytest.fixture(scope='module')
def chrome():
    with browser.Browser(browser.chromium()) as one:
        yield one


def save_images(folder: Path) -> list:
    """Files of which browsers and Pillow could disagree: orientation, profiles, alpha, palettes, odd sizes."""
    rng = np.random.Generator(np.random.PCG64(3))

    def image(width, height, mode='RGB'):
        bands = {'RGB': 3, 'RGBA': 4, 'L': 1}[mode]
        pixels = rng.integers(0, 256, (6, 7, bands), np.uint8)
        return Image.fromarray(pixels.squeeze(), mode).resize((width, height), Image.BICUBIC)
    exif = Image.Exif()
    exif[0x112] = 6
    profile = b'\0' * 36 + b'acsp' + b'\0' * 88  # browsers refuse or apply it
    images = {'square.png': (image(64, 64), {}), 'wide.png': (image(211, 97), {}), 'small.png': (image(20, 31), {}),
              'turned.jpg': (image(90, 60), {'exif': exif, 'quality': 95}), 'gray.jpg': (image(50, 80, 'L'), {}),
              'profile.png': (image(77, 60), {'icc_profile': profile}),
              'turned.png': (image(61, 90), {'exif': exif}), 'alpha.png': (image(64, 50, 'RGBA'), {}),
              'palette.png': (image(70, 60).quantize(16), {'transparency': 3}),
              'progressive.jpg': (image(101, 75), {'progressive': True}),
              'lossless.webp': (image(66, 40), {'lossless': True})}
    for name, (one, options) in images.items():
        one.save(folder / name, **options)
    return [str(folder / name) for name in images]


def shown_for(page, path: str) -> dict:
    """What the page shows for a file."""
    page.evaluate("document.getElementById('status').textContent = ''")
    page.upload('#file', path)
    page.wait(f"document.getElementById('status').textContent.startsWith({json.dumps(Path(path).name)}) && "
              "!document.getElementById('status').textContent.endsWith('…')")
    return page.evaluate("""({
        status: document.getElementById('status').textContent, shown: !document.getElementById('result').hidden,
        names: [...document.querySelectorAll('li .row span:first-child')].map((one) => one.textContent),
        best: [...document.querySelectorAll('li')].map((one) => [+one.dataset.id, +one.dataset.probability]),
        time: document.getElementById('time').textContent})""")


class TestPage:
    pytestmark = in_browser

    @pytest.mark.parametrize('isolated', [False, True])
    def test_answers_as_infer_and_asks_no_other_host(self, page_folder, chrome, tmp_path, isolated):
        paths = save_images(tmp_path)
        ours = list(Predictor(page_folder, 'onnxruntime', Options(input='uint8')).predict(paths, 5))
        with browser.served(f'{page_folder}/web', isolated) as url:
            page = chrome.open(url)
            page.wait("document.getElementById('status').textContent === 'Ready.'")
            threads = page.evaluate("document.getElementById('about').textContent")
            assert threads.endswith(' 1 thread')
            for path, mine in zip(paths, ours):
                found = shown_for(page, path)
                assert [k for k, _ in found['best']] == [k for k, _ in mine.best], (path, found, mine)
                np.testing.assert_allclose([p for _, p in found['best']], [p for _, p in mine.best], atol=2e-5,
                                           err_msg=path)
                assert found['names'] == [NAMES[k] for k, _ in mine.best] and found['shown']
                assert re.fullmatch(r'\d+ ms for the model, \d+ ms for decoding and resizing', found['time'])
            assert page.console == []
            assert [one for one in page.requests if not one.startswith((url, 'data:', 'blob:' + url))] == []

    def test_an_int8_page_answers_as_infer_in_int8(self, cait, chrome, tmp_path):
        """Image by image: in int8 of ONNX Runtime the images of a batch affect each other."""
        data = DataConfig(32, 0.9, 'bicubic', (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        checks = parity.synthetic(data, 8)
        meta = export(cait, tmp_path / 'm', 'm', data, checks, WEIGHTS, [('onnxruntime', 'int8', 'uint8')], NAMES,
                      calibration=checks)
        clients.write(['web'], clients.Request(cait, tmp_path / 'm', meta, checks, 'int8', checks, PACKAGE))
        paths = save_images(tmp_path)
        ours = list(Predictor(str(tmp_path / 'm'), 'onnxruntime', Options('int8', 'uint8', batch=1)).predict(paths, 5))
        with browser.served(str(tmp_path / 'm' / 'web')) as url:
            page = chrome.open(url)
            page.wait("document.getElementById('status').textContent === 'Ready.'")
            assert ', int8, ' in page.evaluate("document.getElementById('about').textContent")
            for path, mine in zip(paths, ours):
                found = shown_for(page, path)['best']
                assert [k for k, _ in found] == [k for k, _ in mine.best], path
                np.testing.assert_allclose([p for _, p in found], [p for _, p in mine.best], atol=1e-4, err_msg=path)
            assert page.console == []

    @pytest.mark.parametrize('name, content, message', [
        ('notes.png', b'no image', 'This file ends in the middle of the image.|This file is damaged, or no image'),
        ('empty.jpg', b'', 'The file is empty.'), ('text.txt', b'hello', 'This file is damaged, or no image'),
        ('cut.jpg', None, 'This file ends in the middle of the image.'),
        ('cut.png', None, 'This file ends in the middle of the image.')])
    def test_a_bad_file_gets_a_sentence_and_the_next_one_its_answer(self, page_folder, chrome, tmp_path, name, content,
                                                                    message):
        good = save_images(tmp_path)[0]
        path = tmp_path / name
        if content is None:
            Image.open(good).save(path)
            content = path.read_bytes()[:-200]
        path.write_bytes(content)
        with browser.served(f'{page_folder}/web') as url:
            page = chrome.open(url)
            page.wait("document.getElementById('status').textContent === 'Ready.'")
            found = shown_for(page, str(path))
            assert re.match(f'{name}: (?:{message})', found['status']) and not found['shown']
            assert shown_for(page, good)['shown'] and page.console == []

    def test_a_dropped_image_is_classified(self, page_folder, chrome, tmp_path):
        path = save_images(tmp_path)[0]
        mine = next(iter(Predictor(page_folder, 'onnxruntime', Options(input='uint8')).predict([path], 5)))
        with browser.served(f'{page_folder}/web') as url:
            page = chrome.open(url)
            page.wait("document.getElementById('status').textContent === 'Ready.'")
            page.evaluate(f"""(() => {{
                const dropped = new DataTransfer();
                dropped.items.add(new File([Uint8Array.from({list(Path(path).read_bytes())})], 'a.png'));
                window.dispatchEvent(new DragEvent('drop', {{ dataTransfer: dropped }}));
            }})()""")
            page.wait("document.querySelector('li')")
            assert page.evaluate("+document.querySelector('li').dataset.id") == mine.best[0][0]

    @pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic', 'lanczos'])
    @pytest.mark.parametrize('size, crop', [(32, 1.0), (37, 0.9), (64, 0.875)])
    def test_the_resize_is_that_of_pillow(self, page_folder, chrome, interpolation, size, crop):
        """Every pixel, of images made smaller, larger, by odd factors."""
        rng = np.random.Generator(np.random.PCG64(5))
        data = DataConfig(size, crop, interpolation, (0.5,) * 3, (0.5,) * 3)
        with browser.served(f'{page_folder}/web') as url:
            page = chrome.open(url)
            for height, width in [(64, 64), (211, 97), (48, 301), (20, 31), (33, 400), (150, 41), (39, 150)]:
                pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
                expected = eval_transform(data, normalize=False)(pixels)
                rgba = np.concatenate([pixels, np.full((height, width, 1), 255, np.uint8)], 2).ravel().tolist()
                found = page.evaluate(f"""import("./resize.js").then(({{ evalCrop }}) => Array.from(evalCrop(
                    Uint8Array.from({rgba}), {width}, {height}, {json.dumps(data.as_dict())}, {PILLOW})))""")
                np.testing.assert_array_equal(np.uint8(found).reshape(size, size, 3), expected)

    def test_a_missing_model_is_said(self, chrome, tmp_path, page_folder):
        import shutil
        shutil.copytree(f'{page_folder}/web', tmp_path / 'web')
        (tmp_path / 'web' / 'model.onnx').unlink()
        with browser.served(str(tmp_path / 'web')) as url:
            page = chrome.open(url)
            page.wait("document.getElementById('status').classList.contains('bad')")
            assert page.evaluate("document.getElementById('status').textContent") == (
                'The model cannot be loaded: model.onnx: the server answers 404')

    @pytest.mark.parametrize('width', [1280, 390])
    def test_nothing_is_wider_than_the_window(self, page_folder, chrome, tmp_path, width):
        with browser.served(f'{page_folder}/web') as url:
            page = chrome.open(url, width)
            page.wait("document.getElementById('status').textContent === 'Ready.'")
            shown_for(page, save_images(tmp_path)[1])
            assert page.evaluate('document.documentElement.scrollWidth') <= width
