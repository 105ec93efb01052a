# SPDX-License-Identifier: Apache-2.0
"""A CaiT grown from a ViT: what must be equal is equal by value, and the printed command fits what was written."""
from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from CaiT.config import build_model, get_config
from CaiT.data.transforms import DataConfig, eval_transform
from CaiT.errors import InputError
from CaiT.main_single_gpu import parse
from CaiT.models.registry import HALF, create_model
from CaiT.tools import vit_to_cait
from CaiT.training import checkpoint

# A ViT of three heads in four blocks, a distilled DeiT of another shape, and one without biases and of one channel.
VITS = {
    'vit': ('vit', dict(embed_dim=48, depth=4, num_heads=3, patch_size=8, image_size=32, num_classes=7)),
    'distilled': ('deit_tiny_distilled_patch16_224',
                  dict(embed_dim=32, depth=3, num_heads=2, patch_size=4, image_size=16, num_classes=5, mlp_ratio=2.0)),
    'headless': ('vit', dict(embed_dim=24, depth=3, num_heads=4, patch_size=8, image_size=24, num_classes=0,
                             qkv_bias=False, in_channels=1)),
}


@pytest.fixture(params=VITS)
def vit(request, tmp_path):
    """(a ViT in eval mode with random parameters, its file)."""
    name, arguments = VITS[request.param]
    paddle.seed(3)
    model = create_model(name, **arguments)
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    model.eval()
    checkpoint.write_weights(tmp_path / 'vit.pdparams', checkpoint.weights(model))
    return model, str(tmp_path / 'vit.pdparams')


def grown(vit, **options):
    """(the CaiT that the printed command builds, lines)."""
    model, file = vit
    target = str(Path(file).with_name('grown.pdparams'))
    lines = vit_to_cait.convert(file, target, num_heads=model.blocks[0].attn.num_heads, **options)
    words = shlex.split(lines[-1].replace('NUMBER', str(model.num_classes or 3)))
    flags = {key: value for key, value in parse(words[2:]).items() if value is not None}
    for name in ('eval', 'pred'):
        assert flags.pop(name) is False
    cait = build_model(get_config(flags.pop('cfg'), flags.pop('opts'), **flags))
    cait.eval()
    return cait, lines


def images_of(model, count=2):
    paddle.seed(5)
    channels, size = model.patch_embed.proj.weight.shape[1], model.default_cfg['image_size']
    return paddle.randn([count, channels, size, size])


@pytest.mark.parametrize('depth', [0, 1, 3])
def test_first_stage_is_the_vit_on_patches_alone(vit, depth):
    cait, _ = grown(vit, depth=depth)
    model, _ = vit
    depth = depth or len(model.blocks) - 2
    x = images_of(model)
    patches = model.patch_embed(x) + model.pos_embed[:, len(model.prefix):]
    for block in model.blocks[:depth]:
        patches = block(patches)
    assert len(cait.blocks) == depth
    np.testing.assert_allclose(cait.encode(x)[1].numpy(), patches.numpy(), atol=2e-5)


@pytest.mark.parametrize('count', [1, 2])
def test_class_stage_is_the_vits_last_blocks_for_the_class_token(vit, count):
    cait, _ = grown(vit, depth=1, depth_token_only=count)
    model, _ = vit
    paddle.seed(7)
    cls, patches = paddle.randn([2, 1, model.num_features]), paddle.randn([2, 9, model.num_features])
    assert len(cait.blocks_token_only) == count
    for block, original in zip(cait.blocks_token_only, model.blocks[-count:]):
        expected = original(paddle.concat([cls, patches], axis=1))[:, :1]
        cls = block(cls, patches)
        np.testing.assert_allclose(cls.numpy(), expected.numpy(), atol=2e-5)
    if model.num_classes:
        features = paddle.randn([2, 1, model.num_features])
        np.testing.assert_allclose(cait.forward_head(cait.norm(features)).numpy(),
                                   model.head(model.norm(features))[:, 0].numpy(), atol=1e-6)


def test_class_token_of_a_gray_image(vit):
    cait, lines = grown(vit, depth_token_only=2)
    model, _ = vit
    before = len(model.blocks) - 2
    token = model.forward_intermediates(images_of(model, 1) * 0).features[before - 1][:, :1]
    np.testing.assert_allclose(cait.cls_token.numpy(), token.numpy(), atol=1e-5)
    assert lines[1] == (f"  class token: the ViT's before block {before}, for a gray image (--images FOLDER: a better "
                        'start)')
    assert lines[-2] == "  lost: the class token's part of the attention in the first stage; fine-tune before use:"


