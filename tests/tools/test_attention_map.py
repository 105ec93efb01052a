# SPDX-License-Identifier: Apache-2.0
"""The attention command: sheets for images of any shape, raw maps that are right, contact sheet, curves, faults."""
from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from PIL import Image

from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.errors import InputError
from CaiT.report import attention
from CaiT.tools import attention_map
from tests.models.small import small_model

OPTS = ['MODEL.NAME', 'cait', 'DATA.IMAGE_SIZE', '32', 'MODEL.PATCH_SIZE', '8', 'MODEL.EMBED_DIM', '24',
        'MODEL.DEPTH', '3', 'MODEL.NUM_HEADS', '3', 'MODEL.NUM_CLASSES', '5']


@pytest.fixture
def words(tmp_path):
    """A checkpoint, two images of odd and different sizes with one name, and the command's words for them."""
    model = small_model('cait_xxs24_224', image_size=32, patch_size=8, embed_dim=24, num_heads=3)
    paddle.save(model.state_dict(), str(tmp_path / 'w.pdparams'))
    rng = np.random.default_rng(0)
    for name, shape in (('a/one.png', (47, 31, 3)), ('b/one.png', (33, 91, 3))):
        (tmp_path / 'images' / name).parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(tmp_path / 'images' / name)
    (tmp_path / 'names.txt').write_text('zero\none\ntwo\nthree\nfour\n')
    return ['-pretrained', str(tmp_path / 'w.pdparams'), '-img_path', str(tmp_path / 'images'), '-output_dir',
            str(tmp_path / 'out'), '-label_map', str(tmp_path / 'names.txt')]


def test_command(tmp_path, words, capsys):
    before = (tmp_path / 'images/a/one.png').read_bytes()
    assert attention_map.main([*words, '-npz', '-class_id=3', '-faithfulness', '-steps=4', '-opts', *OPTS]) == 0
    out = tmp_path / 'out'
    assert sorted(path.name for path in out.iterdir()) == [
        'contact.png', 'faithfulness.html', 'faithfulness.json', 'one-2.npz', 'one-2.png', 'one.npz', 'one.png']
    assert (tmp_path / 'images/a/one.png').read_bytes() == before and 'one-2.png' in capsys.readouterr().out
    data = DataConfig(32, 1.0, 'bicubic', (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model = small_model('cait_xxs24_224', image_size=32, patch_size=8, embed_dim=24, num_heads=3)
    pixels = eval_transform(data)(str(tmp_path / 'images/b/one.png'))
    expected = attention.explain(model, pixels[None], [3])
    with np.load(out / 'one-2.npz') as saved:
        assert saved['path'] == str(tmp_path / 'images/b/one.png') and saved['class_id'] == 3 and saved['prefix'] == 1
        assert saved['attention'].shape == (2, 3, 17)
        for name in ('attention', 'relevance', 'probs'):
            np.testing.assert_allclose(saved[name], getattr(expected, name)[0], atol=1e-6)
        np.testing.assert_allclose(saved['attention'].sum(-1), 1, atol=1e-6)
    with Image.open(out / 'one-2.png') as sheet:
        assert sheet.width == 2 * 14 + 5 * 230 - 6
    summary = json.loads((out / 'faithfulness.json').read_text())
    assert set(summary) == {'attention, last block', 'gradient-weighted', 'center', 'random'}
    assert summary['center']['images'] == 2


def test_one_image(tmp_path, words):
    words[3] += '/a/one.png'
    assert attention_map.main([*words, '-opts', *OPTS]) == 0
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['one.png']


@pytest.mark.parametrize('extra, match', [
    ([], '-pretrained: found nothing, expected the weights'), (['-pretrained', 'x'], '-img_path: found nothing'),
    (['-pretrained', 'x', '-img_path', 'nowhere.png'], 'nowhere.png'),
    (['-pretrained', 'x', '-img_path', 'y', '-class_id=1000'], 'found 1000, expected 0 to 999'),
    (['-pretrained', 'x', '-img_path', 'y', '-steps=0'], '-steps: found 0')])
def test_faults(extra, match):
    with pytest.raises(InputError, match=match):
        attention_map.main(extra)
