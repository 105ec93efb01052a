# SPDX-License-Identifier: Apache-2.0
"""The weight converter: exact round trips and errors."""
from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from CaiT.errors import InputError
from CaiT.models.registry import create_model
from CaiT.tools import convert_weights
from CaiT.weights.readers import read
from tests.goldens import rule
from tests.weights import checkpoints as c

ROOT = Path(__file__).parents[2]


def same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def format_of(path):
    with safe_open(str(path), framework='np') as file:
        return file.metadata()['format']


@pytest.mark.parametrize('suffix', ['.pdparams', '.safetensors'])
@pytest.mark.parametrize('source_name', ['timm', 'paddlevit', 'passl'])
def test_round_trip_is_exact(tmp_path, source_name, suffix):
    arrays = rule.tiny()
    if source_name == 'timm':
        source = c.write_safetensors(tmp_path / 'in.safetensors', arrays)
    else:
        source = c.write_pdparams(tmp_path / 'in.pdparams', getattr(c, source_name)(arrays))
    content = source.read_bytes()
    ours, back = tmp_path / f'ours{suffix}', tmp_path / 'new' / 'timm.safetensors'
    convert_weights.convert(str(source), str(ours))
    same(read(ours), c.paddle_layout(arrays))
    convert_weights.convert(str(ours), str(back), to='timm')
    same(read(back), arrays)
    assert format_of(back) == 'pt' and (suffix == '.pdparams' or format_of(ours) == 'pd')
    assert source.read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source.name, ours.name, 'new'])  # nothing temporary


def test_half_precision_stays_half(tmp_path):
    half = {name: array.astype(np.float16) for name, array in rule.tiny().items()}
    convert_weights.convert(c.write_safetensors(tmp_path / 'in.safetensors', half), tmp_path / 'out.pdparams')
    same(read(tmp_path / 'out'), c.paddle_layout(half))


def test_paddle_reads_what_is_written(tmp_path):
    import paddle
    shape = dict(image_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=4, num_classes=4)
    source = c.write_ckpt(tmp_path / 'in.ckpt', c.mindcv(rule.tiny()))
    report = convert_weights.convert(str(source), str(tmp_path / 'out.pdparams'))
    assert len(report.zero_filled) == 14
    model, ours = create_model('cait', **shape), create_model('cait', **shape, pretrained=source)
    assert model.set_state_dict(paddle.load(str(tmp_path / 'out.pdparams'))) == ([], [])
    for name, parameter in model.state_dict().items():
        np.testing.assert_array_equal(parameter.numpy(), ours.state_dict()[name].numpy())


def test_weights_are_checked_against_and_adapted_to_a_model(tmp_path):
    model = create_model('deit_tiny_distilled_patch16_224', num_classes=7)
    arrays = rule.weights({name: p.shape for name, p in model.state_dict().items()})
    source = c.write_pdparams(tmp_path / 'in.pdparams', arrays)
    out = tmp_path / 'out.safetensors'
    report = convert_weights.convert(str(source), str(out), 'deit_tiny_distilled_patch16_224')
    assert report.loaded == len(arrays)
    same(read(out), arrays)
    arrays['pos_embed'] = rule.value('pos_embed', (1, 2 + 49, 192))
    report = convert_weights.convert(c.write_pdparams(source, arrays), str(out), 'deit_tiny_distilled_patch16_224',
                                     force=True)
    assert report.resampled == ['pos_embed 7x7 -> 14x14 patches'] and read(out)['pos_embed'].shape == (1, 198, 192)
    out.unlink()
    out.symlink_to('nowhere')
    with pytest.raises(InputError, match=r'out\.safetensors: exists already; name another file$'):
        convert_weights.convert(str(source), str(out))
    out.unlink()
    fits = 'fits deit_tiny_distilled_patch16_224, the model is'
    for name, reason in (('deit_tiny_patch16_224', 'the file is distilled'), ('nonsense', 'not known'),
                         ('cait_xxs24', rf'{fits} cait_xxs24_224 \(MODEL.NAME, -cfg or model=\); it lacks'),
                         ('deit_tiny', f'{fits} deit_tiny_patch16_224 ')):
        with pytest.raises(InputError, match=reason):
            convert_weights.convert(str(source), str(out), name)
    assert not out.exists()


