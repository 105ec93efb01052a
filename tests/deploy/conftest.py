# SPDX-License-Identifier: Apache-2.0
"""A small model and images to run it on."""
from __future__ import annotations

import pytest
from PIL import Image
from small_models import small, small_data

from CaiT.deploy import parity


@pytest.fixture(scope='session')
def cait():
    return small('cait')


@pytest.fixture(scope='session')
def checks() -> parity.CheckSet:
    return parity.synthetic(small_data(), 7)


@pytest.fixture(scope='session')
def images(tmp_path_factory: pytest.TempPathFactory) -> list:
    """Five image files of different sizes."""
    folder = tmp_path_factory.mktemp('images')
    paths = []
    for index in range(5):
        pixels = parity.synthetic(small_data(40 + 3 * index), index + 1).pixels[-1]
        paths.append(str(folder / f'{index}.png'))
        Image.fromarray(pixels).save(paths[-1])
    return paths
