# SPDX-License-Identifier: Apache-2.0
"""``--attention``: the graph's maps against the dynamic model's, its place in the manifest, faults."""
from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image
from small_models import need, small, small_data

from CaiT.deploy import attention_graph, metadata, parity
from CaiT.deploy.attention import GRAPH, Attention
from CaiT.deploy.export import export, summary
from CaiT.errors import InputError
from CaiT.report.attention import explain

TARGETS = [('paddle', 'fp32', 'float')]
WEIGHTS = {'file': 'w.pdparams', 'sha256': '0' * 64}


def exported(model, folder, checks, attention='--attention', weights=WEIGHTS):
    need('onnxruntime')
    return export(model, folder, 'm', small_data(), checks, weights, TARGETS, attention=attention)


@pytest.mark.parametrize('low_rank', [True, False])
@pytest.mark.parametrize('family, blocks', [('cait', 2), ('vit', 1), ('distilled', 1)])
def test_maps_are_those_of_the_dynamic_model(family, blocks, low_rank, monkeypatch, checks, tmp_path):
    from CaiT.deploy import simplify
    if not low_rank:
        monkeypatch.setattr(simplify, 'LOW_RANK_BYTES', 0)
    model = small(family)
    attention = Attention(tmp_path, exported(model, tmp_path, checks))
    assert attention.outputs == ['logits', 'attention', *([] if family == 'cait' else ['rollout'])]
    said = explain(model, checks.array('float'))
    assert attention.prefix == said.prefix
    for index, pixels in enumerate(checks.array('uint8')):
        found = attention(pixels)
        np.testing.assert_array_equal(found['pixels'], pixels)
        assert found['attention'].shape == (blocks, 4, said.prefix + 16)
        np.testing.assert_allclose(found['attention'], said.attention[index], atol=attention_graph.TOLERANCE)
        if family != 'cait':
            np.testing.assert_allclose(found['rollout'], said.rollout[index], atol=attention_graph.TOLERANCE)
        assert found['logits'].argmax() == said.class_ids[index]


@pytest.mark.parametrize('family', ['cait', 'distilled'])
def test_reference_maps_are_those_of_the_report(family, checks):
    model, image = small(family), checks.array('float')[2]
    found, said = attention_graph.reference_maps(model, image), explain(model, image[None])
    np.testing.assert_allclose(found['attention'], said.attention[0], atol=1e-6)
    if family != 'cait':
        np.testing.assert_allclose(found['rollout'], said.rollout[0], atol=1e-6)
    assert not any(layer._forward_post_hooks for layer in model.sublayers())


def test_the_manifest_has_its_size_hash_and_differences(cait, checks, tmp_path):
    exported(cait, tmp_path, checks)
    values = json.loads((tmp_path / metadata.FILE).read_text(encoding='utf-8'))
    measured = values['attention']['parity']
    assert values['attention']['files'] == {GRAPH: (tmp_path / GRAPH).stat().st_size}
    assert values['sha256'][GRAPH] == metadata.sha256(tmp_path / GRAPH)
    assert 0 < measured['max_map_difference'] <= 1e-5 and 0 < measured['relative'] <= 1e-5 and measured['prefix'] == 1
    line = summary(tmp_path, metadata.read(tmp_path))[-1]
    assert re.fullmatch(rf'{tmp_path}/attention.onnx: graph with attention, largest difference to the dynamic model .* '
                        r'of max.logit., \d\.\de-\d+ in the maps', line)


@pytest.mark.parametrize('same, remains', [(True, True), (False, False)])
def test_a_later_export_without_it(cait, checks, tmp_path, same, remains):
    """Of the same weights it keeps the graph, of others it removes it."""
    exported(cait, tmp_path, checks)
    meta = exported(cait, tmp_path, checks, '', WEIGHTS if same else {**WEIGHTS, 'sha256': '1' * 64})
    assert (tmp_path / GRAPH).is_file() is remains and bool(meta.attention) is remains
    assert (GRAPH in metadata.read(tmp_path).sha256) is remains
    if remains:
        assert Attention(tmp_path, meta).outputs == ['logits', 'attention']


def test_metadata_without_attention_is_as_before(cait, checks, tmp_path):
    exported(cait, tmp_path, checks, '')
    assert 'attention' not in json.loads((tmp_path / metadata.FILE).read_text(encoding='utf-8'))


