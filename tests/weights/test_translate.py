# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of all sources give the same model; errors are one line."""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import paddle
import pytest

from CaiT.errors import InputError
from CaiT.models.cait import CaiT
from CaiT.models.registry import create_model
from CaiT.models.vit import DeiT, DistilledDeiT, ViT
from CaiT.weights.translate import load_weights
from tests.goldens import rule
from tests.weights import checkpoints as c

TINY = dict(image_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=4, num_classes=4)
GOLDENS = os.environ.get('CAIT_GOLDENS', '')  # folder with the golden checkpoints themselves
FAMILIES = [CaiT, DeiT, ViT, DistilledDeiT]


def logits(model) -> np.ndarray:
    model.eval()
    return model(paddle.to_tensor(rule.noise((2, 3, 32, 32), 0))).numpy()


def golden(name: str) -> np.ndarray:
    return np.load(rule.FOLDER / f'{name}.npz')['logits_f64']


def assert_golden(found: np.ndarray, name: str = 'cait_tiny') -> None:
    assert np.abs(found - golden(name)).max() < 1e-5 * np.abs(golden(name)).max()


def reference(model) -> dict:
    """Generated weights for a model, in PyTorch's layout."""
    return rule.weights({name: p.shape[::-1] if name.endswith('.weight') and p.ndim == 2 else p.shape
                         for name, p in model.state_dict().items()})


def assert_holds(model, torch_arrays: dict, but: tuple = ()) -> None:
    """Every parameter of ``model`` equals the array of its name, bit by bit."""
    expected = c.paddle_layout(torch_arrays)
    for name, parameter in model.state_dict().items():
        if name not in but:
            np.testing.assert_array_equal(parameter.numpy(), expected[name], err_msg=name)


