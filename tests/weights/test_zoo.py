# SPDX-License-Identifier: Apache-2.0
"""The table of published weights, and what a name in it means. Downloads: test_download.py."""
from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from CaiT.data.transforms import DataConfig
from CaiT.errors import InputError
from CaiT.models import registry
from CaiT.models.registry import get_variant, list_models
from CaiT.tools import weights as tool
from CaiT.weights import zoo
from CaiT.weights.cache import cache_folder
from CaiT.weights.zoo import SOURCES, describe, download_url, entries, entry_of, find, local_path
from tests.weights.fileserver import file, serve, status
from tests.weights.test_download import CONTENT, SHA256, SIZE, surroundings  # noqa: F401 (a fixture for every test)

ROOT = Path(__file__).resolve().parents[2]
IMAGENET, HALF = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3)


def test_every_row_is_one_file_of_a_model_that_can_be_built():
    rows = entries()
    assert Counter(row.source for row in rows) == {'timm': 26, 'paddlevit': 21, 'facebookresearch': 18,
                                                   'paddleclas': 14, 'mindcv': 14, 'passl': 13}
    for unique in ('key', 'url', 'filename'):
        assert len({getattr(row, unique) for row in rows}) == 106
    assert {row.model for row in rows} <= set(list_models())
    assert {row.source for row in rows} == set(SOURCES)
    for row in rows:
        DataConfig(**row.data)
        assert row.url.startswith('https://') and row.license == 'Apache-2.0' and row.read_in
        assert bool(row.accuracy_from) == (row.top1 is not None)
        assert row.top1 is None or 70 < row.top1 < 90 and (row.top5 is None or row.top1 < row.top5 < 99)
        assert row.image_size % get_variant(row.model).arch['patch_size'] == 0
        assert row.filename.endswith(('.pth', '.safetensors', '.pdparams', '.ckpt'))


def test_hashes_are_those_that_were_published_and_no_others():
    published = {row for row in entries() if row.hash_status == 'published'}
    assert {row.source for row in published} == {'facebookresearch'} and len(published) == 8
    for row in published:
        assert row.url.endswith(f'-{row.sha256}.pth') and re.fullmatch('[0-9a-f]{8}', row.sha256)
    transcribed = {row.key: row.sha256 for row in entries() if row.hash_status == 'transcribed'}
    assert transcribed == {
        'cait_xxs24_224.timm': '396b92244e28808d4bd719d7e7a9d7ca13ac903686ed4d218504a40a4d70080c',
        'deit_tiny_patch16_224.timm': '21d4764d94f6c3ffdb6da3581115a0a1ee2d505537d96883b540e54766407c9e'}
    assert all(row.sha256 == '' for row in entries() if row.hash_status == '')


@pytest.mark.parametrize('key, size, crop, interpolation, statistics', [
    ('cait_m48_448.facebookresearch', 448, 1.0, 'bicubic', IMAGENET),
    ('deit_base_patch16_384.facebookresearch', 384, 0.875, 'bicubic', IMAGENET),
    ('deit_base_patch16_384.timm', 384, 1.0, 'bicubic', IMAGENET),
    ('vit_tiny_patch16_224.timm', 224, 0.9, 'bicubic', HALF),
    ('vit_large_patch16_224.mindcv', 224, 0.875, 'bicubic', IMAGENET),
    ('vit_base_patch16_384.passl', 384, 1.0, 'bilinear', HALF),
    ('vit_base_patch16_224.paddleclas', 224, 0.875, 'bilinear', HALF),
    ('vit_large_patch32_224.paddlevit', 384, 1.0, 'bicubic', HALF),
])
def test_weights_carry_the_data_config_they_were_evaluated_with(key, size, crop, interpolation, statistics):
    assert find(key).data == dict(image_size=size, crop_pct=crop, interpolation=interpolation, mean=statistics[0],
                                  std=statistics[1])


