# SPDX-License-Identifier: Apache-2.0
"""Each flag of export_model.py and infer.py arrives where it acts; what is measured and reported is right by number."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image
from small_models import need, small, small_data

from CaiT import export_model, infer, runtime
from CaiT.data.transforms import eval_transform
from CaiT.deploy import autolog, metadata, parity, quantize, simplify
from CaiT.deploy import export as export_module
from CaiT.deploy.engines import Options, engine_class
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Prediction, Predictor, certification_line, top_classes
from CaiT.errors import InputError

WEIGHTS = {'file': 'w', 'sha256': ''}


@pytest.fixture(scope='module')
def exported(cait, checks, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp('exported')
    export(cait, folder, 'x', small_data(), checks, WEIGHTS, [('paddle', 'fp32', kind) for kind in ('float', 'uint8')])
    return str(folder)


@pytest.mark.parametrize('kind', ['float', 'uint8'])
def test_files_are_normalized_once(exported, cait, images, kind):
    """From a file to probabilities: as the dynamic model on the transformed image, in the graph or before it."""
    transform = eval_transform(small_data())
    logits = cait(paddle.to_tensor(np.stack([transform(path) for path in images]))).numpy().astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = list(Predictor(exported, 'paddle', Options(input=kind, batch=2)).predict(images, 3))
    assert [one.path for one in found] == images
    for one, row in zip(found, expected):
        assert [class_id for class_id, _ in one.best] == row.argsort()[::-1][:3].tolist()
        np.testing.assert_allclose([p for _, p in one.best], np.sort(row)[::-1][:3], atol=1e-5)


def test_top_classes_by_value():
    logits = np.log(np.array([[0.1, 0.6, 0.3], [0.25, 0.25, 0.5]], np.float32)) + 800  # beyond the range of exp
    rows = top_classes(logits, 2)
    assert [[k for k, _ in row] for row in rows] == [[1, 2], [2, 0]]  # of equal ones the first
    np.testing.assert_allclose([[p for _, p in row] for row in rows], [[0.6, 0.3], [0.5, 0.25]], atol=1e-5)
    assert [len(row) for row in top_classes(logits, 9)] == [3, 3]
    assert certification_line(Prediction('a/b.png', [(7, 0.123456789123), (1, 0.1)])) == 'b.png\t[7, 0.123456789]'


class FakePredictor:
    def __init__(self, *given):
        FakePredictor.given = given
        self.input_shape, self.meta = (3, 8, 8), SimpleNamespace(
            model='x', class_names=None, num_classes=3, data=SimpleNamespace(image_size=8))
        self.engine = SimpleNamespace(describe=lambda: {})

    def describe(self):
        return {}

    def predict(self, paths, *rest):
        FakePredictor.asked = (paths, *rest[:2])
        FakePredictor.times = rest[2]
        return iter(())


@pytest.mark.parametrize('words, options, asked', [
    ([], Options('fp32', 'float', 3, 8), (1, 0)),
    (['--precision=bf16', '--input=uint8', '--cpu-threads=2', '--batch-size=5', '--use-mkldnn=False', '--topk=4',
      '--workers=1'], Options('bf16', 'uint8', 2, 5, False, False, False), (4, 1)),
    (['--use-gpu', '--use-tensorrt'], Options('fp32', 'float', 3, 8, True, True, True), (1, 0))])
def test_flags_of_infer(monkeypatch, images, words, options, asked):
    monkeypatch.setattr(infer, 'Predictor', FakePredictor)
    monkeypatch.setattr(runtime, 'cores', lambda: 3)
    monkeypatch.setattr(runtime, '_first_environment', set)
    monkeypatch.setattr('sys.argv', ['infer.py', '--model-dir=m', '--backend=openvino', '--img-path', *images, *words])
    assert infer.main() == 0
    assert FakePredictor.given == ('m', 'openvino', options, None) and FakePredictor.times is None
    assert FakePredictor.asked == (images, *asked)


@pytest.mark.parametrize('value, words, threads', [
    ('5', [], 5), ('1', [], 1), ('5', ['--cpu-threads=2'], 2), ('0', [], 3), ('-4', [], 3), ('2,1', [], 3)])
def test_threads_of_infer_are_those_the_user_has_set(monkeypatch, images, value, words, threads):
    monkeypatch.setattr(infer, 'Predictor', FakePredictor)
    monkeypatch.setattr(runtime, 'cores', lambda: 3)
    monkeypatch.setattr(runtime, '_first_environment', lambda: {'OMP_NUM_THREADS'})
    monkeypatch.setenv('OMP_NUM_THREADS', value)
    monkeypatch.delenv(runtime.SET_HERE, raising=False)
    monkeypatch.setattr('sys.argv', ['infer.py', '--img-path', *images, *words])
    assert infer.main() == 0 and FakePredictor.given[2].threads == threads


@pytest.mark.parametrize('count, cores, workers', [(64, 4, 0), (65, 4, 2), (65, 1, 1), (200, 9, 4)])
def test_decoding_processes_by_default(monkeypatch, images, count, cores, workers):
    monkeypatch.setattr(infer, 'Predictor', FakePredictor)
    monkeypatch.setattr(runtime, 'cores', lambda: cores)
    monkeypatch.setattr('sys.argv', ['infer.py', '--img-path', *[images[0]] * count])
    infer.main()
    assert FakePredictor.asked[2] == workers


@pytest.mark.parametrize('threads, mkldnn', [(1, True), (2, True), (2, False)])
def test_threads_and_kernels_reach_paddle(exported, threads, mkldnn):
    described = Predictor(exported, 'paddle', Options(threads=threads, use_mkldnn=mkldnn)).describe()
    assert (described['threads'], described['mkldnn'], described['device']) == (threads, mkldnn, 'cpu')
    assert (described['precision'], described['input'], described['batch']) == ('fp32', 'float', 8)


def test_threads_reach_onnx_runtime(cait, checks, tmp_path):
    need('onnxruntime')
    export(cait, tmp_path, 'x', small_data(), checks, WEIGHTS, [('onnxruntime', 'fp32', 'float')])
    engine = engine_class('onnxruntime')(tmp_path / 'onnxruntime.onnx', Options(threads=2))
    assert engine.session.get_session_options().intra_op_num_threads == 2
    assert engine.session.get_providers() == ['CPUExecutionProvider']


@pytest.fixture
def folder_of(tmp_path):
    """folder_of(name, count): a folder of images whose level is their number."""
    def make(name, count):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new('RGB', (8, 8), (index, 0, 0)).save(tmp_path / name / f'{index:02d}.png')
        return str(tmp_path / name)
    return make


@pytest.mark.parametrize('count, wanted, expected', [
    (10, 4, [0, 3, 6, 9]), (9, 3, [0, 4, 8]), (3, 12, [0, 1, 2]), (20, 1, [0]), (12, 5, [0, 3, 6, 8, 11])])
def test_check_images_are_spread_over_the_folder(folder_of, count, wanted, expected):
    """Lists are ordered by class: the first images would be of one class."""
    data = parity.from_folder(folder_of('a', count), small_data(8), wanted)
    assert [int(image[0, 0, 0]) for image in data.pixels] == expected


SHAPE = 'MODEL.PATCH_SIZE 8 MODEL.EMBED_DIM 48 MODEL.DEPTH 3 MODEL.NUM_HEADS 4'.split()


def test_flags_of_export(monkeypatch, folder_of, tmp_path, cait):
    """Images of the check and of the calibration are not mixed up, and each has a count of its own."""
    calls = []
    paddle.save(cait.state_dict(), str(tmp_path / 'w.pdparams'))
    (tmp_path / 'names.txt').write_text('\n'.join(f'name {index}' for index in range(10)))
    monkeypatch.setattr(export_module, 'export', lambda *given: calls.append(given))
    monkeypatch.setattr(export_module, 'summary', lambda *_: [], raising=False)
    monkeypatch.setattr('sys.argv', [
        'export_model.py', f'-pretrained={tmp_path}/w', f'--save-inference-dir={tmp_path}/out', '--image-size=32',
        '--num-classes=10', f'--label-map={tmp_path}/names.txt', f'--check-images={folder_of("checks", 7)}',
        '--check-count=3', f'--calibration={folder_of("calibration", 9)}', '--calibration-count=5',
        '--backend=onnxruntime,openvino', '--precision', 'fp32', 'int8', '--input=uint8', '--attention', '-opts',
        *SHAPE])
    assert export_model.main() == 0
    model, folder, name, data, checks, weights, targets, names, threads, calibration, thresholds, attention = calls[0]
    assert (str(folder), name, threads) == (f'{tmp_path}/out', 'cait_xxs24_224', runtime.cores())
    assert (data.image_size, model.num_classes, names[9], thresholds, attention) == (
        32, 10, 'name 9', None, '--attention')
    assert [int(image[0, 0, 0]) for image in checks.pixels] == [0, 3, 6] and checks.source.endswith('/checks')
    assert [int(image[0, 0, 0]) for image in calibration.pixels] == [0, 2, 4, 6, 8]
    assert calibration.source.endswith('/calibration')
    assert targets == [(backend, precision, 'uint8') for backend in ('onnxruntime', 'openvino')
                       for precision in ('fp32', 'int8')]
    assert weights == {'file': 'w.pdparams', 'sha256': metadata.sha256(tmp_path / 'w.pdparams')}


@pytest.mark.parametrize('flag', ['--check-count', '--calibration-count'])
def test_counts_of_nothing(monkeypatch, flag):
    monkeypatch.setattr('sys.argv', ['export_model.py', f'{flag}=0'])
    with pytest.raises(InputError, match=f'^{flag}: found 0, expected at least 1$'):
        export_model.main()


@pytest.mark.parametrize('flag', ['--check-count', '--calibration-count'])
def test_counts_beyond_the_memory(monkeypatch, tmp_path, cait, flag):
    paddle.save(cait.state_dict(), str(tmp_path / 'w.pdparams'))
    monkeypatch.setattr('sys.argv', [
        'export_model.py', f'-pretrained={tmp_path}/w', '--image-size=32', '--num-classes=10', f'{flag}=1000000000',
        '-opts', *SHAPE])
    with pytest.raises(InputError, match=f'^{flag}: found 1000000000, with which a batch of images of 32x32 pixels '
                                         'takes 12,288.0 GB, expected at most'):
        export_model.main()


def test_the_largest_difference_of_both_batch_sizes_counts():
    reference = np.array([[4.0, 1.0], [2.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 0.0]], np.float32)

    def by(alone, among_others):
        """A run that adds this to the logits of batches of one, and of three images."""
        return parity.measure(reference, lambda x: reference[x[:, 0]] + (alone if len(x) == 1 else among_others),
                              np.arange(6)[:, None])
    for measured in (by(0.5, -0.25), by(0.25, -0.5)):
        assert (measured['max_abs_difference'], measured['max_abs_logit'], measured['relative']) == (0.5, 4, 0.125)
        assert measured['images'] == measured['argmax_agreement'] == 6
    for first, second in ((0, 1.5), (1.5, 0)):  # of the second class: the best one of rows 1, 2 and 4 changes
        assert by(np.array([0, first]), np.array([0, second]))['argmax_agreement'] == 3


@pytest.mark.parametrize('precision, allowed', [('fp32', 1e-5), ('bf16', 0.1), ('int8', 0.5)])
def test_tolerances(precision, allowed):
    for factor, is_refused in ((0.99, False), (1.0, False), (1.01, True)):
        measured = {'relative': factor * allowed, 'images': 3}
        if is_refused:
            with pytest.raises(InputError, match=f'^p: its logits differ .* allowed is {allowed:.0e}; nothing was'):
                parity.check(measured, precision, 'p')
        else:
            parity.check(measured, precision, 'p')


class FakeEngine:
    """Two runs cost 100 s each, as compilation does; later ones 5 s."""

    def __init__(self, fake_time):
        self.fake_time, self.runs, self.graph = fake_time, 0, 'g'

    def run(self, images):
        self.runs += 1
        self.fake_time.now += 100 if self.runs <= 2 else 5
        return np.zeros((len(images), 10), np.float32)

    def check_logits(self, *_):
        pass


def test_benchmark_leaves_the_warm_up_out(exported, images, monkeypatch):
    """Decoding costs 1 s an image, a run 5 s; the first images are decoded again, so that their time counts."""
    fake_time = SimpleNamespace(now=50.0)
    monkeypatch.setattr(autolog.time, 'perf_counter', lambda: fake_time.now)
    found = Predictor(exported, 'paddle', Options(batch=2))
    found.engine, transform = FakeEngine(fake_time), found.transform

    def slow(path):
        fake_time.now += 1
        return transform(path)
    found.transform = slow
    times = autolog.StageTimes()
    assert len(list(found.predict(images, times=times))) == 5
    assert times.stages == [[2, 2, 1], [5, 5, 5], [0, 0, 0]] and found.engine.runs == 2 + 3
    assert times.batches == 3 and times.total_seconds == 20
    assert [times.mean_ms(stage) for stage in range(3)] == pytest.approx([5000 / 3, 5000, 0])


@pytest.mark.parametrize('batch, chunk', [(1, 1), (3, 3), (8, 8), (32, 8)])
def test_an_engine_runs_eight_images_at_most(exported, batch, chunk):
    found, sizes = Predictor(exported, 'paddle', Options(batch=batch)), []
    run_batch = found.engine.run_batch
    found.engine.run_batch = lambda images, lane: sizes.append(len(images)) or run_batch(images, lane)
    found.logits(np.zeros((17, 3, 32, 32), np.float32))
    assert sizes == [chunk] * (17 // chunk) + [17 % chunk] * (17 % chunk > 0)


@pytest.mark.parametrize('alpha', [0.8, 0.25])
def test_smoothing_by_value(alpha):
    """s = max|x|^alpha / max|W|^(1 - alpha) of each channel, 1 on average; the norm is divided by it, W multiplied."""
    net = simplify.fold_norm_affine(simplify.from_model(small('vit')))
    maxima = {name: np.linspace(0.5, 8, net.dim) for name in ('blocks.0.attn.qkv', 'blocks.0.mlp.fc1')}
    others = {name: np.ones(net.dim) for layers in quantize.smoothed_layers(net).values() for name in layers}
    weight = net.arrays['blocks.0.attn.qkv.weight']
    scale = maxima['blocks.0.attn.qkv'] ** alpha / np.abs(weight).max(1) ** (1 - alpha)
    scale /= np.exp(np.log(scale).mean())
    found = quantize.smooth(net, {**others, **maxima}, alpha).arrays
    np.testing.assert_allclose(found['blocks.0.norm1.weight'], 1 / scale, rtol=1e-12)
    np.testing.assert_allclose(found['blocks.0.attn.qkv.weight'], weight * scale[:, None], rtol=1e-12)
    assert quantize.ALPHA == 0.8


@pytest.mark.parametrize('words, model', [(['-cfg=deit_tiny_patch16_224'], 'deit_tiny_patch16_224'),
                                          (['-opts', 'MODEL.NAME', 'cait_s24_384'], 'cait_s24_384')])
def test_published_weights_by_name(monkeypatch, words, model):
    """-pretrained=zoo is the published file of the model that is exported, as for -eval and -pred."""
    asked = []
    monkeypatch.setattr('CaiT.weights.cache.fetch', lambda entry, say: asked.append(entry.model) or 'cache/w.pth')
    args = export_model.parser().parse_args(['-pretrained=zoo', *words])
    assert export_model.resolve_weights(args) == 'cache/w.pth' and asked == [model]