@pytest.mark.parametrize('available, used', [(2, 2), (65, 33)])
@pytest.mark.parametrize('vit', ['vit', 'distilled'], indirect=True)
def test_class_token_averaged_over_images(vit, tmp_path, available, used):
    (tmp_path / 'images').mkdir()
    rng = np.random.default_rng(0)
    for index in range(available):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / f'images/{index:03}.png')
    cait, lines = grown(vit, images=str(tmp_path / 'images'), depth_token_only=1)
    model, _ = vit
    assert f'averaged over {used} images' in lines[1]
    transform = eval_transform(DataConfig(**{key: value for key, value in model.default_cfg.items()
                                             if key not in ('num_classes', 'architecture')}))
    x = np.stack([transform(path) for path in sorted((tmp_path / 'images').iterdir())[::-(-available // 64)]])
    token = model.forward_intermediates(paddle.to_tensor(x)).features[-2][:, :1].mean(0, keepdim=True)
    np.testing.assert_allclose(cait.cls_token.numpy(), token.numpy(), atol=1e-5)


@pytest.mark.parametrize('vit', ['vit', 'headless'], indirect=True)
def test_fresh_class_stage(vit):
    cait, lines = grown(vit, class_stage='fresh')
    model, _ = vit
    assert any('newly initialized' in line and 'cls_token, ' in line and 'blocks_token_only' in line for line in lines)
    assert not np.allclose(cait.blocks_token_only[0].attn.proj.weight.numpy(),
                           model.blocks[-2].attn.proj.weight.numpy(), atol=0.05)


@pytest.mark.parametrize('vit', ['vit'], indirect=True)
def test_images_are_prepared_as_the_vits(vit):
    """The file says so where the ViT's does, and the command always."""
    _, lines = grown(vit)
    words = shlex.split(lines[-1])
    assert words[words.index('DATA.MEAN') + 1] == str(HALF['mean']) and 'DATA.IMAGE_SIZE' in words
    assert 'MODEL.NUM_HEADS' in words and 'MODEL.IN_CHANNELS' not in words


@pytest.mark.parametrize('options, message', [
    (dict(depth=5), r'--depth: found 5, expected 1 to 4, the blocks of .*vit\.pdparams'),
    (dict(depth=-1), '--depth: found -1, expected 1 to 4'),
    (dict(depth_token_only=0), '--depth-token-only: found 0, expected 1 to 4'),
    (dict(num_heads=0), r'--num-heads: missing; the 48 channels of .*vit\.pdparams are not a multiple of 64'),
    (dict(num_heads=5), '5'),
    (dict(target='vit.pdparams', force=True), r'vit\.pdparams: is the input itself, expected another file to write'),
    (dict(target='vit.pdparams'), r'vit\.pdparams: is the input itself, expected another file to write'),
    (dict(target='grown.pth'), r'grown\.pth: cannot be written, expected \.pdparams or \.safetensors'),
    (dict(images='none'), 'none: no such image, folder or list file')])
@pytest.mark.parametrize('vit', ['vit'], indirect=True)
def test_what_is_refused(vit, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / 'vit.pdparams').read_bytes()
    with pytest.raises(InputError, match=message):
        vit_to_cait.convert(vit[1], **{'target': 'grown.pdparams', 'num_heads': 3, **options})
    assert [path.name for path in tmp_path.iterdir()] == ['vit.pdparams']
    assert (tmp_path / 'vit.pdparams').read_bytes() == before


@pytest.mark.parametrize('vit', ['headless'], indirect=True)
def test_images_for_another_number_of_channels(vit, tmp_path):
    with pytest.raises(InputError, match='^--images x: are read as RGB, the ViT is for 1 channels$'):
        grown(vit, images='x')


@pytest.mark.parametrize('change, found', [
    (lambda arrays: arrays.pop('cls_token'), 'no cls_token'),
    (lambda arrays: arrays.pop('blocks.0.mlp.fc1.weight'), 'no blocks.0.mlp.fc1.weight'),
    (None, 'class-attention blocks: it is a CaiT already')])
@pytest.mark.parametrize('vit', ['vit'], indirect=True)
def test_what_is_no_vit(vit, tmp_path, change, found):
    arrays = checkpoint.weights(vit[0])
    if change:
        change(arrays)
    else:
        grown(vit)
        (tmp_path / 'grown.pdparams').rename(tmp_path / 'wrong.pdparams')
    if change:
        checkpoint.write_weights(tmp_path / 'wrong.pdparams', arrays)
    with pytest.raises(InputError) as caught:
        vit_to_cait.convert(str(tmp_path / 'wrong.pdparams'), str(tmp_path / 'out.pdparams'))
    assert str(caught.value).endswith(f': found {found}, expected the weights of a ViT or DeiT with a class token')


def test_command_line(tmp_path, capsys):
    model = create_model('vit', embed_dim=64, depth=2, num_heads=1, image_size=16, num_classes=3)
    checkpoint.write_weights(tmp_path / 'vit.pdparams', checkpoint.weights(model))
    words = [str(tmp_path / 'vit.pdparams'), str(tmp_path / 'out.safetensors'), '--depth-token-only', '1']
    assert vit_to_cait.main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith(': 1 blocks, 1 of class attention, 1 heads, 16 pixels')
    with pytest.raises(InputError, match=r'out\.safetensors: exists already; name another file, or add --force to'):
        vit_to_cait.main(words)
    assert vit_to_cait.main([*words, '--force']) == 0


@pytest.mark.skipif(not os.environ.get('CAIT_REAL_DATA'), reason='CAIT_REAL_DATA is not set')
def test_grown_from_trained_weights_it_sees(tmp_path):
    """Before any training, 20 photographs of ten ImageNet classes: most are told apart by these classes' logits."""
    data = Path(os.environ['CAIT_REAL_DATA'])
    vit_to_cait.convert(str(data / 'weights/vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors'),
                        str(tmp_path / 'grown.pdparams'), str(data / 'imagenette_lite/train'), depth_token_only=4)
    cait = create_model('cait', str(tmp_path / 'grown'), depth=10, depth_token_only=4, num_heads=3)
    cait.eval()
    lines = (data / 'imagenette_val500/val_list.txt').read_text().splitlines()
    samples = [line.split() for line in lines[::len(lines) // 20][:20]]
    classes = sorted({int(line.split()[1]) for line in lines})
    transform = eval_transform(DataConfig(image_size=224, crop_pct=0.9, interpolation='bicubic', **HALF))
    x = np.stack([transform(str(data / 'imagenette_val500' / path)) for path, _ in samples])
    with paddle.no_grad():
        logits = cait(paddle.to_tensor(x)).numpy()[:, classes]
    correct = sum(classes[best] == int(label) for best, (_, label) in zip(logits.argmax(1), samples))
    assert correct >= 11
