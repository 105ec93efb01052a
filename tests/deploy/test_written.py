# SPDX-License-Identifier: Apache-2.0
"""What an export leaves: all of it or nothing, never a mixture that loads; and metadata that is not to be trusted."""
from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import small, small_data

from CaiT.deploy import export as export_module
from CaiT.deploy import folder as folder_module
from CaiT.deploy import metadata
from CaiT.deploy.engines import Options
from CaiT.deploy.export import export
from CaiT.deploy.folder import locked
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [('paddle', 'fp32', 'float'), ('paddle', 'fp32', 'uint8')]
OLD, NEW = ({'file': 'w', 'sha256': digit * 64} for digit in '01')
FULL = OSError(errno.ENOSPC, 'No space left on device')


def snapshot(folder: Path) -> dict:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def made(cait, checks, tmp_path_factory):
    folder = tmp_path_factory.mktemp('made') / 'm'
    export(cait, folder, 'x', small_data(), checks, OLD, TARGETS)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / 'm'))


@pytest.fixture(scope='module')
def other(checks, tmp_path_factory):
    """The export of another model of the same shape."""
    from small_models import randomized
    folder = tmp_path_factory.mktemp('other')
    export(randomized(small('cait'), 1), folder, 'x', small_data(), checks, NEW, TARGETS)
    return folder


@pytest.mark.slow
def test_every_mixture_is_refused(made, other, copy):
    """Whatever of the new export has arrived when it is killed: what loads is the old model or the new one."""
    names = sorted(path.name for path in other.iterdir())
    assert len(names) == 5
    for chosen in range(1, 2 ** len(names) - 1):
        for place, name in enumerate(names):
            shutil.copy((other if chosen >> place & 1 else made) / name, copy)
        for kind in ('float', 'uint8'):
            try:
                predictor = Predictor(str(copy), 'paddle', Options(input=kind))
            except InputError as error:
                assert 'not of one export' in str(error)
                continue
            source = made if predictor.meta.weights == OLD else other
            images = np.zeros((1, *predictor.input_shape), np.uint8 if kind == 'uint8' else np.float32)
            expected = Predictor(str(source), 'paddle', Options(input=kind)).logits(images)
            assert np.array_equal(predictor.logits(images), expected)