def test_published_accuracies_spot_checks():
    assert {key: (find(key).top1, find(key).top5) for key in (
        'cait_xxs24_224.timm', 'cait_s24_224.passl', 'cait_xxs24_224.mindcv', 'vit_large_patch16_224.mindcv.97d0fdbc',
        'vit_base_patch32_384.paddlevit', 'deit_base_distilled_patch16_384.facebookresearch')} == {
        'cait_xxs24_224.timm': (78.4, 94.326), 'cait_s24_224.passl': (83.45, 96.57),
        'cait_xxs24_224.mindcv': (77.71, 94.1), 'vit_large_patch16_224.mindcv.97d0fdbc': (76.34, 92.79),
        'vit_base_patch32_384.paddlevit': (83.35, 96.84),
        'deit_base_distilled_patch16_384.facebookresearch': (85.2, 97.2)}


@pytest.mark.parametrize('name, source, key', [
    ('cait_xxs24_224', None, 'cait_xxs24_224.timm'),
    ('cait_xs24_224', None, 'cait_xs24_224.mindcv'),
    ('vit_large_patch32_224', None, 'vit_large_patch32_224.mindcv.8c8ea164'),
    ('vit_small_patch16_224', None, 'vit_small_patch16_224.timm'),
    ('cait_s24_224', 'PASSL', 'cait_s24_224.passl'),
    ('cait_s24_224.passl', None, 'cait_s24_224.passl'),
    ('cait_s24_224.passl', 'passl', 'cait_s24_224.passl'),
    ('deit_base_patch16_224', 'passl', 'deit_base_patch16_224.passl.1n8c-fp32'),
    ('deit_base_patch16_224', 'passl.2n16c-fp16o2', 'deit_base_patch16_224.passl.2n16c-fp16o2'),
    ('vit_b_32_224', 'mindcv', 'vit_base_patch32_224.mindcv.4a1c9d8e'),
])
def test_find(name, source, key):
    assert find(name, source).key == key


def test_no_source_is_preferred_that_lacks_the_classes_or_the_architecture(monkeypatch):
    monkeypatch.setattr(zoo, 'SOURCES', ('passl', 'paddleclas', 'mindcv', 'timm', 'facebookresearch', 'paddlevit'))
    assert find('vit_large_patch16_224').key == 'vit_large_patch16_224.paddleclas'  # passl has one of 21,841 classes
    assert find('vit_small_patch16_224').key == 'vit_small_patch16_224.timm'


def test_every_model_with_weights_has_one_to_start_from():
    for model in {row.model for row in entries()}:
        assert find(model).fits and find(model).num_classes == 1000


@pytest.mark.parametrize('name, source, message', [
    ('cait_m36_224', None, 'cait_m36_224: no weights are known (there are some for cait_s36_224, cait_xxs36_224, '
                           'cait_m36_384); a file of your own goes in by its path'),
    ('resnet', None, 'resnet: no weights are known; a file of your own goes in by its path'),
    ('cait_s24_224', 'hf', "weights source 'hf': expected one of timm, passl, paddleclas, mindcv, facebookresearch, "
                           'paddlevit'),
    ('cait_s24_224', 'paddleclas', 'cait_s24_224: paddleclas has no weights for it, found facebookresearch, timm, '
                                   'passl, mindcv, paddlevit'),
    ('deit_base_patch16_224', 'passl.x', 'deit_base_patch16_224: passl.x has no weights for it, found '
     'facebookresearch, timm, passl.1n8c-fp32, passl.1n8c-fp16o2, passl.2n16c-fp16o2, paddleclas, mindcv.converted, '
     'mindcv.rtx3090'),
    ('vit_small_patch16_224', 'paddleclas', 'vit_small_patch16_224.paddleclas: another architecture under the same '
     'name (embed_dim 768, depth 8, 8 heads, MLP ratio 3), which this package does not build'),
    ('cait_s24_224.passl', 'timm', "weights 'cait_s24_224.passl': names the source 'passl', expected 'timm' or a name "
                                   'without one'),
])
def test_what_cannot_be_found(name, source, message):
    with pytest.raises(InputError) as error:
        find(name, source)
    assert str(error.value) == message


