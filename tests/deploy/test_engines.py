# SPDX-License-Identifier: Apache-2.0
"""Every engine at every precision: logits, batch sizes, and errors for unsupported options."""
from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import is_installed, need, small, small_data

from CaiT import runtime
from CaiT.deploy import export as export_module
from CaiT.deploy import metadata, parity
from CaiT.deploy.engines import Options, backends, engine_class, paddle_engine
from CaiT.deploy.export import export
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
BF16 = 'avx512_bf16' in runtime.cpu_flags()
PAIRS = [('paddle', 'fp32'), ('paddle', 'bf16'), ('onnxruntime', 'fp32'), ('onnxruntime', 'int8'),
         ('openvino', 'fp32'), ('openvino', 'bf16')]
WEIGHTS = {'file': 'w.pdparams', 'sha256': '0' * 64}


def offered(backend: str, precision: str) -> bool:
    """Whether this machine has what the pair needs to be exported and to run."""
    return is_installed(backend) and (BF16 or precision != 'bf16')


@pytest.fixture(scope='module', params=['cait', 'vit', 'distilled'])
def exported(request, checks, tmp_path_factory):
    """(dynamic model, folder with every engine's files)."""
    folder, model = tmp_path_factory.mktemp(request.param), small(request.param)
    targets = [(*pair, kind) for pair in PAIRS if offered(*pair) for kind in ('float', 'uint8')]
    calibration = parity.synthetic(small_data(), 9)
    export(model, folder, 'x', small_data(), checks, WEIGHTS, targets, None, 2, calibration)
    return model, str(folder)


def logits(folder: str, backend: str, precision: str, kind: str, checks, count: int, batch: int = 8) -> np.ndarray:
    predictor = Predictor(folder, backend, Options(precision, kind, 2, batch))
    return predictor.logits(np.resize(checks.array(kind), (count, *predictor.input_shape)))


def test_paddle_does_not_copy_attention_scores(exported):
    """From oneDNN's verbose log: talking heads need no copy of the scores (2 images, 16 tokens)."""
    script = ('import sys, numpy as np; from CaiT.deploy.engines import Options; '
              'from CaiT.deploy.predictor import Predictor; '
              "model = Predictor(sys.argv[1], 'paddle', Options('fp32', 'float', 2, 2)); "
              'model.logits(np.zeros((2, *model.input_shape), np.float32))')
    output = subprocess.run([sys.executable, '-c', script, exported[1]], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, 'ONEDNN_VERBOSE': '1'}, check=True).stdout
    run = [line.split(',') for line in output.splitlines() if line.startswith('onednn_verbose') and ',exec,' in line]
    heads = exported[0].blocks[0].attn.num_heads
    tokens = exported[0].pos_embed.shape[1]
    values = 2 * heads * tokens * tokens
    sizes = [(fields[5], math.prod(map(int, fields[-2].split('x')))) for fields in run
             if fields[5] in ('softmax', 'reorder')]
    assert ('softmax', values) in sizes and ('reorder', values) not in sizes


@pytest.mark.parametrize('backend, precision', PAIRS)
def test_logits_of_every_engine(exported, checks, backend, precision):
    """fp32 is equal up to rounding; the others differ by a few percent, for both kinds of input."""
    model, folder = exported
    need(backend)
    if not offered(backend, precision):
        pytest.skip('no bf16 on this processor')
    expected = model(paddle.to_tensor(checks.array('float'))).numpy()
    for kind in ('float', 'uint8'):
        found = logits(folder, backend, precision, kind, checks, len(expected))
        error = np.abs(found - expected).max() / np.abs(expected).max()
        assert error <= {'fp32': 1e-5, 'bf16': 0.03, 'int8': 0.08}[precision]
        assert precision == 'fp32' or error > 1e-4  # the precision is really in force


