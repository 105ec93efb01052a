# SPDX-License-Identifier: Apache-2.0
"""Attention maps: the right rows and columns, in the right place on the sheet, from the command line too."""
from __future__ import annotations

import cv2
import numpy as np
import paddle
import pytest

from CaiT.errors import InputError
from CaiT.tools import attention_map
from tests.models.small import SIDE, small
from tests.models.small import images


@pytest.mark.parametrize('name, prefix', [('cait_xxs24_224', 1), ('vit_tiny_patch16_224', 1),
                                          ('deit_tiny_distilled_patch16_224', 2)])
def test_rows_and_columns(name, prefix):
    model = small(name)
    x = images(model)
    found = attention_map.class_attention(model, x.numpy())
    blocks = model.blocks_token_only if name.startswith('cait') else model.blocks
    whole = model.forward_intermediates(x, attention=True).attention[-1].numpy()
    assert found.shape == (2, 2 if name.startswith('cait') else 1, blocks[0].attn.num_heads, SIDE, SIDE)
    # What is left out of a row that sums to 1 are the tokens before the patches.
    np.testing.assert_allclose(found[:, -1].sum((2, 3)) + whole[:, :, 0, :prefix].sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(found[:, -1, :, 1, 2], whole[:, :, 0, prefix + SIDE + 2])


def test_sheet():
    """Two blocks of three heads over a gray image of 16 pixels: enlarged to 224; the bright patch where it is."""
    maps = np.zeros((2, 3, 4, 4))
    maps[1, 2, 1, 3] = 0.7
    sheet = attention_map.sheet(np.full((16, 16, 3), 100, np.uint8), maps)
    cell, step = 224, 224 + attention_map.GAP
    assert sheet.shape == (2 * step - attention_map.GAP, 5 * step - attention_map.GAP, 3) and sheet.dtype == np.uint8
    assert (sheet[:cell, :cell] == 100).all() and (sheet[:, cell:step] == 255).all()
    last = sheet[step:, 4 * step:].astype(int).sum(-1)
    patch = cell // 4
    means = last.reshape(4, patch, 4, patch).mean((1, 3))
    assert np.unravel_index(means.argmax(), means.shape) == (1, 3)
    assert means[1, 3] > 1.5 * means[3, 0]
    assert sheet[step:, step:step + cell].astype(int).sum(-1).max() == last.max()  # the mean has its own scale


def test_command(tmp_path, capsys):
    weights, folder = tmp_path / 'w.pdparams', tmp_path / 'images'
    opts = ['MODEL.NAME', 'cait', 'DATA.IMAGE_SIZE', '32', 'MODEL.PATCH_SIZE', '8', 'MODEL.EMBED_DIM', '24',
            'MODEL.DEPTH', '3', 'MODEL.NUM_HEADS', '3', 'MODEL.NUM_CLASSES', '5']
    model = small('cait_xxs24_224', image_size=32, patch_size=8, embed_dim=24, num_heads=3)
    paddle.save(model.state_dict(), str(weights))
    for name in ('a/one.png', 'b/one.png'):
        (folder / name).parent.mkdir(parents=True)
        cv2.imwrite(str(folder / name), np.arange(48 * 40 * 3, dtype=np.uint8).reshape(48, 40, 3))
    before = (folder / 'a' / 'one.png').read_bytes()
    words = ['-pretrained', str(weights), '-img_path', str(folder), '-output_dir', str(tmp_path / 'out')]
    assert attention_map.main([*words, '-opts', *opts]) == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['one-2.png', 'one.png']
    assert cv2.imread(str(tmp_path / 'out' / 'one.png')).shape == (2 * 228 - 4, 5 * 228 - 4, 3)
    assert (folder / 'a' / 'one.png').read_bytes() == before and 'one-2.png' in capsys.readouterr().out


@pytest.mark.parametrize('words, match', [
    ([], '-pretrained: found nothing, expected the weights'), (['-pretrained', 'x'], '-img_path: found nothing'),
    (['-pretrained', 'x', '-img_path', 'nowhere.png'], 'nowhere.png')])
def test_faults(words, match):
    with pytest.raises(InputError, match=match):
        attention_map.main(words)