def test_what_pretrained_means(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = 'cait_s24_224'
    assert {value: entry_of(value, model).key for value in (True, 'zoo', 'zoo:passl', 'passl', 'TIMM')} == {
        True: 'cait_s24_224.timm', 'zoo': 'cait_s24_224.timm', 'zoo:passl': 'cait_s24_224.passl',
        'passl': 'cait_s24_224.passl', 'TIMM': 'cait_s24_224.timm'}
    assert [entry_of(value, model) for value in (None, False, '', 'best', 'zoo.pdparams', Path('timm'))] == [None] * 6
    (tmp_path / 'mindcv').mkdir()
    (tmp_path / 'passl').write_text('')
    assert entry_of('passl', model) is None and entry_of('mindcv', model).source == 'mindcv'
    with pytest.raises(InputError, match="^weights source 'nobody': expected one of timm"):
        entry_of('zoo:nobody', model)


def test_local_path_is_a_file_and_says_where_from(monkeypatch, capsys):
    assert local_path('any/where.pth', 'no model') == 'any/where.pth'
    rows = tuple(replace(row, sha256='', hash_status='') for row in entries())
    monkeypatch.setattr(zoo, 'entries', lambda: rows)
    with serve(file(CONTENT)) as server:
        monkeypatch.setenv('HF_ENDPOINT', server.url)
        path = local_path(True, 'cait_xxs24_224')
        assert server.requests[0][0] == '/timm/cait_xxs24_224.fb_dist_in1k/resolve/main/model.safetensors'
    assert path == str(cache_folder() / 'cait_xxs24_224.timm.safetensors') and Path(path).read_bytes() == CONTENT
    assert capsys.readouterr().out.splitlines()[1:] == [
        'zoo: cait_xxs24_224.timm from https://huggingface.co/timm/cait_xxs24_224.fb_dist_in1k/resolve/main/'
        'model.safetensors, Apache-2.0, top-1 78.4 %, top-5 94.326 % as published '
        '(pytorch-image-models@aa4b5850 results/results-imagenet.csv)',
        '  its images: 224 pixels, crop 1, bicubic, mean 0.485 0.456 0.406, std 0.229 0.224 0.225',
        '  note: weights last changed in commit 996bf14 of the model repository']


def test_a_library_call_prints_nothing_of_a_download(monkeypatch, capsys, caplog):
    caplog.set_level('INFO', 'CaiT')
    rows = tuple(replace(row, sha256='', hash_status='') for row in entries())
    monkeypatch.setattr(zoo, 'entries', lambda: rows)
    with serve(file(CONTENT)) as server, pytest.raises(InputError):  # the file holds no CaiT
        monkeypatch.setenv('HF_ENDPOINT', server.url)
        registry.create_model('cait_xxs24_224', pretrained=True)
    assert capsys.readouterr() == ('', '') and caplog.messages[-1].startswith('zoo: cait_xxs24_224.timm from https://')


def test_a_score_that_nobody_published_is_not_claimed():
    assert 'accuracy not published' in describe(find('cait_xxs24_224.facebookresearch'))[0]
    line = describe(find('cait_s24_224.facebookresearch'))[0]
    assert line.endswith(', top-1 83.5 % as published (deit@7e160fe README_cait.md)')


def test_where_a_file_is_asked_for():
    timm, drive, fb = find('cait_s24_224.timm'), find('cait_s24_224.paddlevit'), find('cait_s24_224.facebookresearch')
    assert download_url(timm, {}) == timm.url and download_url(fb, {'HF_ENDPOINT': 'https://h.invalid'}) == fb.url
    assert download_url(timm, {'HF_ENDPOINT': 'https://h.invalid/'}) == \
        'https://h.invalid/timm/cait_s24_224.fb_dist_in1k/resolve/main/model.safetensors'
    assert download_url(drive, {}) == ('https://drive.usercontent.google.com/download?'
                                       'id=1sdCxEw328yfPJArf6Zwrvok-91gh7PhS&export=download&confirm=t')
    assert download_url(timm, {'CAIT_MIRROR': 'http://m.invalid/w', 'HF_ENDPOINT': 'https://h.invalid'}) == \
        'http://m.invalid/w/cait_s24_224.timm.safetensors'
    assert download_url(drive, {'CAIT_MIRROR': 'http://m.invalid/w/'}) == \
        'http://m.invalid/w/cait_s24_224.paddlevit.pdparams'
    with pytest.raises(InputError, match="^CAIT_MIRROR: found 'm.invalid', expected the beginning of a URL"):
        download_url(timm, {'CAIT_MIRROR': 'm.invalid'})


def test_neither_paddle_nor_the_network_is_imported_for_a_name():
    code = ('import sys; from CaiT.weights.zoo import find; find("cait_s24_224"); import CaiT.weights.cache; '
            'assert not {"paddle", "torch", "httpx", "filelock", "tqdm"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, timeout=60)


def test_the_tool_lists(capsys):
    assert tool.main(['list', 'cait_s24_224', '--source=mindcv']) == 0
    assert capsys.readouterr().out.splitlines() == [
        'name                                         pixels  crop  mean               top-1  top-5  hash',
        'cait_s24_224.mindcv                             224     1  0.485 0.456 0.406  82.25  95.95  at first use',
        f'1 files; the cache is {cache_folder()}']


def test_the_tool_gets_and_verifies(monkeypatch, capsys):
    """get with an answer to the question that a transcribed hash raises; verify with what the server names."""
    key = 'cait_xxs24_224.timm'
    with serve(status(302, Location='/b', X_Linked_Etag=f'"{SHA256}"'), file(CONTENT)) as server:
        monkeypatch.setenv('CAIT_MIRROR', server.url)
        assert tool.main(['verify', key]) == 1
        assert capsys.readouterr().out.splitlines() == [
            f'failed  {key}: {server.url}/{key}.safetensors: the server names sha256 {SHA256}, the table has '
            f'{find(key).sha256} (transcribed)', '0 of 1 hold']
        assert tool.main(['verify', 'cait_s24_224.timm']) == 0
        assert capsys.readouterr().out.splitlines() == [f'ok      cait_s24_224.timm: answers, {SIZE:,} bytes',
                                                        '1 of 1 hold']
        assert tool.main(['get', key, '--sha256', SHA256]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == str(cache_folder() / f'{key}.safetensors')
    assert tool.main(['verify', key]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == f'ok      {key}: {cache_folder()}/{key}.safetensors: as at first use'
    with serve(status(404)) as server:
        monkeypatch.setenv('CAIT_MIRROR', server.url)
        assert tool.main(['verify', 'xxs24_224', '--source', 'mindcv']) == 1
    assert '404 Not Found, expected a file (CAIT_MIRROR set)' in capsys.readouterr().out


@pytest.mark.parametrize('words, message', [
    (['get'], 'get: found no NAME, expected a model (python -m CaiT.tools.weights list shows all)'),
    (['list', '--source=hf'], "--source: found 'hf', expected one of " + ', '.join(SOURCES)),
    (['list', 'resnet'], 'no weights whose name contains resnet; python -m CaiT.tools.weights list shows all'),
    (['verify', '--sha256=ab'], '--sha256: expected with get and one NAME'),
    (['get', 'x', '--download'], '--download: found with get, expected with verify'),
])
def test_the_tool_refuses(words, message):
    with pytest.raises(InputError) as error:
        tool.main(words)
    assert str(error.value) == message


def test_verify_downloads_and_loads(monkeypatch, capsys):
    """A file of another model and a file of the right one, as small as a model can be."""
    content = save({name: np.zeros(value.shape, 'float32') for name, value in small().state_dict().items()},
                   {'format': 'pd'})
    monkeypatch.setattr(registry, 'create_model', small)
    with serve(file(CONTENT), file(content)) as server:
        monkeypatch.setenv('CAIT_MIRROR', server.url)
        assert tool.main(['verify', 'cait_s24_224.timm', '--download']) == 1
        assert tool.main(['verify', 'cait_s24_384.timm', '--download']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('failed  cait_s24_224.timm: ') and 'names (head.weight, …) match no ' in lines[0]
    assert lines[2].startswith('ok      cait_s24_384.timm: ') and lines[2].endswith('; loads into cait_s24_384')


def small(*_, create_model=registry.create_model, **__):
    return create_model('cait', embed_dim=8, num_heads=2, depth=1, depth_token_only=1, num_classes=2, image_size=16)