def test_invalid_outputs(tmp_path):
    source = c.write_safetensors(tmp_path / 'in.safetensors', rule.tiny())
    content = source.read_bytes()
    (tmp_path / 'link.safetensors').symlink_to(source)
    for target, options, reason in (
            ('in.safetensors', {}, 'the input itself'), ('link.safetensors', {}, 'the input itself'),
            ('out.pth', {}, 'expected .pdparams or .safetensors'), ('out', {}, 'expected .pdparams or .safetensors'),
            ('out.pdparams', {'to': 'timm'}, 'expected .safetensors')):
        with pytest.raises(InputError, match=reason):
            convert_weights.convert(str(source), str(tmp_path / target), **options)
    with pytest.raises(InputError, match='the input itself'):  # the extension may be left out
        convert_weights.convert(str(tmp_path / 'in'), str(source))
    assert source.read_bytes() == content and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('dtype', [np.longdouble, np.complex128])
@pytest.mark.parametrize('suffix', ['.safetensors', '.pdparams'])
def test_numbers_that_a_format_does_not_have(tmp_path, dtype, suffix):
    """safetensors ended in a traceback."""
    arrays = {name: one.T if one.ndim == 2 else one for name, one in rule.tiny().items()}  # Linears of Paddle
    arrays['norm.bias'] = arrays['norm.bias'].astype(dtype)
    (tmp_path / 'in.pdparams').write_bytes(pickle.dumps(arrays, 4))
    with pytest.raises(InputError, match=f'^norm.bias: holds {np.dtype(dtype)}, expected numbers of at most 64 bits$'):
        convert_weights.convert(str(tmp_path / 'in'), str(tmp_path / f'out{suffix}'))
    assert [path.name for path in tmp_path.iterdir()] == ['in.pdparams']


def test_an_output_that_differs_after_reading_is_not_written(tmp_path, monkeypatch):
    source = c.write_safetensors(tmp_path / 'in.safetensors', rule.tiny())
    target = tmp_path / 'out.pdparams'
    target.write_bytes(b'what stood here before')

    def faulty(file, suffix, arrays, layout, data):
        write(file, suffix, {**arrays, 'norm.bias': arrays['norm.bias'] + np.float32(1e-7)}, layout)
    write = convert_weights.write
    monkeypatch.setattr(convert_weights, 'write', faulty)
    with pytest.raises(InputError, match=r'norm.bias read again is not what was written \(1 in all\)'):
        convert_weights.convert(str(source), str(target), force=True)
    assert target.read_bytes() == b'what stood here before' and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('options, suffix, line', [
    ([], '.safetensors', "  layout: Paddle's, Linear [in, out]; timm and PyTorch need --to timm"),
    ([], '.pdparams', "  layout: Paddle's, Linear [in, out]; timm and PyTorch need --to timm"),
    (['--to', 'timm'], '.safetensors', "  layout: PyTorch's, Linear [out, in], for timm and PyTorch")])
def test_the_layout_that_is_written_is_said(tmp_path, capsys, options, suffix, line):
    source, out = c.write_safetensors(tmp_path / 'in.safetensors', rule.tiny()), tmp_path / f'out{suffix}'
    assert convert_weights.main([str(source), str(out), *options]) == 0
    *_, layout, written = capsys.readouterr().out.splitlines()
    assert layout == line and written.startswith('written and read again, equal: ')


def test_by_module_and_by_path(tmp_path):
    source = c.write_safetensors(tmp_path / 'in.safetensors', rule.tiny())
    script = str(ROOT / 'CaiT' / 'tools' / 'convert_weights.py')
    for command, folder in (([sys.executable, '-m', 'CaiT.tools.convert_weights'], ROOT),
                            ([sys.executable, script], tmp_path)):
        out = tmp_path / f'{folder.name}.safetensors'
        run = subprocess.run([*command, str(source), str(out), '--to=timm'], cwd=folder, capture_output=True, text=True)
        assert run.returncode == 0 and run.stderr == '', run.stderr
        assert f'written and read again, equal: {out}' in run.stdout and 'transposed, 25' in run.stdout
        same(read(out), rule.tiny())
    run = subprocess.run([*command, str(tmp_path / 'no'), str(out)], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count('\n') == 1 and 'no such file' in run.stderr