def fails(model, path, **options) -> str:
    """The one-line error of loading; the model must be unchanged."""
    before = {name: p.numpy() for name, p in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(model, path, **options)
    for name, parameter in model.state_dict().items():
        np.testing.assert_array_equal(parameter.numpy(), before[name])
    assert '\n' not in str(caught.value) and str(caught.value).startswith(str(path))
    return str(caught.value)


# --- checkpoint sources ---

def ours(arrays):
    return c.paddle_layout(arrays)


def as_it_is(arrays):
    return arrays


def wrapped(arrays):
    return {f'module._orig_mod.{name}': array for name, array in arrays.items()}


SHIPPED = {
    'ours.pdparams': (ours, c.write_pdparams), 'paddlevit.pdparams': (c.paddlevit, c.write_pdparams),
    'passl.pdparams': (c.passl, c.write_pdparams), 'timm.safetensors': (as_it_is, c.write_safetensors),
    'wrapped.safetensors': (wrapped, c.write_safetensors), 'timm.ckpt': (as_it_is, c.write_ckpt),
    'timm.npz': (as_it_is, c.write_npz),
}


@pytest.mark.parametrize('name', SHIPPED)
def test_every_source_gives_the_golden_logits(tmp_path, name):
    change, write = SHIPPED[name]
    write(tmp_path / name, change(rule.tiny()))
    model = create_model('cait', **TINY)
    report = load_weights(model, tmp_path / name)
    assert_holds(model, rule.tiny())  # proj_l.bias too, which logits cannot see
    assert_golden(logits(model))
    assert report.loaded == report.found == 80
    assert len(report.transposed) == (0 if name.endswith('.pdparams') else 25)
    assert not (report.dropped or report.initial or report.zero_filled or report.resampled or report.converted)


def test_our_own_safetensors(tmp_path):
    path = c.write_safetensors(tmp_path / 'w.safetensors', ours(rule.tiny()), format='pd')
    model = create_model('cait', **TINY)
    assert not load_weights(model, path).transposed
    assert_holds(model, rule.tiny())


def test_mindcv_without_biases_in_attention(tmp_path):
    arrays = c.mindcv(rule.tiny())
    model = create_model('cait', **TINY)
    report = load_weights(model, c.write_ckpt(tmp_path / 'w.ckpt', arrays))
    absent = [f'blocks.{i}.attn.{part}.bias' for i in (0, 1) for part in ('qkv', 'proj', 'proj_l', 'proj_w')]
    absent += [f'blocks_token_only.{i}.attn.{part}.bias' for i in (0, 1) for part in 'qkv']
    assert sorted(report.zero_filled) == sorted(absent)
    assert_holds(model, {**rule.tiny(), **{name: np.zeros_like(rule.tiny()[name]) for name in absent}})
    assert_golden(logits(model), 'cait_tiny_nobias')
    assert (report.found, report.loaded, len(report.renamed)) == (66, 66, 18)
    # A file that has them keeps them.
    full = c.renamed(rule.tiny(), (r'(norm\d?)\.weight$', r'\1.gamma'), (r'(norm\d?)\.bias$', r'\1.beta'))
    assert not load_weights(model, c.write_ckpt(tmp_path / 'full.ckpt', full)).zero_filled
    assert_golden(logits(model))


@pytest.mark.parametrize('model, change', [
    (ViT, lambda a: c.transformers(a, 'vit')), (DistilledDeiT, lambda a: c.transformers(a, 'deit')),
    (ViT, c.paddlevit_vit), (DistilledDeiT, c.paddlevit_vit), (DistilledDeiT, c.passl), (DeiT, ours)])
def test_vit_and_deit_of_every_source(tmp_path, model, change):
    model = model(**TINY)
    arrays = change(reference(model))
    write = c.write_safetensors if any('query' in name for name in arrays) else c.write_pdparams
    path = tmp_path / ('w.safetensors' if write is c.write_safetensors else 'w.pdparams')
    report = load_weights(model, write(path, arrays))
    assert_holds(model, reference(model))
    assert report.loaded == len(model.state_dict())


def test_mindcv_vit_fills_nothing(tmp_path):
    model = ViT(**TINY)
    arrays = c.renamed(reference(model), (r'(norm\d?)\.weight$', r'\1.gamma'), (r'(norm\d?)\.bias$', r'\1.beta'))
    load_weights(model, c.write_ckpt(tmp_path / 'w.ckpt', arrays))
    assert_holds(model, reference(model))
    del arrays['blocks.1.attn.qkv.bias']
    assert 'lacks 1 arrays (blocks.1.attn.qkv.bias)' in fails(model, c.write_ckpt(tmp_path / 'w.ckpt', arrays))


@pytest.mark.skipif(not GOLDENS, reason='CAIT_GOLDENS is not set')
@pytest.mark.parametrize('name', ['cait_tiny.pth', 'cait_tiny_legacy.pth', 'cait_tiny_fbstyle.pth',
                                  'cait_tiny.safetensors', 'cait_tiny_paddlevit.pdparams', 'cait_tiny_passl.pdparams',
                                  'cait_tiny_mindspore_nobias.ckpt'])
def test_golden_checkpoints(name):
    if name.endswith('.pth'):
        pytest.importorskip('torch', reason='the extra "torch" is not installed')
    model = create_model('cait', **TINY, pretrained=Path(GOLDENS) / name)
    nobias = name.endswith('.ckpt')
    assert_golden(logits(model), 'cait_tiny_nobias' if nobias else 'cait_tiny')
    for i in (0, 1):
        bias = rule.tiny()[f'blocks.{i}.attn.proj_l.bias'] * (not nobias)
        np.testing.assert_array_equal(model.blocks[i].attn.proj_l.bias.numpy(), bias)


def test_torch_file(tmp_path):
    torch = pytest.importorskip('torch', reason='the extra "torch" is not installed')
    tensors = {f'module.{name}': torch.from_numpy(array) for name, array in rule.tiny().items()}
    for zipped in (True, False):
        torch.save({'model': tensors}, tmp_path / 'w.pth', _use_new_zipfile_serialization=zipped)
        model = create_model('cait', **TINY, pretrained=tmp_path / 'w')
        assert_holds(model, rule.tiny())


# --- layout ---

def test_a_file_laid_out_against_its_own_convention_is_an_error(tmp_path):
    model = create_model('cait', **TINY)
    text = fails(model, c.write_pdparams(tmp_path / 'w.pdparams', rule.tiny()))
    assert 'blocks.0.attn.qkv.weight is laid out [out, in]' in text
    text = fails(model, c.write_safetensors(tmp_path / 'w.safetensors', ours(rule.tiny())))
    assert 'is laid out [in, out]' in text and "{'format': 'pd'}" in text
    text = fails(model, c.write_safetensors(tmp_path / 'v.safetensors', c.passl(rule.tiny()), format='pt'))
    assert 'is laid out [in, out]' in text and 'mean [out, in]' in text


# --- another number of patches ---

@pytest.mark.parametrize('model', FAMILIES)
@pytest.mark.parametrize('old, new', [(4, 6), (6, 4)])
def test_position_embeddings_are_resampled(tmp_path, model, old, new):
    shape = dict(patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=4)
    arrays = reference(model(image_size=8 * old, **shape))
    target = model(image_size=8 * new, **shape)
    report = load_weights(target, c.write_safetensors(tmp_path / 'w.safetensors', arrays))
    prefix = {CaiT: 0, DistilledDeiT: 2}.get(model, 1)
    torch = np.load(rule.FOLDER / 'bicubic.npz')[f'{prefix}_{old}_{new}']
    found = target.pos_embed.numpy()
    np.testing.assert_array_equal(found[:, :prefix], arrays['pos_embed'][:, :prefix])
    np.testing.assert_allclose(found, torch, atol=3e-6 * np.abs(torch).max())
    assert report.resampled == [f'pos_embed {old}x{old} -> {new}x{new} patches']
    assert_holds(target, arrays, but=('pos_embed',))


def test_a_position_embedding_that_is_no_square_is_an_error(tmp_path):
    arrays = rule.tiny()
    arrays['pos_embed'] = arrays['pos_embed'][:, :3]
    path = c.write_safetensors(tmp_path / 'w.safetensors', arrays)
    assert "the file's pos_embed has 3 patch rows" in fails(create_model('cait', **TINY), path)


def test_another_patch_size_is_an_error(tmp_path):
    path = c.write_safetensors(tmp_path / 'w.safetensors', rule.tiny())
    text = fails(create_model('cait', **{**TINY, 'patch_size': 8}), path, strict=False)
    assert '[48, 3, 16, 16], the model needs [48, 3, 8, 8]: weights of another patch size' in text


# --- another number of classes ---

@pytest.mark.parametrize('model', FAMILIES)
@pytest.mark.parametrize('classes', [10, 0])
def test_another_number_of_classes_drops_the_heads(tmp_path, model, classes):
    arrays = reference(model(**{**TINY, 'num_classes': 1000}))
    target = model(**{**TINY, 'num_classes': classes})
    before = {name: p.numpy() for name, p in target.state_dict().items()}
    report = load_weights(target, c.write_safetensors(tmp_path / 'w.safetensors', arrays))
    heads = [f'{head}.{kind}' for head in target.classifiers for kind in ('weight', 'bias')]
    assert report.dropped == heads and report.initial == (heads if classes else [])
    assert_holds(target, arrays, but=tuple(heads))
    for name in report.initial:
        np.testing.assert_array_equal(target.state_dict()[name].numpy(), before[name])
    note = f'the file is for 1000 classes, the model for {classes or "none (it has no head)"}'
    assert report.notes == [note] and f'  note: {note}' in report.lines()
    assert f'  dropped, {len(heads)}: {", ".join(heads)}' in report.lines()


def test_both_heads_are_dropped_together(tmp_path):
    arrays = reference(DistilledDeiT(**TINY))
    arrays['head_dist.weight'], arrays['head_dist.bias'] = np.zeros((7, 48), 'f'), np.zeros(7, 'f')
    report = load_weights(DistilledDeiT(**TINY), c.write_safetensors(tmp_path / 'w.safetensors', arrays))
    assert report.dropped == report.initial == ['head.weight', 'head.bias', 'head_dist.weight', 'head_dist.bias']


# --- another model ---

def test_other_models_are_one_line(tmp_path):
    path = c.write_safetensors(tmp_path / 'w.safetensors', rule.tiny())
    text = fails(create_model('cait', **{**TINY, 'depth': 4}), path)
    assert 'it lacks 36 arrays (blocks.2-3.gamma_1, blocks.2-3.gamma_2, blocks.2-3.norm1.weight, …)' in text
    assert 'MODEL.STRICT False' in text
    text = fails(create_model('cait', **{**TINY, 'depth': 1}), path)
    assert 'it has in excess 18 arrays (blocks.1.' in text
    text = fails(create_model('cait', **{**TINY, 'embed_dim': 32}), path)
    assert 'cls_token is [1, 1, 48], the model needs [1, 1, 32] (and 70 more)' in text
    assert fails(ViT(**TINY), path).startswith(
        f'{path}: is not of this model: the file holds a CaiT of width 48, depth 2 + 2, patch size 16, image size 32, '
        '4 classes and fits no registered model, the model is a ViT or DeiT of width 48, depth 2, patch size 16, image '
        'size 32, 4 classes (MODEL.NAME, -cfg or model=); it has in excess 48 arrays (')
    other = c.write_safetensors(tmp_path / 'o.safetensors', {'conv1.weight': np.zeros((8, 3, 7, 7), 'f')})
    assert '(conv1.weight, …) match no known checkpoint source' in fails(ViT(**TINY), other)


def test_not_strict_loads_what_fits(tmp_path):
    arrays = {**rule.tiny(), 'extra': np.ones(3, np.float32)}
    del arrays['blocks.1.mlp.fc1.bias']
    path = c.write_safetensors(tmp_path / 'w.safetensors', arrays)
    model = create_model('cait', **TINY)
    fails(model, path)
    report = load_weights(model, path, strict=False)
    assert (report.initial, report.dropped, report.loaded) == (['blocks.1.mlp.fc1.bias'], ['extra'], 79)
    assert_holds(model, arrays, but=('blocks.1.mlp.fc1.bias',))
    assert not model.blocks[1].mlp.fc1.bias.numpy().any()  # its initialization
    nothing = c.write_safetensors(tmp_path / 'n.safetensors', {'patch_embed.proj.x': np.ones(1, 'f')})
    assert 'has no array of this model' in fails(model, nothing, strict=False)


def test_distilled_and_undistilled(tmp_path):
    plain, distilled = reference(DeiT(**TINY)), reference(DistilledDeiT(**TINY))
    path = c.write_safetensors(tmp_path / 'd.safetensors', distilled)
    model = DeiT(**TINY)
    assert 'the file is distilled, the model is not' in fails(model, path)
    report = load_weights(model, path, strict=False)
    assert sorted(report.dropped) == ['dist_token', 'head_dist.bias', 'head_dist.weight', 'pos_embed row 1']
    np.testing.assert_array_equal(model.pos_embed.numpy(), np.delete(distilled['pos_embed'], 1, axis=1))
    path = c.write_safetensors(tmp_path / 'p.safetensors', plain)
    model = DistilledDeiT(**TINY)
    assert 'the model is distilled, the file is not' in fails(model, path)
    report = load_weights(model, path, strict=False)
    assert sorted(report.initial) == ['dist_token', 'head_dist.bias', 'head_dist.weight']
    assert report.zero_filled == ['pos_embed row 1'] and report.loaded == report.found
    np.testing.assert_array_equal(model.pos_embed.numpy(), np.insert(plain['pos_embed'], 1, 0, axis=1))


def test_two_keys_for_one_name_are_an_error(tmp_path):
    arrays = {**rule.tiny(), 'module.norm.bias': np.zeros(48, 'f')}
    path = c.write_safetensors(tmp_path / 'w.safetensors', arrays)
    assert 'norm.bias' in fails(create_model('cait', **TINY), path, strict=False)
    arrays = c.transformers(reference(ViT(**TINY)), 'vit')
    del arrays['vit.encoder.layer.0.attention.attention.key.bias']
    path = c.write_safetensors(tmp_path / 'v.safetensors', arrays)
    assert 'expected' in fails(ViT(**TINY), path)


@pytest.mark.parametrize('shape', [(), (5,), (1, 2, 3)])
def test_arrays_of_odd_shapes_are_one_line(tmp_path, shape):
    odd = np.zeros(shape, 'f')
    for name in ('head.weight', 'head.bias', 'pos_embed', 'cls_token', 'blocks.0.attn.qkv.weight', 'norm.weight',
                 'patch_embed.proj.weight'):
        arrays = {**rule.tiny(), name: odd}
        for strict in (True, False):
            fails(create_model('cait', **TINY), c.write_npz(tmp_path / 'w.npz', arrays), strict=strict)
        fails(create_model('cait', **TINY), c.write_ckpt(tmp_path / 'w.ckpt', c.mindcv(arrays)))
    arrays = c.transformers(reference(ViT(**TINY)), 'vit')
    arrays['vit.encoder.layer.0.attention.attention.key.weight'] = odd
    assert 'differ in shape' in fails(ViT(**TINY), c.write_npz(tmp_path / 'w.npz', arrays))


# --- types ---

def test_half_precision_files_and_models(tmp_path):
    half = {name: array.astype(np.float16) for name, array in rule.tiny().items()}
    path = c.write_safetensors(tmp_path / 'w.safetensors', half)
    model = create_model('cait', **TINY)
    report = load_weights(model, path)
    assert_holds(model, {name: array.astype(np.float32) for name, array in half.items()})
    assert len(report.converted) == 80 and report.converted[0][1] == 'float16 to float32'
    model = create_model('cait', **TINY).to(dtype='bfloat16')
    load_weights(model, c.write_safetensors(tmp_path / 'v.safetensors', rule.tiny()))
    assert model.norm.weight.dtype == paddle.bfloat16
    expected = paddle.to_tensor(rule.tiny()['norm.weight']).astype('bfloat16').astype('float32').numpy()
    np.testing.assert_array_equal(model.norm.weight.astype('float32').numpy(), expected)


def test_integer_weights_are_an_error(tmp_path):
    arrays = {**rule.tiny(), 'head.bias': np.arange(4)}
    path = c.write_safetensors(tmp_path / 'w.safetensors', arrays)
    assert 'head.bias holds int64' in fails(create_model('cait', **TINY), path)


# --- published weights ---

@pytest.mark.skipif(not os.environ.get('CAIT_REAL_DATA'), reason='CAIT_REAL_DATA is not set')
def test_published_vit_tiny():
    folder = Path(os.environ['CAIT_REAL_DATA']) / 'weights'
    model = create_model('vit_tiny_patch16_224', image_size=384, num_classes=10)
    report = load_weights(model, folder / 'vit_tiny_patch16_224_augreg_in21k_ft_in1k')
    assert (report.found, report.loaded, report.dropped) == (152, 150, ['head.weight', 'head.bias'])
    assert report.resampled == ['pos_embed 14x14 -> 24x24 patches']
