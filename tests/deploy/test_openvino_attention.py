# SPDX-License-Identifier: Apache-2.0
"""The compiled attention in OpenVINO: the answers of the graph in the file, and of the dynamic model."""
from __future__ import annotations

import hashlib
import shutil
import sys

import numpy as np
import pytest

from CaiT import runtime
from CaiT.accelerate.native import build
from CaiT.errors import InputError
from CaiT.files import cache_folder
from tests.deploy.small_models import need, small, small_data

pytest.importorskip('openvino')
pytest.importorskip('onnx')

import paddle

from CaiT.deploy import parity
from CaiT.deploy.engines import Options, openvino_attention
from CaiT.deploy.engines.openvino_attention import Attention, misfit
from CaiT.deploy.engines.openvino_engine import Engine, library
from CaiT.deploy.simplify import from_model
from CaiT.tools import build_kernel

openvino = library()
HEADS, BLOCKS = 4, 3
SIZE = 40  # 25 patches: two threads do not get the same number of queries
BOUND = {'fp32': 5e-6, 'bf16': 3e-2, 'int8': 3e-2}  # of the largest logit; bf16 and int8 are rounded to 8 bits


def exported(folder, model, precision='fp32'):
    need('openvino')
    checks = parity.synthetic(small_data(SIZE), 9) if precision == 'int8' else None
    Engine.write(from_model(model), folder, Options(precision, 'float', 2), small_data(SIZE), checks)
    return folder / ('openvino_int8.xml' if precision == 'int8' else 'openvino.xml')


@pytest.fixture(scope='module')
def cait():
    return small('cait', SIZE, embed_dim=48 * HEADS)


@pytest.fixture(scope='module')
def graph(cait, tmp_path_factory):
    path = exported(tmp_path_factory.mktemp('export'), cait)
    obstacle = Attention(openvino.Core(), openvino.__version__, path).obstacle
    if obstacle:
        pytest.skip(f'no compiled attention here: {obstacle}')
    return path


def logits(graph, images, precision='fp32', batch=8, threads=2):
    return Engine(graph, Options(precision, 'float', threads, batch)).run(images)


def pixels(count):
    return np.random.default_rng(count).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize('count, batch, threads', [(1, 1, 1), (1, 8, 2), (3, 8, 2), (8, 8, 2), (9, 8, 1)])
def test_the_answers_of_the_dynamic_model(cait, graph, count, batch, threads):
    images = pixels(count)
    expected = cait(paddle.to_tensor(images)).numpy()
    found = logits(graph, images, batch=batch, threads=threads)
    assert np.abs(found - expected).max() <= BOUND['fp32'] * np.abs(expected).max()


@pytest.mark.parametrize('count', [1, 8])
def test_it_computes_each_size_of_batch(graph, monkeypatch, count):
    """A single image too, whose model needs no other shape."""
    engine = Engine(graph, Options('fp32', 'float', 1, 8))
    replaced, replace = [], engine.attention.replace
    monkeypatch.setattr(engine.attention, 'replace', lambda *words: (replaced.append(count), replace(*words)))
    engine.models.clear()
    engine.run(pixels(count))
    assert replaced == [count]


@pytest.mark.parametrize('precision', ['bf16', pytest.param('int8', marks=pytest.mark.slow)])
def test_in_bfloat16(cait, graph, tmp_path, precision, monkeypatch):
    """With one stream, where it is used on every processor."""
    if not runtime.cpu_flags() & {'avx512_bf16', 'amx_bf16'}:
        pytest.skip('no bfloat16 on this processor')
    if precision == 'int8':
        pytest.importorskip('nncf')
        graph = exported(tmp_path, cait, 'int8')
    images = pixels(4)
    engine = Engine(graph, Options(precision, 'float', 2, 4))
    assert engine.describe()['attention'] == 'compiled'
    monkeypatch.setenv('CAIT_NATIVE', 'off')
    expected = logits(graph, images, precision, 4)
    assert 0 < np.abs(engine.run(images) - expected).max() <= BOUND[precision] * np.abs(expected).max()


def test_every_block_is_exchanged_and_the_files_are_as_they_were(graph):
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in graph.parent.iterdir()}
    core = openvino.Core()
    attention, model = Attention(core, openvino.__version__, graph), core.read_model(str(graph))
    assert kinds(model).count('Softmax') == BLOCKS + 2  # and class attention
    attention.replace(model, False)
    assert kinds(model).count('Softmax') == 2 and kinds(model).count(f'TalkingHeads{HEADS}') == BLOCKS
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in graph.parent.iterdir()} == before