@pytest.mark.parametrize('backend', ['paddle', 'onnxruntime', 'openvino'])
@pytest.mark.parametrize('count, batch', [(1, 1), (1, 8), (3, 8), (5, 8), (8, 8), (13, 8), (32, 32), (7, 3)])
def test_any_number_of_images(exported, checks, backend, count, batch):
    need(backend)
    model, folder = exported
    expected = model(paddle.to_tensor(np.resize(checks.array('float'), (count, 3, 32, 32)))).numpy()
    found = logits(folder, backend, 'fp32', 'float', checks, count, batch)
    assert found.shape == (count, 10) and np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_parity_is_written_for_every_artifact(exported):
    artifacts = metadata.read(exported[1]).artifacts
    assert len(artifacts) == 2 * sum(offered(*pair) for pair in PAIRS)
    for one in artifacts:
        assert one.parity['images'] == 7 and one.parity['relative'] <= parity.TOLERANCES[one.precision]
        assert one.parity.get('calibration', '').startswith('9 images, ') == (one.precision == 'int8')


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_engines_other_than_paddle_never_import_it(exported, images, backend):
    need(backend)
    code = (f"import sys; sys.argv = ['infer.py', '--model-dir', {exported[1]!r}, '--backend', {backend!r}, "
            f"'--benchmark=True', '--img-path', {images[0]!r}]; from CaiT.infer import main; main(); "
            "assert not [m for m in sys.modules if m.split('.')[0] == 'paddle']")
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'image_name: ' in done.stdout and 'paddle_version: None' in done.stdout


def test_nncf_int8(checks, tmp_path):
    need('openvino')
    pytest.importorskip('nncf')
    model = small('cait', depth=2)
    made = export(model, tmp_path, 'x', small_data(), checks, WEIGHTS, [('openvino', 'int8', 'uint8')], None, 2, checks)
    assert 1e-3 < made.artifacts[0].parity['relative'] < 0.1
    import openvino
    operations = openvino.Core().read_model(str(tmp_path / 'openvino_int8_uint8.xml')).get_ordered_ops()
    # qkv, proj and fc1 of both blocks; fc2, talking heads, scores, class attention and head stay in float.
    assert sum(one.get_type_name() == 'FakeQuantize' for one in operations) == 2 * 3


def test_a_second_export_adds_and_other_weights_replace(cait, checks, tmp_path):
    need('onnxruntime')

    def made(weights, *targets):
        export(cait, tmp_path, 'x', small_data(), checks, weights, targets)
        return sorted(path.name for path in tmp_path.iterdir()), len(metadata.read(tmp_path).artifacts)
    assert made(WEIGHTS, ('paddle', 'fp32', 'float'))[1] == 1
    names, count = made(WEIGHTS, ('onnxruntime', 'fp32', 'float'))
    assert count == 2 and 'inference.json' in names and 'onnxruntime.onnx' in names
    names, count = made({**WEIGHTS, 'sha256': '1' * 64}, ('onnxruntime', 'fp32', 'float'))
    assert count == 1 and names == ['metadata.json', 'onnxruntime.onnx']


@pytest.mark.parametrize('backend, precision, message', [
    ('tensorflow', 'fp32', "--backend: found 'tensorflow', expected one of onnxruntime, openvino, paddle"),
    ('paddle', 'int8', "--precision: found 'int8', but paddle"),
    ('onnxruntime', 'bf16', "--precision: found 'bf16', but onnxruntime")])
def test_what_an_engine_would_ignore_is_an_error(backend, precision, message):
    with pytest.raises(InputError, match=message):
        engine_class(backend, precision)


def test_backends_are_discovered():
    assert backends() == ['onnxruntime', 'openvino', 'paddle']


def test_openvino_is_imported_without_its_converter():
    """The converter takes a third of a cold start and sends telemetry."""
    pytest.importorskip('openvino')
    code = ('import sys; from CaiT.deploy.engines.openvino_engine import library; core = library().Core()\n'
            "assert not [m for m in sys.modules if m.startswith(('openvino.tools.ovc', 'openvino_telemetry'))]\n"
            'import openvino.tools.ovc')  # it can still be imported
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0


def test_openvino_file_is_for_one_image(exported):
    need('openvino')
    import openvino
    model = openvino.Core().read_model(str(Path(exported[1]) / 'openvino_uint8.xml'))
    assert list(model.inputs[0].shape) == [1, 32, 32, 3]


