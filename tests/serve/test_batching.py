# SPDX-License-Identifier: Apache-2.0
"""Dynamic batching: what is computed together, and that nobody notices."""
from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
from served import BACKENDS, TOKEN, counters

from CaiT.deploy.engines import Options
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError

pytest.importorskip('fastapi')

from CaiT.serve.application import _computed
from CaiT.serve.batching import Batcher
from CaiT.serve.guard import Refused
from CaiT.serve.metrics import Metrics
from CaiT.serve.service import Batching, EngineError, Service, automatic


def test_requests_that_wait_are_one_run(strict, strict_client, images):
    """The server waits 400 ms for others: three requests are one batch."""
    def one(path: Path) -> int:
        headers = {'Authorization': f'Bearer {TOKEN}'}
        return httpx.post(strict.url + '/classify', content=path.read_bytes(), headers=headers).status_code
    before = counters(strict_client.get('/metrics').text)
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(one, images[:3])) == [200] * 3
    after = counters(strict_client.get('/metrics').text)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert (grown['cait_batch_images_sum'], grown['cait_batch_images_count']) == (3, 1)
    assert grown['cait_batch_images_bucket{le="2.0"}'] == 0 and grown['cait_run_seconds_count'] == 1
    assert grown['cait_requests_total{route="/classify",status="200"}'] == 3
    assert grown['cait_decode_seconds_count'] == 3 and after['cait_ready'] == 1


class Engine:
    """Logits that name the image; ``sizes`` of the runs; waits for ``go``."""

    def __init__(self) -> None:
        self.sizes, self.go = [], threading.Event()
        self.go.set()

    def run(self, images: np.ndarray) -> np.ndarray:
        self.go.wait(10)
        self.sizes.append(len(images))
        if (images < 0).any():
            raise InputError('negative')
        return images * 2


def started(engine: Engine, **options) -> Batcher:
    batcher = Batcher(engine.run, **{'size': 4, 'window': 0, 'threads': 1, 'observe': lambda *_: None, **options})
    batcher.start(lambda: None)
    return batcher


def put(batcher: Batcher, *values: float) -> Future:
    result: Future = Future()
    batcher.put(np.array(values)[:, None], result)
    return result


def busy(batcher: Batcher, engine: Engine) -> Future:
    """A request that the engine computes until ``engine.go`` is set."""
    engine.go.clear()
    first = put(batcher, 0.0)
    while not first.running():
        time.sleep(0.001)
    return first


@pytest.mark.parametrize('size, expected', [(4, [1, 4, 4, 1]), (1, [1] * 10), (100, [1, 9])])
def test_what_waits_while_the_engine_runs_is_the_next_batch(size, expected):
    engine = Engine()
    batcher = started(engine, size=size)
    first = busy(batcher, engine)
    others = [put(batcher, float(value)) for value in range(1, 10)]
    engine.go.set()
    assert [one.result(10)[0, 0] for one in (first, *others)] == [2.0 * value for value in range(10)]
    assert engine.sizes == expected
    batcher.close()


def test_requests_of_several_images_stay_whole_and_in_order():
    engine = Engine()
    batcher = started(engine)
    busy(batcher, engine)
    found = [put(batcher, *values) for values in ([1.0, 2.0, 3.0], [4.0, 5.0], [6.0] * 7, [7.0, 8.0], [9.0, 10.0])]
    engine.go.set()
    assert [one.result(10)[:, 0].tolist() for one in found] == [[2, 4, 6], [8, 10], [12] * 7, [14, 16], [18, 20]]
    assert engine.sizes == [1, 3, 2, 7, 4]
    batcher.close()


def test_the_window_of_an_image_begins_when_it_comes():
    """One that has waited for the engine as long as the window does not wait once more."""
    engine = Engine()
    batcher = started(engine, window=1.0)
    busy(batcher, engine)
    second = put(batcher, 1.0)
    time.sleep(1.0)
    engine.go.set()
    begun = time.monotonic()
    assert second.result(10) == 2 and time.monotonic() - begun < 0.7
    batcher.close()


def test_a_failing_image_costs_the_others_nothing():
    engine = Engine()
    batcher = started(engine, window=0.2)
    found = [put(batcher, value) for value in (1.0, -1.0, 3.0)]
    assert found[0].result(10) == 2 and found[2].result(10) == 6
    with pytest.raises(InputError, match='negative'):
        found[1].result(10)
    assert engine.sizes == [3, 1, 1, 1]
    batcher.close()


def test_a_client_that_is_gone_is_not_computed():
    engine = Engine()
    batcher = started(engine, window=0.2)
    found = [put(batcher, value) for value in (1.0, 2.0, 3.0)]
    found[1].cancel()
    assert found[0].result(10) == 2 and found[2].result(10) == 6 and engine.sizes == [2]
    batcher.close()


@pytest.mark.parametrize('whole, expected', [
    ((1, 4), [1, 4, 1, 1, 1]), ((1, 2, 4), [1, 4, 2, 1]), ((1, 3), [1, 3, 3, 1]), ((1,), [1] * 8)])
