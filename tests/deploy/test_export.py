# SPDX-License-Identifier: Apache-2.0
"""Export: the files, and errors for models with different logits, after which nothing is left."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import small, small_data

from CaiT.deploy import export as export_module
from CaiT.deploy import metadata, parity
from CaiT.deploy.engines import Options
from CaiT.deploy.engines.paddle_engine import Engine
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [('paddle', 'fp32', 'float')]
WEIGHTS = {'file': 'w.pdparams', 'sha256': '0' * 64}


def snapshot(folder: Path) -> dict:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_and_metadata(cait, checks, tmp_path):
    export(cait, tmp_path / 'm', 'cait_xxs24_224', small_data(), checks, WEIGHTS, TARGETS, list('abcdefghij'))
    assert sorted(path.name for path in (tmp_path / 'm').iterdir()) == [
        'inference.json', 'inference.pdiparams', 'metadata.json']
    values = json.loads((tmp_path / 'm' / 'metadata.json').read_text(encoding='utf-8'))
    assert values['model'] == 'cait_xxs24_224' and values['num_classes'] == 10
    assert values['data'] == {'image_size': 32, 'crop_pct': 1.0, 'interpolation': 'bicubic',
                              'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
    assert values['class_names'] == list('abcdefghij') and values['weights'] == WEIGHTS
    assert values['versions']['paddle'] == paddle.__version__
    measured = values['artifacts'][0]['parity']
    assert measured['images'] == 7 and measured['batches'] == [1, 3] and measured['argmax_agreement'] == 7
    assert 0 < measured['relative'] <= 1e-5


def test_metadata_of_an_earlier_version_is_read(cait, checks, tmp_path):
    """Whose parity has the key 'pictures'."""
    export(cait, tmp_path, 'cait_xxs24_224', small_data(), checks, WEIGHTS, TARGETS)
    path = tmp_path / metadata.FILE
    text = path.read_text(encoding='utf-8')
    path.write_text(text.replace('"images"', '"pictures"'), encoding='utf-8')
    assert '"pictures"' in path.read_text(encoding='utf-8')
    assert metadata.read(tmp_path).artifacts[0].parity['images'] == 7


@pytest.mark.parametrize('batch', [1, 2, 5, 9])
def test_any_batch_equals_the_dynamic_model(cait, checks, tmp_path, batch):
    export(cait, tmp_path, 'cait_xxs24_224', small_data(), checks, WEIGHTS, TARGETS)
    predictor = Predictor(str(tmp_path), 'paddle', Options(batch=4))
    images = np.resize(checks.array('float'), (batch, 3, 32, 32))
    expected = cait(paddle.to_tensor(images)).numpy()
    assert np.abs(predictor.logits(images) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_different_logits_are_refused(cait, checks, tmp_path, monkeypatch):
    export(cait, tmp_path / 'm', 'cait_xxs24_224', small_data(), checks, WEIGHTS, TARGETS)
    before = snapshot(tmp_path / 'm')
    run_batch = Engine.run_batch
    monkeypatch.setattr(Engine, 'run_batch', lambda self, x, lane: run_batch(self, x, lane) * np.float32(1 + 3e-5))
    for folder in ('m', 'new'):
        with pytest.raises(InputError, match='differ from the dynamic model by .* nothing was written'):
            export(cait, tmp_path / folder, 'cait_xxs24_224', small_data(), checks, WEIGHTS, TARGETS)
    assert snapshot(tmp_path / 'm') == before
    assert [path.name for path in tmp_path.iterdir()] == ['m']


def test_a_difference_at_batch_3_alone_is_seen(checks):
    reference = np.ones((7, 10), np.float32)
    measured = parity.measure(reference, lambda x: np.ones((len(x), 10)) * (2 if len(x) == 3 else 1), checks.pixels)
    assert measured['max_abs_difference'] == 1
    broken = parity.measure(reference, lambda x: np.full((len(x), 10), np.nan), checks.pixels)
    with pytest.raises(InputError, match='inf of the largest'):
        parity.check(broken, 'fp32', 'x')


def test_weights_without_the_classifier_are_refused(cait, tmp_path):
    path = tmp_path / 'w.pdparams'
    paddle.save(cait.state_dict(), str(path))
    other = small('cait')
    other.reset_classifier(4)
    with pytest.raises(InputError, match=r'w.pdparams: does not hold head.* for 4 classes'):
        export_module.load(other, path)


def test_synthetic_images_are_always_the_same():
    first, again = parity.synthetic(small_data(), 3), parity.synthetic(small_data(), 3)
    assert np.array_equal(first.pixels, again.pixels) and first.pixels.std() > 40


def test_missing_dataset_is_reported(tmp_path):
    checks = parity.from_dataset('imagenet2012', str(tmp_path / 'none'), 10, small_data(), 4)
    assert len(checks.pixels) == 4 and checks.source.startswith('synthetic images (') and 'none' in checks.source


def run(*words, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, **options)


@pytest.mark.parametrize('there, expected, reason', [
    (False, False, ''), (False, True, r' \(.*d/val_list.txt: no such file, .*\)'),
    (True, False, r' \(.*d/val_list.txt, line 1: .*\)'), (True, True, r' \(.*d/val_list.txt, line 1: .*\)')])
def test_the_reason_for_synthetic_images_is_said_where_it_tells_something(cait, tmp_path, there, expected, reason):
    """Without ImageNet, which nobody asked for, all is well; a dataset that is there and cannot be read is a fault."""
    if there:
        (tmp_path / 'd').mkdir()
        (tmp_path / 'd/val_list.txt').write_text('a.png x\n', encoding='utf-8')
    checks = parity.from_dataset('imagenet2012', str(tmp_path / 'd'), 10, small_data(), 4, expected=expected)
    meta = export(cait, tmp_path / 'm', 'x', small_data(), checks, WEIGHTS, [('paddle', 'fp32', 'float')])
    line, = export_module.summary(tmp_path / 'm', meta)
    assert re.search(rf'same class on 4 of 4 images \(synthetic images{reason}; --check-images=FOLDER for real ones\)$',
                     line), line


@pytest.fixture(scope='module')
def trained(cait, tmp_path_factory) -> Path:
    """A folder as training leaves it: weights with the configuration beside them."""
    from CaiT.config import get_config
    folder = tmp_path_factory.mktemp('trained')
    paddle.save(cait.state_dict(), str(folder / 'best.pdparams'))
    config = get_config(None, ['MODEL.PATCH_SIZE', '8', 'MODEL.EMBED_DIM', '48', 'MODEL.DEPTH', '3', 'MODEL.NUM_HEADS',
                               '4', 'DATA.IMAGE_SIZE', '32', 'MODEL.NUM_CLASSES', '10'])
    (folder / 'config.yaml').write_text(config.dump(), encoding='utf-8')
    return folder


def test_scripts_as_tipc_calls_them(trained, images, tmp_path, cait):
    before = snapshot(trained), {path: Path(path).read_bytes() for path in images}
    made = run('CaiT/export_model.py', f'--pretrained={trained}/best', f'--save-inference-dir={tmp_path}/m')
    assert made.returncode == 0, made.stderr
    assert 'config.yaml' in made.stdout and '7 of 7' not in made.stdout
    done = run('infer.py', '--use-gpu=False', '--batch-size=1', f'--model-dir={tmp_path}/m', '--benchmark=True',
               '--tipc-lines', f'--img-path={images[0]}')
    assert done.returncode == 0, done.stderr
    line = re.search(r'^image_name: (\S+), class_id: (\d+), prob: (0\.\d{4})$', done.stdout, re.M)
    exact = re.search(rf'^0\.png\t\[{line.group(2)}, (0\.\d{{9}})\]$', done.stdout, re.M)
    assert line.group(1) == images[0] and f'{float(exact.group(1)):.4f}' == line.group(3)
    assert done.stdout.index('0.png') == done.stdout.index('0.png\t[')  # the first line that names it
    assert 'batch_size: 1' in done.stdout and 'data_num: 1' in done.stdout
    transform = Predictor(f'{tmp_path}/m', 'paddle', Options()).transform
    logits = cait(paddle.to_tensor(transform(images[0])[None])).numpy()[0].astype(np.float64)
    probability = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert int(line.group(2)) == probability.argmax() and abs(float(line.group(3)) - probability.max()) < 6e-5
    assert before == (snapshot(trained), {path: Path(path).read_bytes() for path in images})


def test_two_names_for_the_weights_must_agree(trained, tmp_path):
    done = run('export_model.py', f'--pretrained={trained}/best', '--model_path=other',
               f'-save_inference_dir={tmp_path}')
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        f'error: --model_path other and --pretrained {trained}/best name two files, expected one')


def test_error_for_missing_weights():
    done = run('export_model.py', '-pretrained=nowhere/best')
    assert done.returncode == 2 and 'nowhere/best' in done.stderr and 'CaiT/main_single_gpu.py' in done.stderr


def test_metadata_of_another_model_is_refused(cait, checks, tmp_path):
    export(cait, tmp_path, 'cait_xxs24_224', small_data(), checks, WEIGHTS, TARGETS)
    path = tmp_path / metadata.FILE
    good = json.loads(path.read_text(encoding='utf-8'))

    def broken(**changes) -> None:
        path.write_text(json.dumps({**good, **changes}), encoding='utf-8')

    broken(num_classes=9)
    with pytest.raises(InputError, match='found 10 classes, but metadata.json beside it .or -cfg. says 9'):
        Predictor(str(tmp_path), 'paddle', Options()).logits(checks.array('float'))
    for size in (48, 16384):  # before an image is decoded to it
        broken(data={**good['data'], 'image_size': size})
        with pytest.raises(InputError, match=rf'found images of {size}x{size} pixels, shape .*, expected 32x32'):
            Predictor(str(tmp_path), 'paddle', Options())
    for names in (['\ud800', *'bcdefghij'], ['a\n1. b', *'bcdefghij'], ['\x1b[2J', *'bcdefghij']):
        broken(class_names=names)
        with pytest.raises(InputError, match='not the metadata .*a name: found .*, expected one line of text'):
            metadata.read(tmp_path)
    for changes in ({'model': 'a\u2028b'}, {'format': True}, {'format': 1.0}):
        broken(**changes)
        with pytest.raises(InputError, match='not the metadata of an exported model'):
            metadata.read(tmp_path)
    broken(data={**good['data'], 'crop_pct': 1e-320})
    with pytest.raises(InputError, match='crop_pct: found 1e-320 with image_size 32, expected images resized to'):
        metadata.read(tmp_path)
    broken(data={'image_size': 32})
    with pytest.raises(InputError, match='not the metadata of an exported model'):
        metadata.read(tmp_path)
    broken()
    (tmp_path / 'inference.pdiparams').write_bytes(b'short')
    with pytest.raises(InputError, match='found 5 bytes'):
        Predictor(str(tmp_path), 'paddle', Options())