@pytest.mark.parametrize('backend, file', [('onnxruntime', 'm.onnx'), ('openvino', 'm.xml'), ('paddle', 'm.json')])
def test_a_file_that_is_no_model_is_an_input_error(tmp_path, backend, file):
    need(backend)
    (tmp_path / file).write_text('<nothing/>', encoding='utf-8')
    (tmp_path / 'm.pdiparams').write_bytes(b'')
    with pytest.raises(InputError, match='cannot load this model'):
        engine_class(backend)(tmp_path / file, Options()).run(np.zeros((1, 3, 32, 32), np.float32))


def test_missing_library_gives_the_install_line(monkeypatch):
    monkeypatch.setattr(paddle_engine.Engine, 'module', 'no_such_library')
    with pytest.raises(InputError, match='no_such_library is not installed; install it with: pip install paddlepaddle'):
        engine_class('paddle')


def test_what_was_not_exported_gives_the_command(exported):
    need('openvino')
    with pytest.raises(InputError, match='--backend=openvino --precision=int8 --input=float --calibration=FOLDER '
                                         r'-pretrained=WEIGHTS \(the weights of this export were w.*\)$'):
        Predictor(exported[1], 'openvino', Options('int8'))


def test_int8_without_calibration_is_refused(cait, checks, tmp_path):
    need('onnxruntime')
    with pytest.raises(InputError, match='needs --calibration FOLDER'):
        export(cait, tmp_path / 'm', 'x', small_data(), checks, WEIGHTS, [('onnxruntime', 'int8', 'float')])
    with pytest.raises(InputError, match='no images in this folder'):
        parity.from_folder(str(tmp_path), small_data(), 3)
    assert not (tmp_path / 'm').exists()


@pytest.mark.parametrize('backend, graph', [('paddle', 'inference.json'), ('openvino', 'openvino.xml')])
def test_bf16_needs_its_instructions(exported, monkeypatch, backend, graph):
    need(backend)
    monkeypatch.setattr(runtime, 'cpu_flags', lambda: {'avx2'})
    with pytest.raises(InputError, match='this processor has no'):
        engine_class(backend, 'bf16')(Path(exported[1]) / graph, Options('bf16'))


def test_models_of_paddle_2_still_load(tmp_path):
    """A .pdmodel beside its .pdiparams. Paddle 3 can write one only for operations that its old format knows."""
    code = (f"import os; os.environ['FLAGS_enable_pir_api'] = '0'; import paddle; n = paddle.nn\n"
            "m = n.Sequential(n.Flatten(), n.Linear(48, 10)); m.eval(); x = paddle.ones([2, 3, 4, 4])\n"
            f"paddle.jit.save(m, {str(tmp_path / 'inference')!r}, [paddle.static.InputSpec([None, 3, 4, 4])])\n"
            f"paddle.save(m(x), {str(tmp_path / 'y')!r})")
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
    assert (tmp_path / 'inference.pdmodel').is_file()
    engine = engine_class('paddle')(tmp_path / 'inference.pdmodel', Options())
    expected = paddle.load(str(tmp_path / 'y')).numpy()
    assert np.abs(engine.run(np.ones((2, 3, 4, 4), np.float32)) - expected).max() < 1e-6


def test_fp32_and_bf16_have_the_same_files(exported):
    """fp32 and bf16 are one file, listed twice."""
    files = {one.key: list(one.files) for one in metadata.read(exported[1]).artifacts}
    for backend, precision, kind in files:
        if precision == 'bf16':
            assert files[backend, 'bf16', kind] == files[backend, 'fp32', kind]
    assert len({name for names in files.values() for name in names}) == len(list(Path(exported[1]).iterdir())) - 1


def test_export_checks_targets_before_it_starts(cait, checks, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, 'reference_logits', lambda *_: pytest.fail('too late'))
    for target in itertools.product(['paddle'], ['int8'], ['float']):
        with pytest.raises(InputError, match='--precision'):
            export(cait, tmp_path, 'x', small_data(), checks, WEIGHTS, [target])