def test_no_batch_is_one_that_the_engine_pads(whole, expected):
    engine = Engine()
    batcher = started(engine, whole=lambda images: max(size for size in whole if size <= images))
    first = busy(batcher, engine)
    others = [put(batcher, float(value)) for value in range(1, 8)]
    engine.go.set()
    assert [one.result(10)[0, 0] for one in (first, *others)] == [2.0 * value for value in range(8)]
    assert engine.sizes == expected
    batcher.close()


def test_an_idle_engine_waits_for_nobody():
    """Unless a window says so: after it, or as soon as there are ``size`` images."""
    for window, expected in ((0, [1, 1]), (60, [2])):
        engine = Engine()
        batcher = started(engine, window=window, size=2)
        first = put(batcher, 1.0)
        if not window:
            assert first.result(10) == 2
        assert put(batcher, 2.0).result(10) == 4 and engine.sizes == expected
        batcher.close()


def test_idle_threads_divide_what_waits():
    """Four images come at a time: two runs of two rather than one of four beside an idle thread."""
    engine = Engine()
    batcher = started(engine, threads=2)
    while batcher._idle < 2:
        time.sleep(0.001)
    engine.go.clear()
    with batcher._changed:  # all at once
        found = [put(batcher, float(value)) for value in range(4)]
    while not all(one.running() for one in found):
        time.sleep(0.001)
    engine.go.set()
    assert [one.result(10)[0, 0] for one in found] == [0, 2, 4, 6] and engine.sizes == [2, 2]
    batcher.close()


def test_closing_computes_what_waits_and_a_failing_warm_up_is_raised():
    engine = Engine()
    batcher = started(engine, window=60.0)
    found = [put(batcher, value) for value in (1.0, 2.0)]
    batcher.close()
    assert [one.result(0)[0, 0] for one in found] == [2, 4] and engine.sizes == [2]

    def warm_up() -> None:
        raise InputError('cold')
    with pytest.raises(InputError, match='cold'):
        Batcher(engine.run, 1, 0, 2, lambda *_: None).start(warm_up)


@pytest.mark.parametrize('backend, precision, kind', [
    *[(backend, 'fp32', kind) for backend in BACKENDS for kind in ('float', 'uint8')],
    ('onnxruntime', 'int8', 'float')])
def test_every_engine_answers_as_the_predictor(exported, images, backend, precision, kind):
    """In batches of any size; int8 of ONNX Runtime depends on the batch, so that there are none."""
    import asyncio
    alone = Predictor(str(exported), backend, Options(precision, kind, batch=1))
    expected = [prediction.best for prediction in alone.predict(images, topk=10)]
    options = automatic(Options(precision, kind, threads=0, batch=0), 2, 4)
    service = Service(lambda: Predictor(str(exported), backend, options), Batching(4, 0.02, 2), Metrics(), 1 << 20)
    service.load()
    assert service.batcher.size == (1 if precision == 'int8' else 4)
    assert [service.batcher.whole(count) for count in range(1, 5)] == [1, 2, 2 if backend == 'openvino' else 3, 4]

    async def all_of_them() -> list:
        return await asyncio.gather(*[service.best(path.read_bytes, 10) for path in images * 3])
    found = asyncio.run(all_of_them())
    service.close()
    for one, other in zip(found, expected * 3):
        assert [k for k, _ in one] == [k for k, _ in other]
        np.testing.assert_allclose([p for _, p in one], [p for _, p in other], rtol=1e-4)


@pytest.mark.parametrize('threads, streams, batch, expected', [
    (0, 0, 0, (1, 6, 4)), (2, 0, 0, (2, 3, 8)), (0, 2, 0, (3, 2, 8)), (0, 1, 5, (6, 1, 5)), (8, 0, 1, (8, 1, 1))])
def test_automatic_streams_threads_and_batches(monkeypatch, threads, streams, batch, expected):
    monkeypatch.setattr('CaiT.runtime.cores', lambda: 6)
    found = automatic(Options(threads=threads), streams, batch)
    assert (found.threads, found.streams, found.batch) == expected
    gpu = automatic(Options(threads=0, use_gpu=True), 0, 0)
    assert (gpu.streams, gpu.batch) == (1, 32)


def test_a_fault_of_the_engine_is_not_the_clients(capsys):
    """What the engine raises is answered with 500 and printed; what is wrong with an image stays the client's."""
    service = Service.__new__(Service)
    service.predictor = Mock(**{'logits.side_effect': InputError('m.onnx: out of memory')})

    async def waiting(raised):
        raise raised
    with pytest.raises(EngineError) as caught:
        service._run(np.zeros(1))
    with pytest.raises(Refused, match='the engine failed') as refused:
        asyncio.run(_computed(waiting(caught.value)))
    assert refused.value.status == 500 and capsys.readouterr().err == 'serve: m.onnx: out of memory\n'
    with pytest.raises(InputError, match='^no image$'):
        asyncio.run(_computed(waiting(InputError('no image'))))