@pytest.mark.parametrize('number', [3, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 5))])
def test_killed_between_renames(copy, cait, checks, number):
    """The process ends at the n-th rename; the next export sweeps what it left."""
    code = ('import os, sys; sys.path[:0] = ["tests/deploy", "."]\n'
            'from small_models import randomized, small, small_data\n'
            'from CaiT.deploy import parity\nfrom CaiT.deploy.export import export\n'
            'replace, count = os.replace, [0]\n'
            'def killed(*names):\n    count[0] += 1\n'
            f'    if count[0] == {number}: os.kill(os.getpid(), 9)\n    replace(*names)\n'
            'os.replace = killed\n'
            f'export(randomized(small("cait"), 1), sys.argv[1], "x", small_data(), parity.synthetic(small_data(), 7), '
            f'{NEW!r}, {TARGETS!r})')
    done = subprocess.run([sys.executable, '-c', code, str(copy)], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -9
    assert [path.name for path in copy.parent.iterdir()] == ['m']
    assert [path for path in copy.iterdir() if path.name.startswith('.export.')]
    if number > 1:  # the graph alone may be the same, the weights are not
        with pytest.raises(InputError, match='not of one export'):
            Predictor(str(copy), 'paddle', Options())
    export(cait, copy, 'x', small_data(), checks, OLD, TARGETS)
    assert sorted(snapshot(copy)) == sorted(['inference.json', 'inference.pdiparams', 'inference_uint8.json',
                                             'inference_uint8.pdiparams', 'metadata.json'])


def test_files_of_a_killed_export_are_not_taken_over(copy, other, cait, checks):
    shutil.copy(other / 'inference_uint8.pdiparams', copy)
    made = export(cait, copy, 'x', small_data(), checks, OLD, TARGETS[:1])
    assert [one.key for one in made.artifacts] == TARGETS[:1]
    assert not (copy / 'inference_uint8.pdiparams').exists()


def test_one_export_at_a_time(copy, cait, checks):
    before = snapshot(copy)
    with locked(copy), pytest.raises(InputError, match='m: another export is writing here'):
        export(cait, copy, 'x', small_data(), checks, NEW, TARGETS)
    assert snapshot(copy) == before


@pytest.mark.parametrize('name, place', [('inference.pdiparams', 0), ('inference.pdiparams', 5000),
                                         ('inference.json', 150)])
def test_a_changed_byte_is_seen(copy, name, place):
    data = bytearray((copy / name).read_bytes())
    data[place] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(InputError, match=f'{name}: its content is not what metadata.json beside it describes'):
        Predictor(str(copy), 'paddle', Options())


def test_exports_without_checksums_still_load(copy):
    values = json.loads((copy / metadata.FILE).read_text(encoding='utf-8'))
    del values['sha256']
    (copy / metadata.FILE).write_text(json.dumps(values), encoding='utf-8')
    assert Predictor(str(copy), 'paddle', Options()).logits(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)


def files(*names):
    return lambda m: m['artifacts'][0].update(files={name: 4 for name in names})


def data(**values):
    return lambda m: m['data'].update(values)


BAD = {
    'line end': (files('a\nb.json'), "files: found 'a.nb.json', expected the names of files in this folder"),
    '../x': (files('../x'), r"files: found '\.\./x', expected the names of files in this folder"),
    'absolute': (files('/etc/passwd'), "files: found '/etc/passwd', expected the names"),
    'backslash': (files('..\\x'), 'files: found .* expected the names'),
    'dots': (files('..'), "files: found '..', expected the names"),
    'NUL': (files('a\0b'), 'files: found .* expected the names'),
    'long': (files('a' * 256), 'files: found .* expected the names'),
    'long in bytes': (files('\u4e2d' * 86), 'files: found .* expected the names'),
    'no files': (files(), 'files of paddle/fp32/float: found none'),
    'without the graph': (files('inference.pdiparams'), 'found the files inference.pdiparams for paddle, expected one '
                          'each that ends in .json, .pdiparams'),
    'weights first': (files('inference.pdiparams', 'inference.json'), 'found the files .* expected one each'),
    'size of a file': (lambda m: m['artifacts'][0].update(files={'inference.json': 'x'}), "found 'x', expected int"),
    'artifacts': (lambda m: m.update(artifacts={}), 'artifacts: found {}, expected list'),
    'artifact': (lambda m: m.update(artifacts=[3]), 'artifacts: found 3, expected dict'),
    'names': (lambda m: m.update(class_names=['a'] * 9), 'class_names: found 9, expected num_classes, 10'),
    'type of names': (lambda m: m.update(class_names=list(range(10))), 'class_names: .* found 0, expected str'),
    'classes': (lambda m: m.update(num_classes=True), 'num_classes: found True, expected int'),
    'no classes': (lambda m: m.update(num_classes=0), 'num_classes: found 0, expected 1 to'),
    'many classes': (lambda m: m.update(num_classes=10 ** 30), 'num_classes: found 1000'),
    'model': (lambda m: m.update(model=None), 'model: found None, expected str'),
    'weights': (lambda m: m.update(weights={}), "no 'file'"),
    'checksums': (lambda m: m.update(sha256=[1]), r'sha256: found \[1\], expected dict'),
    'size': (data(image_size=10 ** 9), 'image_size: found 1000000000, expected 1 to 16384'),
    'float size': (data(image_size=32.0), 'image_size: found 32.0, expected int'),
    'crop': (data(crop_pct='1'), "crop_pct: found '1', expected a number"),
    'NaN': (data(mean=[float('nan')] * 3), 'not JSON: NaN is no number'),
    'Infinity': (data(std=[1, 1, float('inf')]), 'not JSON: Infinity is no number'),
    'large': (data(mean=[0.5, 1e38, 0.5]), r'mean: found .*1e\+38'),
    'negative': (data(std=[0.5, -0.5, 0.5]), 'std: found .*-0.5'),
    'zero': (data(std=[0, 0.5, 0.5]), 'std: found .*, expected numbers from 0.001'),
    'no number': (data(std=[0.5, '1', 0.5]), "std: found '1', expected a number"),
    'two': (data(mean=[0.5, 0.5]), 'mean: found .*expected'),
    'text': (data(mean='0.5'), "mean: found '0.5', expected list"),
    'another key': (lambda m: m.update({'\nput': 1}), r"found the key '\\nput', expected model, num_classes, data, "),
    'key of an artifact': (lambda m: m['artifacts'][0].update({'\u2028put': 1}),
                           r"found the key '\\u2028put', expected engine, precision, input, files, parity"),
    'long key': (lambda m: m.update(attention={'x' * 9999: 1, 'parity': {}}),
                 "found the key 'x{59}…, expected engine, "),
    'long keys of data': (data(**{'\nx' * 999: 1}), r"found keys \['\\nx.{190,196}…, expected \['crop_pct', "),
    'no engine': (lambda m: m['artifacts'][0].pop('engine'), r"\(no 'engine'\)"),
    'no versions': (lambda m: m.pop('versions'), r"\(no 'versions'\)"),
}


@pytest.mark.parametrize('case', BAD)
def test_metadata_that_cannot_be(copy, case):
    change, message = BAD[case]
    values = json.loads((copy / metadata.FILE).read_text(encoding='utf-8'))
    change(values)
    (copy / metadata.FILE).write_text(json.dumps(values), encoding='utf-8')
    with pytest.raises(InputError, match=message) as error:
        Predictor(str(copy), 'paddle', Options())
    assert str(copy / metadata.FILE) in str(error.value) and '\n' not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize('text', ['', '[]', '3', '{"format": 1', '[' * 200_000, '{"format": ' + '9' * 5000 + '}',
                                  '{"format": 2}'])
def test_metadata_that_is_no_metadata(tmp_path, text):
    (tmp_path / metadata.FILE).write_text(text, encoding='utf-8')
    with pytest.raises(InputError, match='metadata.json: not the metadata of an exported model'):
        metadata.read(tmp_path)


def test_nothing_outside_is_removed(copy, cait, checks):
    """Nor a file inside that no export has written."""
    (copy.parent / 'precious.json').write_text('mine', encoding='utf-8')
    (copy / 'notes.txt').write_text('mine', encoding='utf-8')
    values = json.loads((copy / metadata.FILE).read_text(encoding='utf-8'))
    good = values['artifacts'][0]['files']
    values['artifacts'][0]['files'] = {**good, '../precious.json': 4}
    (copy / metadata.FILE).write_text(json.dumps(values), encoding='utf-8')
    with pytest.raises(InputError, match='not the metadata'):
        export(cait, copy, 'x', small_data(), checks, NEW, TARGETS[:1])
    values['artifacts'][0]['files'] = {**good, 'notes.txt': 4}
    (copy / metadata.FILE).write_text(json.dumps(values), encoding='utf-8')
    export(cait, copy, 'x', small_data(), checks, NEW, TARGETS[:1])
    assert (copy.parent / 'precious.json').is_file() and (copy / 'notes.txt').read_text(encoding='utf-8') == 'mine'
    assert not (copy / 'inference_uint8.json').exists()


@pytest.mark.parametrize('where', ['file', 'file/x', 'new/deep/file'])
def test_a_folder_that_cannot_be(cait, checks, tmp_path, where):
    target = tmp_path / where
    (tmp_path / 'file').write_text('x', encoding='utf-8')
    if where.startswith('new'):
        (tmp_path / 'new/deep').mkdir(parents=True)
        target.write_text('x', encoding='utf-8')
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=f'{where}: cannot be written: (File exists|Not a directory)'):
        export(cait, target, 'x', small_data(), checks, NEW, TARGETS[:1])
    assert snapshot(tmp_path) == before