@pytest.mark.parametrize('threads, batch, plans', [
    (2, 8, {1: (1, 1), 2: (1, 2), 3: (3, 1), 4: (2, 2), 5: (3, 2), 6: (3, 2), 7: (4, 2), 8: (4, 2), 9: (4, 2)}),
    (1, 8, {1: (1, 1), 3: (3, 1), 7: (7, 1), 8: (8, 1), 21: (8, 1)}),
    (2, 6, {1: (1, 1), 2: (2, 1), 5: (5, 1), 6: (6, 1)}), (2, 1, {1: (1, 1), 2: (1, 1)})])
def test_parts_of_small_batches_on_openvino(threads, batch, plans):
    """(images in a part, streams): little or no padding, and no stream idle where there is an image for it."""
    pytest.importorskip('openvino')
    from CaiT.deploy.engines.openvino_engine import Engine
    engine = Engine.__new__(Engine)
    engine.chunk = min(batch, 8)
    engine.streams = max(1, min(threads, engine.chunk // 4))
    engine.part = engine.chunk // engine.streams
    assert {images: tuple(engine._fitting(images)) for images in plans} == plans


def test_openvino_compiles_the_sizes_that_come_often(exported, checks, monkeypatch):
    """After as many runs, two sizes at most, and the answers stay the same; a size that comes once is padded."""
    need('openvino')
    from CaiT.deploy.engines import openvino_engine
    monkeypatch.setattr(openvino_engine, 'OFTEN', 2)
    engine = Predictor(exported[1], 'openvino', Options('fp32', 'float', 2, 8, streams=1)).engine
    images = checks.array('float')
    expected, counts = engine.run(images), []
    for size in (3, 6, 6, 6, 3, 2, 2, 2):
        before = threading.enumerate()
        assert np.abs(engine.run(images[:size]) - expected[:size]).max() <= 1e-5 * np.abs(expected).max()
        for thread in set(threading.enumerate()) - set(before):
            thread.join()
        counts.append(sorted(engine.models))
    four, three, whole = (4, 2), (3, 2), (3, 1)
    assert counts == [[four]] * 2 + [[three, four]] * 2 + [[whole, three, four]] * 4


@pytest.mark.parametrize('threads, batch, before, after', [
    (1, 4, [1, 1, 1, 4], [1, 2, 2, 4]), (2, 8, [1, 1, 1, 1, 1, 1, 1, 8], [1, 2, 2, 4, 4, 4, 4, 8]),
    (1, 8, [1, 1, 1, 1, 1, 1, 1, 8], [1, 2, 2, 4, 4, 4, 4, 8])])
def test_how_many_images_openvino_computes_without_padding(exported, threads, batch, before, after):
    need('openvino')
    engine = Predictor(exported[1], 'openvino', Options('fp32', 'float', threads, batch, streams=1)).engine
    assert [engine.whole(images) for images in range(1, batch + 1)] == before
    for images in (1, 2, 4, batch):
        engine.prepare(images)
    assert [engine.whole(images) for images in range(1, batch + 1)] == after


@pytest.mark.parametrize('streams, pinned', [(1, True), (2, False), (3, False)])
def test_openvino_models_that_run_side_by_side_are_not_pinned(exported, streams, pinned):
    need('openvino')
    engine = Predictor(exported[1], 'openvino', Options('fp32', 'float', 1, 4, streams=streams)).engine
    engine.prepare(2)
    engine.prepare(1)
    assert [one.get_property('ENABLE_CPU_PINNING') for one in engine.models.values()] == [pinned] * 2


def test_a_size_that_cannot_be_compiled_stays_padded(exported, checks, monkeypatch):
    need('openvino')
    from CaiT.deploy.engines import openvino_engine
    engine = Predictor(exported[1], 'openvino', Options('fp32', 'float', 2, 8, streams=1)).engine
    images = checks.array('float')
    expected = engine.run(images)

    def refuse(*_):
        raise InputError('no memory')
    monkeypatch.setattr(openvino_engine, 'OFTEN', 1)
    monkeypatch.setattr(engine, '_compile_quietly', lambda plan: type(engine)._compile_quietly(engine, plan))
    model = engine._model
    monkeypatch.setattr(engine, '_model', lambda plan: model(plan) if plan in engine.models else refuse())
    for _ in range(3):
        assert np.array_equal(engine.run(images[:6]), expected[:6])
    assert list(engine.models) == [(4, 2)]
