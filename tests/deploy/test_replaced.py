# SPDX-License-Identifier: Apache-2.0
"""An export that replaces the files of a folder while they are loaded, or after: answers are of one export."""
from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from small_models import is_installed, need, randomized, small, small_data

from CaiT.deploy import metadata
from CaiT.deploy import predictor as predictor_module
from CaiT.deploy.attention import Attention
from CaiT.deploy.engines import Options, engine_class
from CaiT.deploy.engines.lanes import Lanes, NoMore
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError

BACKENDS = ('paddle', 'onnxruntime', 'openvino')
IMAGES = np.random.default_rng(0).standard_normal((11, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope='module')
def exports(cait, checks, tmp_path_factory):
    """Two of models with other weights, with all engines' files."""
    targets = [(backend, 'fp32', 'float') for backend in filter(is_installed, BACKENDS)]
    folders = []
    for number, model in enumerate((cait, randomized(small('cait'), 1))):
        folders.append(tmp_path_factory.mktemp('export') / str(number))
        export(model, folders[-1], 'x', small_data(), checks, {'file': 'w', 'sha256': str(number) * 64}, targets,
               attention='--attention' if is_installed('onnxruntime') else '')
    return folders


@pytest.fixture
def folder(exports, tmp_path):
    return Path(shutil.copytree(exports[0], tmp_path / 'm'))


def replace(folder: Path, by: Path) -> None:
    """As an export does: the metadata last."""
    for file in sorted(by.iterdir(), key=lambda file: file.name == metadata.FILE):
        shutil.copy(file, folder / '.new')
        os.replace(folder / '.new', folder / file.name)


def remove(folder: Path, _: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def at(moment: str, act, monkeypatch, times: int = 1) -> None:
    """Call ``act`` at a moment of the next ``times`` loadings: after the metadata was read, after the files were
    compared with it, or after the engine has read them."""
    left, checked = [times], threading.Event()
    check_files, check_content, make = metadata.check_files, metadata.check_content, engine_class

    def once() -> None:
        if left[0]:
            left[0] -= 1
            act()

    def files(*words):
        if moment == 'metadata read':
            once()
        return check_files(*words)

    def content(folder, names, hashes):
        check_content(folder, names, hashes)
        checked.set()

    def engine(backend, precision='fp32'):
        class Engine(make(backend, precision)):
            def __init__(self, *words):
                assert checked.wait(30)
                if moment == 'files compared':
                    once()
                super().__init__(*words)
                if moment == 'engine made':
                    once()
        return Engine
    monkeypatch.setattr(metadata, 'check_files', files)
    monkeypatch.setattr(metadata, 'check_content', content)
    monkeypatch.setattr(predictor_module, 'engine_class', engine)


@pytest.mark.parametrize('moment', ['metadata read', 'files compared', 'engine made'])
@pytest.mark.parametrize('backend', BACKENDS)
def test_replaced_while_it_is_loaded(exports, folder, monkeypatch, backend, moment):
    need(backend)
    expected = Predictor(str(exports[1]), backend, Options()).logits(IMAGES)
    at(moment, lambda: replace(folder, exports[1]), monkeypatch)
    predictor = Predictor(str(folder), backend, Options())
    assert predictor.meta.weights['sha256'] == '1' * 64
    np.testing.assert_allclose(predictor.logits(IMAGES), expected, atol=1e-5)


@pytest.mark.parametrize('times', [1, 2, 3])
def test_replaced_again_and_again(exports, folder, monkeypatch, times):
    """Three times, it is left alone."""
    turns = [exports[1], exports[0], exports[1]]
    at('files compared', lambda: replace(folder, turns.pop(0)), monkeypatch, times)
    if times < 3:
        predictor = Predictor(str(folder), 'paddle', Options())
        assert predictor.meta.weights['sha256'] == str(times % 2) * 64
        return
    with pytest.raises(InputError) as caught:
        Predictor(str(folder), 'paddle', Options())
    assert str(caught.value) == (f'{folder}: its files were replaced while they were loaded; wait for the end of the '
                                 'export, then start again')


@pytest.mark.parametrize('name', ['inference.pdiparams', 'metadata.json'])
def test_the_same_bytes_again_are_loaded_again(folder, monkeypatch, name):
    """What was compared may not be what was loaded, and whoever writes the same twice may have written another between.
    """
    def again():
        shutil.copy(folder / name, folder / '.new')
        os.replace(folder / '.new', folder / name)
    at('files compared', again, monkeypatch, 3)
    with pytest.raises(metadata.Replaced):
        Predictor(str(folder), 'paddle', Options())


@pytest.mark.parametrize('change', [replace, remove])
@pytest.mark.parametrize('backend', BACKENDS)
def test_replaced_after_it_was_loaded(exports, folder, backend, change, capsys):
    """Streams and sizes of batch that come later are of the model that was loaded."""
    need(backend)
    predictor = Predictor(str(folder), backend, Options(streams=3))
    expected = predictor.logits(IMAGES[:1])
    change(folder, exports[1])
    found, start = [], threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(10):
            found.append(predictor.logits(IMAGES[:1]))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40 and np.ptp([expected, *found], axis=0).max() < 1e-5
    for images in (IMAGES[:2], IMAGES):
        np.testing.assert_allclose(predictor.logits(images)[:1], expected, atol=1e-5)
    if backend == 'paddle':
        assert predictor.engine.lanes.limit == predictor.engine.lanes.made == 1
        assert f'{folder}/inference.json: was replaced; the model that was loaded goes on' in capsys.readouterr().err


@pytest.mark.parametrize('change', [replace, remove])
def test_replaced_before_openvino_has_compiled_it(exports, folder, change):
    """Its models are compiled at the first run."""
    need('openvino')
    predictor = Predictor(str(folder), 'openvino', Options())
    change(folder, exports[1])
    for count in (1, 8, 1):
        with pytest.raises(InputError) as caught:
            predictor.logits(IMAGES[:count])
        assert str(caught.value) == f'{folder}/openvino.xml: was replaced after it was loaded; start again'


def test_openvino_compiles_anew_what_looks_the_same(exports, tmp_path, monkeypatch):
    """The same path, size and second of change, other weights: OpenVINO would take what it had compiled."""
    need('openvino')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    names, found = ('openvino.xml', 'openvino.bin'), []
    largest = max((folder / names[0]).stat().st_size for folder in exports)
    for number, folder in enumerate([*exports, exports[0]]):
        for name in names:
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        with open(tmp_path / names[0], 'ab') as file:
            file.write(b'\n' * (largest - file.tell()))
        for name in names:
            os.utime(tmp_path / name, (1_600_000_000, 1_600_000_000))
        engine = engine_class('openvino')(tmp_path / names[0], Options())
        found.append(engine.run(IMAGES[:1]))
        assert len(list((tmp_path / 'cache/paddle-cait/openvino').iterdir())) == 1, number
    assert np.abs(found[0] - found[1]).max() > 0.1 and np.array_equal(found[0], found[2])


@pytest.mark.parametrize('change, moment', [(replace, 'checked'), (replace, 'loaded'), (remove, 'checked')])
def test_a_graph_with_attention_that_is_replaced_meanwhile(exports, folder, monkeypatch, change, moment):
    need('onnxruntime')
    meta, engine = metadata.read(folder), engine_class('onnxruntime')

    class Replacing(engine):
        def __init__(self, *words):
            if moment == 'checked':
                change(folder, exports[1])
            super().__init__(*words)
            if moment == 'loaded':
                change(folder, exports[1])
    monkeypatch.setattr('CaiT.deploy.attention.engine_class', lambda _: Replacing)
    with pytest.raises(metadata.Replaced, match=f'^{folder}: its files were replaced while they were loaded; wait'):
        Attention(folder, meta)


@pytest.mark.parametrize('copies', [0, 1, 2])
def test_lanes_that_cannot_be_copied_any_more(copies):
    """Those that are there go on, and no more are tried."""
    asked, start = [], threading.Barrier(6)

    def copy(lane):
        asked.append(lane)
        if len(asked) > copies:
            raise NoMore
        return lane
    lanes = Lanes('lane', copy, 4)

    def work():
        start.wait()
        for _ in range(8):
            with lanes.acquire():
                time.sleep(0.003)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lanes.made == lanes.limit == 1 + copies
    assert len(asked) <= 3
