# SPDX-License-Identifier: Apache-2.0
"""Predictions for a few images that exist, and a reader of the pages that are written."""
from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from CaiT.report.predictions import Predictions

VOID = {'meta', 'link', 'img', 'br'}


class PageCheck(HTMLParser):
    """Tags that close in order, what is linked, the text outside of style."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.images, self.texts = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ('href', 'src') if name in attributes]
        self.images += [attributes['src']] if tag == 'img' else []
        assert tag != 'script'
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f'</{tag}> closes nothing'

    def handle_data(self, data):
        if self.open and self.open[-1] != 'style':
            self.texts.append(data)


@pytest.fixture
def check_page():
    """Checks a page: well formed, nothing from elsewhere, every image decodes; returns (text, images)."""
    def check(path):
        page = PageCheck()
        page.feed(path.read_text(encoding='utf-8'))
        page.close()
        assert page.open == []
        for link in page.links:
            if link.startswith('data:'):
                continue
            assert not re.match('[a-z]+:', link) and (path.parent / link).is_file(), link
        images = [Image.open(io.BytesIO(base64.b64decode(uri.split(',', 1)[1]))) for uri in page.images]
        assert all(image.load() for image in images)
        return ' '.join(' '.join(page.texts).split()), images
    return check


@pytest.fixture
def made(tmp_path):
    """made(classes=10, count=40, seed=0): predictions whose images are files of 20x20 pixels; every fifth is wrong."""
    def make(classes=10, count=40, seed=0, names=None):
        rng = np.random.default_rng(seed)
        labels = np.arange(count) % classes
        logits = rng.normal(size=(count, classes))
        logits[np.arange(count), labels] += 6
        wrong = np.arange(0, count, 5)
        logits[wrong, (labels[wrong] + 1) % classes] += 12
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        paths = []
        for i in range(count):
            path = tmp_path / 'valid' / str(labels[i]) / f'{i:04d}.png'
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((20, 20, 3), i, np.uint8)).save(path)
            paths.append(str(path))
        return Predictions.from_probs(paths, labels, probs, names or [f'name {k} <&>' for k in range(classes)])
    return make