def test_an_export_without_it_names_the_command(cait, checks, tmp_path):
    meta = exported(cait, tmp_path, checks, '')
    with pytest.raises(InputError, match=rf'^{tmp_path}/metadata.json: this export has no attention graph; add it with:'
                       rf' python export_model.py --save-inference-dir={tmp_path} --attention -pretrained=WEIGHTS '
                       r'\(the weights of this export were w.pdparams\)$'):
        Attention(tmp_path, meta)


@pytest.mark.parametrize('fault, message', [
    ('gone', 'no such file'), ('cut', r'found \d+ bytes, but metadata.json'), ('changed', 'its content is not what'),
    ('prefix', 'found the outputs logits, attention, expected those')])
def test_a_damaged_graph(cait, checks, tmp_path, fault, message):
    meta = exported(cait, tmp_path, checks)
    path = tmp_path / GRAPH
    content = path.read_bytes()
    if fault == 'gone':
        path.unlink()
    elif fault == 'prefix':
        meta.attention.parity.pop('prefix')
    else:
        path.write_bytes(content[:-1] if fault == 'cut' else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=message):
        Attention(tmp_path, meta)


@pytest.mark.parametrize('key, value, message', [
    ('num_classes', 9, 'found 10 classes, but metadata.json beside it .or -cfg. says 9'),
    ('data', small_data(48), r'found images of 48x48 pixels, shape .*, expected 32x32'),
    ('data', small_data(9000), r'found images of 9000x9000 pixels, shape .*, expected 32x32')])
def test_metadata_of_another_model(cait, checks, tmp_path, key, value, message):
    meta = exported(cait, tmp_path, checks)
    setattr(meta, key, value)
    with pytest.raises(InputError, match=message):
        Attention(tmp_path, meta)(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize('value', ['x', [], {'files': {}}, {'parity': {}}, 3])
def test_damaged_metadata(cait, checks, tmp_path, value):
    exported(cait, tmp_path, checks, '')
    path = tmp_path / metadata.FILE
    path.write_text(json.dumps({**json.loads(path.read_text(encoding='utf-8')), 'attention': value}), encoding='utf-8')
    with pytest.raises(InputError, match='not the metadata of an exported model'):
        metadata.read(tmp_path)


def test_a_model_without_onnx_graph_is_refused(checks, tmp_path):
    model = small('vit')
    model.norm.register_forward_post_hook(lambda layer, inputs, output: output * 2)
    with pytest.raises(InputError, match=r'^--attention: m has no ONNX graph \(norm has a hook\), expected a model'):
        exported(model, tmp_path / 'm', checks)
    assert not (tmp_path / 'm').exists()


def test_a_missing_package_is_said_before_anything_is_written(cait, checks, tmp_path, monkeypatch):
    need('onnxruntime')
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(InputError, match='^--attention: onnx is not installed; install it with: pip install onnx$'):
        export(cait, tmp_path / 'm', 'm', small_data(), checks, WEIGHTS, TARGETS, attention='--attention')
    assert not (tmp_path / 'm').exists()


def test_wrong_maps_are_not_written(checks, tmp_path, monkeypatch):
    """Right logits, and a head counted twice in the rollout."""
    from CaiT.deploy import attention_outputs
    before = attention_outputs.rollout

    def wrong(graph, last):
        return graph.ops.multiply(before(graph, last), graph.ops.array('wrong', np.array(1.001)))
    monkeypatch.setattr(attention_outputs, 'rollout', wrong)
    with pytest.raises(InputError, match='^--attention: its attention differs from the dynamic model by .*, allowed is '
                                         '1e-05; nothing was written$'):
        exported(small('vit'), tmp_path / 'm', checks)
    assert not (tmp_path / 'm').exists()


def test_an_image_of_any_shape_is_cropped_as_infer_does(cait, tmp_path):
    data = small_data()
    attention = Attention(tmp_path, exported(cait, tmp_path, parity.synthetic(data, 2)))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (47, 91, 3), np.uint8)).save(tmp_path / 'x.png')
    found = attention(str(tmp_path / 'x.png'))
    assert found['pixels'].shape == (32, 32, 3)
    np.testing.assert_allclose(found['attention'].sum(-1), 1, atol=1e-6)
