# SPDX-License-Identifier: Apache-2.0
"""One predictor for many threads: every thread gets the answers to its own images."""
from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from small_models import is_installed, need, small_data

from CaiT.deploy.engines import Options, paddle_run
from CaiT.deploy.engines.lanes import Lanes
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor

BACKENDS = ('paddle', 'onnxruntime', 'openvino')


@pytest.fixture(scope='module')
def exported(cait, checks, tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    export(cait, folder, 'x', small_data(), checks, {'file': 'w', 'sha256': ''},
           [(backend, 'fp32', kind) for backend in filter(is_installed, BACKENDS) for kind in ('float', 'uint8')])
    return str(folder)


def in_threads(works):
    """Run each in a thread of its own; what they raised."""
    errors, start = [], threading.Barrier(len(works))

    def run(work):
        try:
            start.wait()
            work()
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize('kind', ['float', 'uint8'])
@pytest.mark.parametrize('streams', [0, 1, 3])
@pytest.mark.parametrize('backend', BACKENDS)
def test_every_thread_gets_its_own_answers(exported, backend, streams, kind):
    need(backend)
    predictor = Predictor(exported, backend, Options(input=kind, streams=streams))
    rng = np.random.default_rng(0)
    sizes = (1, 2, 5, 8, 1, 11, 3, 1)
    batches = [rng.integers(0, 256, (size, *predictor.input_shape)).astype(np.uint8) for size in sizes]
    if kind == 'float':
        batches = [(batch / 64 - 2).astype(np.float32) for batch in batches]
    expected = [predictor.logits(batch) for batch in batches]
    assert len({rows[0].tobytes() for rows in expected}) == len(sizes)

    def work(batch, rows):
        for _ in range(15):
            np.testing.assert_allclose(predictor.logits(batch), rows, atol=1e-5 * np.abs(rows).max())
    errors = in_threads([lambda b=batch, r=rows: work(b, r) for batch, rows in zip(batches, expected)])
    assert errors == []
    assert predictor.engine.lanes.made <= predictor.engine.lanes.limit
    assert streams == 0 or predictor.engine.lanes.limit == streams


@pytest.mark.parametrize('backend', BACKENDS)
def test_predict_in_threads(exported, images, backend):
    need(backend)
    predictor = Predictor(exported, backend, Options(batch=2))
    expected = {one.path: one.best for one in predictor.predict(images, 3)}

    def work(path):
        for _ in range(10):
            found, = predictor.predict([path], 3)
            assert found.path == path and [k for k, _ in found.best] == [k for k, _ in expected[path]]
            np.testing.assert_allclose([p for _, p in found.best], [p for _, p in expected[path]], atol=1e-5)
    assert in_threads([lambda p=path: work(p) for path in images]) == []


@pytest.mark.parametrize('limit, threads, at_once', [(1, 4, 1), (3, 6, 3), (4, 2, 2)])
def test_as_many_run_at_a_time_as_there_are_lanes(limit, threads, at_once):
    lanes = Lanes(['first'], lambda lane: [*lane, 'copy'], limit)
    running, most, lock = [0], [0], threading.Lock()

    def work():
        for _ in range(8):
            with lanes.acquire() as lane:
                assert lane[0] == 'first'
                with lock:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                time.sleep(0.005)
                with lock:
                    running[0] -= 1
    assert in_threads([work] * threads) == []
    assert most[0] == at_once and lanes.made == at_once


def test_one_thread_has_one_lane_and_an_error_gives_it_back():
    lanes = Lanes('lane', lambda lane: pytest.fail('nobody waited'), 4)
    for _ in range(3):
        with pytest.raises(KeyError), lanes.acquire():
            raise KeyError
    with lanes.acquire() as lane:
        assert lane == 'lane' and lanes.made == 1


def test_threads_take_turns():
    """None waits for ever while another one comes back again and again."""
    lanes, order = Lanes(None, None, 1), []

    def work(name):
        for _ in range(6):
            with lanes.acquire():
                order.append(name)
                time.sleep(0.003)
    assert in_threads([lambda n=name: work(n) for name in 'abc']) == []
    assert all(set(order[start:start + 3]) == set('abc') for start in range(3, 12, 3))


def test_a_copy_that_fails_gives_the_lane_back():
    lanes = Lanes('lane', lambda lane: 1 / 0, 2)

    def work():
        for _ in range(3):
            try:
                with lanes.acquire():
                    time.sleep(0.005)
            except ZeroDivisionError:
                pass
    assert in_threads([work] * 3) == []


def test_paddle_computes_without_pythons_lock(exported):
    """Another thread counts on while a batch is computed."""
    engine = Predictor(exported, 'paddle', Options()).engine
    with engine.lanes.acquire() as lane:
        assert lane.free_run != lane.predictor.run and lane.free_run.func is paddle_run._library()[0]


@pytest.mark.parametrize('version, platform', [('2.6.1', 'linux'), ('3.3.1', 'darwin'), ('4.0.0', 'linux')])
def test_other_versions_run_by_paddles_own_function(exported, monkeypatch, version, platform):
    import paddle
    monkeypatch.setattr(paddle, '__version__', version)
    monkeypatch.setattr('sys.platform', platform)
    paddle_run._library.cache_clear()
    try:
        predictor = Predictor(exported, 'paddle', Options())
        with predictor.engine.lanes.acquire() as lane:
            assert lane.free_run == lane.predictor.run
        assert predictor.logits(np.zeros((3, 3, 32, 32), np.float32)).shape == (3, 10)
    finally:
        paddle_run._library.cache_clear()
