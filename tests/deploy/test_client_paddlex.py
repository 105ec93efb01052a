# SPDX-License-Identifier: Apache-2.0
"""``--client paddlex``: what is written; with PaddleX at hand (make paddlex), what it makes of it."""
from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from small_models import small, small_data

from CaiT.data.transforms import DataConfig
from CaiT.deploy import clients
from CaiT.deploy.clients import paddlex
from CaiT.deploy.engines import Options, engine_class
from CaiT.deploy.export import export, reference_logits
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {'file': 'w', 'sha256': ''}
NAMES = [f'类别 {k}: "a", #b' for k in range(10)]  # of any script, with what YAML gives a meaning


def written(model, folder, checks, names=None, data=None, name='cait_x'):
    """The export in ``folder`` with its folder for PaddleX; the lines for the console."""
    meta = export(model, folder, name, data or small_data(), checks, WEIGHTS, [('paddle', 'fp32', 'float')], names)
    return clients.write(['paddlex'], clients.Request(model, folder, meta, checks))


def config_of(folder) -> dict:
    return yaml.safe_load((Path(folder) / 'paddlex' / 'inference.yml').read_text(encoding='ascii'))


@pytest.fixture(scope='module')
def exported(cait, checks, tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    return str(folder), written(cait, folder, checks, NAMES)


def test_the_configuration_has_the_names_of_operators_that_paddlex_has(exported):
    folder, _ = exported
    assert config_of(folder) == {
        'Global': {'model_name': 'cait_x'},
        'PreProcess': {'transform_ops': [
            {'ResizeImage': {'resize_short': 32, 'backend': 'pil', 'interpolation': 'BICUBIC'}},
            {'CropImage': {'size': 32}},
            {'NormalizeImage': {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225], 'scale': 1 / 255,
                                'order': '', 'channel_num': 3}},
            {'ToCHWImage': None}]},
        'PostProcess': {'Topk': {'topk': 5, 'label_list': NAMES}}}
    assert sorted(path.name for path in Path(folder, 'paddlex').iterdir()) == [
        'inference.json', 'inference.pdiparams', 'inference.yml', 'register.py']


@pytest.mark.parametrize('crop, interpolation, short, name', [
    (0.9, 'bilinear', 248, 'BILINEAR'), (0.875, 'lanczos', 256, 'LANCZOS4'), (1.0, 'nearest', 224, 'NEAREST')])
def test_sizes_and_filters(crop, interpolation, short, name):
    from CaiT.deploy.metadata import Metadata
    data = DataConfig(224, crop, interpolation, (0.5,) * 3, (0.5,) * 3)
    said = paddlex.config(Metadata('m', 3, data, None, WEIGHTS, {}, []))
    assert said['PreProcess']['transform_ops'][0]['ResizeImage'] == {
        'resize_short': short, 'backend': 'pil', 'interpolation': name}
    assert said['PostProcess'] == {'Topk': {'topk': 3}}  # no more classes than there are, no names


@pytest.mark.parametrize('family', ['cait', 'distilled'])
def test_the_graph_gives_probabilities(family, checks, tmp_path):
    model = small(family)
    written(model, tmp_path, checks)
    pixels = checks.array('float')
    logits = reference_logits(model, pixels).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    graph = tmp_path / 'paddlex' / 'inference.json'
    np.testing.assert_allclose(engine_class('paddle')(graph, Options()).run(pixels), expected, atol=2e-6)
    # beside it infer.py's graph has logits as before
    np.testing.assert_allclose(Predictor(str(tmp_path), 'paddle', Options()).logits(pixels), logits, atol=1e-4)


def test_of_images_of_several_classes_each_has_its_own_probability(cait, checks, tmp_path):
    meta = export(cait, tmp_path, 'x', small_data(), checks, WEIGHTS, [('paddle', 'fp32', 'float')],
                  thresholds=[0.5] * 10)
    clients.write(['paddlex'], clients.Request(cait, tmp_path, meta, checks))
    expected = 1 / (1 + np.exp(-reference_logits(cait, checks.array('float')).astype(np.float64)))
    run = engine_class('paddle')(tmp_path / 'paddlex' / 'inference.json', Options()).run
    np.testing.assert_allclose(run(checks.array('float')), expected, atol=2e-6)


def test_a_plain_graph_gives_probabilities_too(checks, tmp_path):
    model = small('vit')
    model.norm.register_forward_post_hook(lambda layer, inputs, output: output * 2)
    written(model, tmp_path, checks)
    run = engine_class('paddle')(tmp_path / 'paddlex' / 'inference.json', Options()).run
    np.testing.assert_allclose(run(checks.array('float')).sum(1), 1, atol=1e-5)


def test_what_to_type_in_paddlex_is_printed(exported):
    folder, lines = exported
    assert lines[0].startswith(f'{folder}/paddlex: probabilities within ') and lines[0].endswith('; in PaddleX:')
    assert lines[1:] == [
        f"    import runpy; runpy.run_path('{folder}/paddlex/register.py')  # makes the name known",
        f"    paddlex.create_model('cait_x', model_dir='{folder}/paddlex')"]
    text = Path(folder, 'paddlex', 'register.py').read_text(encoding='utf-8')
    assert text.endswith("register_predictor_binding_map(Predictor, {'paddle_static': ['cait_x']})\n")
    assert '@NAME@' not in text


def test_a_wrong_graph_is_not_written(cait, checks, tmp_path, monkeypatch):
    def logits(self, x):
        return self.layer(x)
    monkeypatch.setattr(paddlex.WithProbabilities, 'forward', logits)
    with pytest.raises(InputError, match='^--client paddlex: its logits differ from the dynamic model'):
        written(cait, tmp_path, checks)
    assert not (tmp_path / 'paddlex').exists()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get('CAIT_PADDLEX'), reason='make paddlex: its environment is named by CAIT_PADDLEX')
@pytest.mark.parametrize('operators, sizes', [
    ('own', [(32, 32), (64, 64), (96, 48), (33, 33)]),  # others PaddleX resizes or cuts otherwise
    ('exact', [(32, 32), (50, 75), (201, 100), (97, 211), (33, 33), (40, 41), (20, 31)])])
def test_paddlex_gives_the_answers_of_infer(exported, tmp_path, operators, sizes):
    folder, _ = exported
    rng, paths = np.random.Generator(np.random.PCG64(1)), []
    for index, (width, height) in enumerate(sizes):
        small_image = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
        paths.append(str(tmp_path / f'{index}.png'))
        small_image.resize((width, height), Image.BICUBIC).save(paths[-1])
    (tmp_path / 'images.txt').write_text('\n'.join(paths), encoding='utf-8')
    command = [os.environ['CAIT_PADDLEX'], str(ROOT / 'benchmarks/paddlex_peer.py'), f'{folder}/paddlex', 'cait_x',
               str(tmp_path / 'images.txt'), operators]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer['version'] == '3.7.2'
    ours = list(Predictor(folder, 'paddle', Options()).predict(paths, 5))
    for mine, theirs in zip(ours, answer['predictions']):
        assert [k for k, _ in theirs] == [k for k, _ in mine.best]
        np.testing.assert_allclose([p for _, p in theirs], [p for _, p in mine.best], atol=2e-5)
    assert answer['names'][0] == [NAMES[k] for k, _ in ours[0].best]