def kinds(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize('flags, precision, streams, compiled', [
    ({'avx512_bf16', 'amx_bf16'}, 'bf16', 2, False), ({'avx512_bf16', 'amx_bf16'}, 'bf16', 1, True),
    ({'avx512_bf16'}, 'bf16', 2, True), ({'avx512_bf16', 'amx_bf16'}, 'int8', 2, False),
    ({'avx512_bf16', 'amx_bf16'}, 'fp32', 2, True)])
@pytest.mark.parametrize('heads', [HEADS, 8])
def test_where_amx_is_faster(graph, monkeypatch, flags, precision, streams, compiled, heads):
    engine = Engine(graph, Options('fp32', 'float', 2, 8))
    assert engine.attention.heads == HEADS
    engine.attention.heads = heads
    monkeypatch.setattr(runtime, 'cpu_flags', lambda: flags)
    engine.settings['INFERENCE_PRECISION_HINT'] = 'f32' if precision == 'fp32' else 'bf16'
    engine.set_streams(streams)
    assert engine.describe()['attention'] == ('compiled' if compiled or heads == 8 else 'from the file')


def test_a_compiled_model_comes_from_the_cache_with_its_kernel(graph, monkeypatch, tmp_path):
    monkeypatch.setenv('CAIT_HOME', str(cache_folder('native').parent))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    images = pixels(2)
    first = logits(graph, images)
    stored = sorted((tmp_path / 'paddle-cait' / 'openvino').rglob('*.blob'))
    assert stored and np.array_equal(logits(graph, images), first)
    assert sorted((tmp_path / 'paddle-cait' / 'openvino').rglob('*.blob')) == stored
    monkeypatch.setenv('CAIT_NATIVE', 'off')
    assert not np.array_equal(logits(graph, images), first)  # not the model with the kernel


def obstacle(graph):
    return Attention(openvino.Core(), openvino.__version__, graph).obstacle


@pytest.mark.parametrize('change, expected', [
    (lambda patch: patch.setenv('CAIT_NATIVE', 'off'), 'CAIT_NATIVE'),
    (lambda patch: patch.setattr(openvino_attention, 'TESTED', ('2031.1',)), 'tested with OpenVINO 2031.1, found 2'),
    (lambda patch: patch.setattr(runtime, 'cpu_flags', lambda: {'avx2'}), 'this processor has no avx512f'),
    (lambda patch: patch.setattr(shutil, 'which', lambda name: None), 'no C++ compiler (g++, '),
    (lambda patch: patch.setenv('CAIT_HOME', '/nonexistent'), 'not compiled yet')])
def test_without_it(cait, graph, monkeypatch, change, expected):
    change(monkeypatch)
    assert obstacle(graph).startswith(expected)
    images = pixels(5)
    expected = cait(paddle.to_tensor(images)).numpy()
    assert np.abs(logits(graph, images) - expected).max() <= BOUND['fp32'] * np.abs(expected).max()


@pytest.mark.parametrize('family', ['vit', 'distilled'])
def test_models_without_talking_heads(tmp_path, family, capsys):
    path = exported(tmp_path, small(family))
    assert obstacle(path) == 'no talking heads' and capsys.readouterr().out == ''


@pytest.mark.parametrize('heads, width, tokens, expected', [
    (4, 192, 1024, ''), (16, 768, 196, ''), (4, 48, 196, '12 channels per head, it is for 48'),
    (4, 192, 1025, '1025 patches, it is for up to 1024')])
def test_sizes(heads, width, tokens, expected):
    assert misfit(heads, width, tokens) == expected


def test_another_graph_runs_as_it_is(graph, tmp_path):
    """One that has lost the name of a layer."""
    text = graph.read_text()
    (tmp_path / 'openvino.xml').write_text(text.replace('"blocks.1.attn.proj_w.bias"', '"x"'))
    shutil.copy(graph.with_suffix('.bin'), tmp_path)
    images = pixels(2)
    engine = Engine(tmp_path / 'openvino.xml', Options('fp32', 'float', 2, 8))
    assert np.abs(engine.run(images) - logits(graph, images)).max() <= 1e-4
    assert engine.attention.obstacle == "another graph than ours ('blocks.1.attn.proj_w.bias')"
    assert engine.describe()['attention'] == 'from the file'


def test_the_command(graph, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['build_kernel', f'-model_dir={graph.parent}'])
    assert build_kernel.main() == 0
    assert capsys.readouterr().out == 'compiled attention: ready\n'


def test_the_command_for_models_that_it_does_not_fit(tmp_path, monkeypatch, capsys):
    """Heads of 12 channels; no export for OpenVINO."""
    monkeypatch.setattr(sys, 'argv', ['build_kernel', f'-model_dir={tmp_path}'])
    with pytest.raises(InputError, match='found no openvino.*xml, expected an export for OpenVINO'):
        build_kernel.main()
    exported(tmp_path, small('cait'))
    capsys.readouterr()
    assert build_kernel.main() == 1
    assert capsys.readouterr().out in (  # the second where there is neither AVX-512 nor a compiler
        'compiled attention: 12 channels per head, it is for 48\n', f'compiled attention: {obstacle_here()}\n')


def obstacle_here():
    try:
        build.for_openvino(HEADS, openvino.__version__, True)
    except build.BuildError as error:
        return str(error)