def test_a_folder_in_a_files_place(copy, cait, checks):
    (copy / 'inference.json').unlink()
    (copy / 'inference.json').mkdir()
    before = snapshot(copy)
    with pytest.raises(InputError, match='inference.json: found a folder where a file is to be written'):
        export(cait, copy, 'x', small_data(), checks, NEW, TARGETS[:1])
    assert snapshot(copy) == before


def test_a_users_folders_and_fifos_stay(copy, cait, checks):
    """What an earlier export left is known by its name; what is no file is not replaced by one."""
    (copy / '.export.notes.tmp').mkdir()
    (copy / '.export.0a_zzzzz.tmp').mkdir()
    export(cait, copy, 'x', small_data(), checks, NEW, TARGETS[:1])
    assert [path.name for path in copy.glob('.*')] == ['.export.notes.tmp']
    (copy / 'inference.pdiparams').unlink()
    os.mkfifo(copy / 'inference.pdiparams')
    before = snapshot(copy)
    with pytest.raises(InputError, match='inference.pdiparams: is no regular file$'):
        export(cait, copy, 'x', small_data(), checks, NEW, TARGETS[:1])
    assert snapshot(copy) == before and (copy / 'inference.pdiparams').is_fifo()


@pytest.mark.parametrize('place', ['write', 'space', 'metadata', 'rename'])
def test_a_full_disk_is_one_line(copy, cait, checks, monkeypatch, place):
    """Wherever it is noticed; the export that was there stays."""
    def full(*_, **__):
        raise FULL

    def blames_another(*_, **__):
        monkeypatch.setattr(export_module, 'check_space', full)
        raise RuntimeError('(Unavailable) Cannot open this file')
    if place == 'write':
        monkeypatch.setattr(paddle.jit, 'save', blames_another)
    elif place == 'space':
        monkeypatch.setattr(export_module, 'check_space', full)
    elif place == 'metadata':
        monkeypatch.setattr(metadata.Metadata, 'write', full)
    else:
        monkeypatch.setattr(folder_module.os, 'fsync', full)
    before = snapshot(copy)
    for target in (copy, copy.parent / 'new'):
        with pytest.raises(InputError, match=f'{target.name}.*: cannot be written: No space left on device'):
            export(cait, target, 'x', small_data(), checks, NEW, TARGETS)
    assert snapshot(copy) == before and os.listdir(copy.parent) == ['m']


def test_a_model_that_cannot_be_traced_is_said(cait, checks, tmp_path, monkeypatch):
    monkeypatch.setattr(paddle.jit, 'save', lambda *_, **__: (_ for _ in ()).throw(TypeError('no such operation')))
    with pytest.raises(InputError, match=r'--backend paddle: cannot write this model \(no such operation\)'):
        export(cait, tmp_path / 'm', 'x', small_data(), checks, NEW, TARGETS)
    assert not (tmp_path / 'm').exists()
