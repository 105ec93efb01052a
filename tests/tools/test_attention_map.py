# SPDX-License-Identifier: Apache-2.0
"""The attention command: sheets for images of any shape, raw maps that are right, contact sheet, curves, faults."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.errors import InputError
from CaiT.report import attention
from CaiT.tools import attention_map
from tests.models.small import small_model

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize('content', [b'', b'no image', b'\x89PNG\r\n\x1a\n'], ids=['empty', 'text', 'cut'])
def test_images_that_cannot_be_decoded_are_left_out(tmp_path, words, capsys, content):
    bad = tmp_path / 'images/a/bad.png'
    bad.write_bytes(content)
    assert attention_map.main([*words, '-opts', *OPTS]) == 1
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['contact.png', 'one-2.png', 'one.png']
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f'left out: image {bad}: ') and lines[1] == '1 of 3 images could not be decoded'


def test_no_image_can_be_decoded(tmp_path, words):
    for name in ('a', 'b'):
        (tmp_path / 'images' / name / 'one.png').write_bytes(b'')
    with pytest.raises(InputError, match='one.png: cannot be decoded .the file is empty.$'):
        attention_map.main([*words, '-opts', *OPTS])
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('paths, names', [
    (['a/x.png', 'b/x.jpg', 'x-2.png'], ['x', 'x-2', 'x-2-2']), (['a.png', 'A.png'], ['a', 'A-2']),
    (['contact.png', 'b/contact.png', 'Contact-3.jpg', 'contacts.png'],
     ['contact-image', 'contact-image-2', 'Contact-3-image', 'contacts']),
    (['n' * 251 + '.png', 'b/' + 'n' * 251 + '.png', 'é' * 125 + '.jpg'], ['n' * 230, 'n' * 230 + '-2', 'é' * 115])])
def test_file_names(paths, names):
    """Each its own, on a file system that takes A for a too, and none that of a contact sheet."""
    assert attention_map.free_names(paths) == names


@pytest.mark.parametrize('name', ['contact.png', 'caf\udce9 <b>.png'])
def test_odd_names_and_images_of_several_classes(tmp_path, words, capsys, name):
    """Probabilities are sigmoids, in the maps' files and in the curves; every image has a sheet."""
    (tmp_path / 'images/a/one.png').rename(tmp_path / 'images/a' / name)
    assert attention_map.main([*words, '-npz', '-faithfulness', '-steps=1', '-opts', *OPTS, 'DATA.MULTI_LABEL',
                               'True']) == 0
    stem = 'contact-image' if name == 'contact.png' else name[:-4]
    with np.load(tmp_path / 'out' / f'{stem}.npz') as saved:
        probs = saved['probs']
    model = small_model('cait_xxs24_224', image_size=32, patch_size=8, embed_dim=24, num_heads=3)
    data = DataConfig(32, 1.0, 'bicubic', (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    logits = [model(paddle.to_tensor(eval_transform(data)(str(tmp_path / 'images' / path))[None])).numpy()[0]
              for path in (f'a/{name}', 'b/one.png')]
    np.testing.assert_allclose(probs, 1 / (1 + np.exp(-logits[0])), rtol=1e-4)
    assert {path.name for path in (tmp_path / 'out').glob('*.png')} == {f'{stem}.png', 'one.png', 'contact.png'}


@pytest.mark.parametrize('kind, maps', [('cait_xxs24_224', {'attention'}),
                                        ('deit_tiny_distilled_patch16_224', {'attention', 'rollout'})])
def test_an_exported_model(tmp_path, words, capsys, kind, maps):
    """The values of the checkpoint but for what needs gradients, without Paddle's model."""
    pytest.importorskip('onnxruntime')
    from CaiT.deploy import parity
    from CaiT.deploy.export import export
    model = small_model(kind, image_size=32, patch_size=8, embed_dim=24, num_heads=3)
    data = DataConfig(32, 1.0, 'bicubic', (0.5,) * 3, (0.5,) * 3)
    folder = tmp_path / 'infer'
    export(model, folder, kind, data, parity.synthetic(data, 3), {'file': 'w.pdparams', 'sha256': ''},
           [('paddle', 'fp32', 'float')], list('abcde'), attention='--attention')
    assert attention_map.main(['-model_dir', str(folder), '-npz', *words[2:6]]) == 0
    assert 'no gradient-weighted maps, since an exported model has no gradients' in capsys.readouterr().out
    for name in ('a/one', 'b/one'):
        said = attention.explain(model, eval_transform(data)(str(tmp_path / f'images/{name}.png'))[None])
        with np.load(tmp_path / 'out' / ('one.npz' if name[0] == 'a' else 'one-2.npz')) as saved:
            assert set(saved) == {'path', 'probs', 'class_id', 'prefix', *maps}
            assert saved['prefix'] == said.prefix and saved['class_id'] == said.class_ids[0]
            for key in ('probs', *maps):
                np.testing.assert_allclose(saved[key], getattr(said, key)[0], atol=1e-5)
    assert (tmp_path / 'out/contact.png').is_file()


def test_an_exported_model_needs_no_paddle(tmp_path, words):
    pytest.importorskip('onnxruntime')
    from CaiT.deploy import parity
    from CaiT.deploy.export import export
    model = small_model('vit_tiny_patch16_224', image_size=32, patch_size=8, embed_dim=24, num_heads=3)
    data = DataConfig(32, 1.0, 'bicubic', (0.5,) * 3, (0.5,) * 3)
    export(model, tmp_path / 'infer', 'v', data, parity.synthetic(data, 2), {'file': 'w', 'sha256': ''},
           [('paddle', 'fp32', 'float')], attention='--attention')
    code = ('import sys; from CaiT.tools import attention_map; attention_map.main(sys.argv[1:]); '
            'assert "paddle" not in sys.modules')
    subprocess.run([sys.executable, '-c', code, '-model_dir', str(tmp_path / 'infer'), *words[2:6]], check=True,
                   timeout=60, capture_output=True, cwd=ROOT)


@pytest.mark.parametrize('extra, match', [
    (['-pretrained', 'here'], '^-pretrained here: found the folder of an exported model, expected a checkpoint; for an '
                              'exported model: -model_dir=here$'),
    (['-model_dir', 'w'], '^-model_dir w: found a checkpoint, expected the folder of an exported model; for a '
                          'checkpoint: -pretrained=w$'),
    (['-model_dir', 'nowhere'], r'^nowhere/metadata.json: no such file; make the folder with: python export_model.py'),
    *[(['-model_dir', 'here', *more], f'^{more[0]}: belongs to a checkpoint, found it beside -model_dir=here, expected '
                                      'one of them$')
      for more in (['-pretrained', 'w'], ['-faithfulness'], ['-class_id', '0'], ['-cfg', 'x'], ['-opts', 'A', '1'])]])
def test_checkpoint_or_export(tmp_path, words, monkeypatch, extra, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'here').mkdir()
    (tmp_path / 'here/metadata.json').write_text('{}')
    with pytest.raises(InputError, match=match):
        attention_map.main([*extra, '-img_path', 'images'])


@pytest.mark.parametrize('extra, match', [
    ([], '-pretrained: found nothing, expected the weights'), (['-pretrained', 'x'], '-img_path: found nothing'),
    (['-pretrained', 'x', '-img_path', 'nowhere.png'], 'nowhere.png'),
    (['-pretrained', 'x', '-img_path', 'y', '-class_id=1000'], 'found 1000, expected 0 to 999'),
    (['-pretrained', 'x', '-img_path', 'y', '-steps=0'], '-steps: found 0')])
def test_faults(extra, match):
    with pytest.raises(InputError, match=match):
        attention_map.main(extra)
