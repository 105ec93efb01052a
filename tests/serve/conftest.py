# SPDX-License-Identifier: Apache-2.0
"""An exported model, images with what infer.py says about them, and two servers: one as by default, one with narrow
limits."""
from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from served import BACKENDS, NAMES, TOKEN, Served

from CaiT.deploy import parity
from CaiT.deploy.engines import Options
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from tests.deploy.small_models import small, small_data


@pytest.fixture(scope='session')
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('served')
    checks = parity.synthetic(small_data(), 4)
    export(small('cait'), folder, 'small', small_data(), checks, {'file': 'w', 'sha256': ''},
           [*[(name, 'fp32', kind) for name in BACKENDS for kind in ('float', 'uint8')],
            ('onnxruntime', 'int8', 'float')], NAMES, calibration=checks)
    return folder


@pytest.fixture(scope='session')
def images(tmp_path_factory) -> list:
    """Twelve image files of different sizes and formats."""
    from PIL import Image
    folder, paths = tmp_path_factory.mktemp('images'), []
    for index in range(12):
        pixels = parity.synthetic(small_data(40 + 3 * index), index + 1).pixels[-1]
        paths.append(folder / f'{index}.{("png", "jpg", "webp")[index % 3]}')
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope='session')
def expected(exported, images) -> list:
    """infer.py's answers: for each image the classes with their probabilities."""
    predictor = Predictor(str(exported), 'onnxruntime', Options())
    return [prediction.best for prediction in predictor.predict(images, topk=10)]


@pytest.fixture(scope='session')
def servers(exported):
    """Both, started side by side."""
    both = (Served(exported, '--backend=onnxruntime'),
            Served(exported, '--backend=onnxruntime', '--input=uint8', '--queue=3', '--batch-window=400',
                   '--head-seconds=0.7', '--body-seconds=0.7', '--max-body=0.25', '--max-pixels=0.02',
                   '--model-name=other', '--topk=2', CAIT_SERVE_TOKEN=TOKEN))
    yield both
    for one in both:
        one.end()


@pytest.fixture(scope='session')
def server(servers) -> Served:
    return servers[0].ready()


@pytest.fixture(scope='session')
def strict(servers) -> Served:
    """A token, a queue of three, requests wait 400 ms for others, bodies of 256 KiB and images of 20,000 pixels."""
    return servers[1].ready()


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def strict_client(strict):
    with httpx.Client(base_url=strict.url, timeout=30, headers={'Authorization': f'Bearer {TOKEN}'}) as client:
        yield client
