# SPDX-License-Identifier: Apache-2.0
"""Attention, rollout and relevance by value; sheets on one scale; faithfulness where the right map is known."""
from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

from CaiT.report import attention, attention_maps, attention_sheet, faithfulness
from tests.models.small import CLASSES, SIDE, small_model
from tests.models.small import images as small_images

MODELS = {'cait_xxs24_224': 1, 'vit_tiny_patch16_224': 1, 'deit_tiny_distilled_patch16_224': 2}  # name: prefix tokens
TOKENS = SIDE * SIDE


@pytest.fixture(scope='module', params=MODELS)
def case(request):
    """(model, images [2, 3, S, S], its explanation)"""
    model = small_model(request.param)
    images = small_images(model).numpy()
    return model, images, attention.explain(model, images)


def matrices(model, images):
    with attention.captured(model) as found, paddle.no_grad():
        model(paddle.to_tensor(images))
    return [one.numpy() for one in found]


def test_rows_sum_to_one(case):
    model, _, found = case
    heads = attention.attending_layers(model)[-1].num_heads
    assert found.prefix == MODELS[{'cait': 'cait_xxs24_224', 'vit': 'vit_tiny_patch16_224',
                                   'deit': 'deit_tiny_distilled_patch16_224'}[model.family]]
    assert found.attention.shape == (2, 2 if model.family == 'cait' else 1, heads, found.prefix + TOKENS)
    np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-6)
    assert (found.attention[..., :found.prefix] > 0).all()
    maps = attention_maps.times_even(found.attention, found.prefix)
    own = found.attention[..., :found.prefix].sum(-1)
    np.testing.assert_allclose(maps.sum((-1, -2)) / (found.prefix + TOKENS) + own, 1, atol=1e-6)
    np.testing.assert_allclose(maps[0, 0, 1, 1, 2], found.attention[0, 0, 1, found.prefix + SIDE + 2] *
                               (found.prefix + TOKENS), rtol=1e-6)


def test_attention_is_the_softmax_by_hand():
    """CaiT's last class-attention block, from the tokens that go in and the parameters, in NumPy and float64."""
    model = small_model('cait_xxs24_224')
    images = small_images(model)
    found = attention.explain(model, images.numpy()).attention[:, -1]
    features = model.forward_intermediates(images).features  # patches after each block, then the class token's
    patches, cls = features[len(model.blocks) - 1].numpy(), features[-2].numpy()
    block = model.blocks_token_only[-1]
    x = np.concatenate([cls, patches], 1).astype(np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * block.norm1.weight.numpy() + block.norm1.bias.numpy()
    attn = block.attn
    q, k = ((x @ layer.weight.numpy() + layer.bias.numpy()).reshape(2, 1 + TOKENS, attn.num_heads, -1)
            for layer in (attn.q, attn.k))
    scores = np.einsum('bhd,bnhd->bhn', q[:, 0], k) / np.sqrt(q.shape[-1])
    exp = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(found, exp / exp.sum(-1, keepdims=True), atol=1e-6)


def test_capture_agrees_with_the_model(case):
    model, images, found = case
    whole = model.forward_intermediates(paddle.to_tensor(images), attention=True).attention
    np.testing.assert_allclose(found.attention[:, -1], whole[-1].numpy()[:, :, 0], atol=1e-6)
    np.testing.assert_allclose(found.probs.sum(-1), 1, atol=1e-6)
    assert found.class_ids.tolist() == found.probs.argmax(1).tolist()
    assert not any(layer.attn_drop._forward_post_hooks for layer in attention.attending_layers(model))
    assert all(p.grad is None for p in model.parameters())


def test_rollout_is_the_product_of_whole_matrices(case):
    model, images, found = case
    if model.family == 'cait':
        assert found.rollout is None
        return
    product = np.eye(found.prefix + TOKENS)
    for matrix in matrices(model, images):
        mean = matrix[1].mean(0).astype(np.float64)
        product = (0.5 * mean + 0.5 * np.eye(len(mean))) @ product
    np.testing.assert_allclose(found.rollout[1], product[0], atol=1e-6)
    np.testing.assert_allclose(found.rollout.sum(-1), 1, atol=1e-6)


def slopes(model, images, class_id, layer, entries):
    """d logit / d A of the first image at ``entries`` (head, query, token) of one layer, by central differences."""
    step, values = 5e-4, []
    for entry in entries:
        logits = []
        for sign in (1, -1):
            change = np.zeros(matrices(model, images)[layer].shape, np.float32)
            change[(0, *entry)] = sign * step
            handle = attention.attending_layers(model)[layer].attn_drop.register_forward_post_hook(
                lambda _, inputs, output, change=change: inputs[0] + paddle.to_tensor(change))
            with paddle.no_grad():
                logits.append(float(model(paddle.to_tensor(images))[0, class_id]))
            handle.remove()
        values.append((logits[0] - logits[1]) / (2 * step))
    return values


def test_relevance_by_hand(case):
    """The propagation of whole matrices R = R + A_bar R, with gradients that finite differences confirm."""
    model, images, _ = case
    class_id = 3
    found = attention.explain(model, images, [class_id, class_id])
    assert found.class_ids.tolist() == [class_id] * 2
    with attention.captured(model) as tensors:
        logit = model(paddle.to_tensor(images, stop_gradient=False))[0, class_id]
    arrays = [one.numpy()[0].astype(np.float64) for one in tensors]
    gradients = [one.numpy()[0].astype(np.float64) for one in paddle.grad(logit, tensors)]
    entries = [(0, 0, 2), (1, 0, 5)]
    for layer in (0, len(arrays) - 1):
        np.testing.assert_allclose(slopes(model, images, class_id, layer, entries),
                                   [gradients[layer][entry] for entry in entries], rtol=0.03, atol=2e-4)
    relevance = np.eye(found.relevance.shape[1])
    for a, g in zip(arrays, gradients):
        bar = np.maximum(a * g, 0).mean(0)
        if model.family == 'cait':  # the first stage knows the patches only, the second changes the class token only
            whole = np.zeros_like(relevance)
            if len(bar) == 1:
                whole[:1] = bar
            else:
                whole[1:, 1:] = bar
            bar = whole
        relevance = relevance + bar @ relevance
    np.testing.assert_allclose(found.relevance[0], relevance[:found.prefix].mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('stage', ['cait', 'vit'])
def test_propagation_of_rows_is_that_of_matrices(stage):
    """With matrices that do not commute and are not small."""
    rng = np.random.default_rng(0)
    patches, tokens, prefix = 4, 5, 1 if stage == 'cait' else 2
    if stage == 'cait':
        weighted = [rng.random((1, *shape)) for shape in 3 * [(patches, patches)] + 2 * [(1, tokens)]]
        found = attention._cait_relevance(weighted, 3)
    else:
        weighted = [rng.random((1, tokens, tokens)) for _ in range(3)]
        found = attention._relevance(weighted, prefix)
    relevance = np.eye(tokens)
    for one in weighted:
        whole = np.zeros((tokens, tokens))
        whole[slice(0, 1) if len(one[0]) == 1 else slice(tokens - len(one[0]), None), tokens - one.shape[2]:] = one[0]
        relevance = relevance + whole @ relevance
    np.testing.assert_allclose(found[0], relevance[:prefix].mean(0), rtol=1e-5)


def test_an_accelerated_model_is_explained_alike(case):
    from CaiT.accelerate import accelerate, restore
    model, images, found = case
    plain = type(model.blocks[0])
    accelerate(model)
    exchanged = type(model.blocks[0])
    try:
        again = attention.explain(model, images)
        assert type(model.blocks[0]) is exchanged
    finally:
        restore(model)
    assert type(model.blocks[0]) is plain
    np.testing.assert_allclose(again.relevance, found.relevance, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(again.attention, found.attention, atol=1e-6)


def test_relevance_depends_on_the_class(case):
    model, images, _ = case
    maps = [attention.explain(model, images[:1], [k]).relevance for k in range(CLASSES)]
    assert all((one >= 0).all() for one in maps) and np.abs(maps[0] - maps[1]).max() > 1e-4


def test_frozen_parameters_and_training_mode(case):
    model, images, found = case
    model.train()
    for parameter in model.parameters():
        parameter.stop_gradient = True
    again = attention.explain(model, images)
    for parameter in model.parameters():
        parameter.stop_gradient = False
    np.testing.assert_allclose(again.relevance, found.relevance, rtol=1e-5)
    assert not model.training


def test_a_random_model_looks_random():
    """Fresh weights: every head is within a few percent of even, and the sheet's maps have nearly one color."""
    from CaiT import create_model
    paddle.seed(0)
    model = create_model('cait', image_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=5)
    found = attention.explain(model, small_images(model)[:1].numpy())
    maps = attention_maps.times_even(found.attention[0], found.prefix)
    assert np.abs(maps - 1).max() < 0.1
    rows = attention_sheet.rows_of(found, 0, 'x')[:2]
    top = attention_sheet.common_scale([values for row in rows for _, values in row.maps])
    colors = attention_sheet.colored(maps[1, 2], top)
    assert top == 2 and np.ptp(colors.reshape(-1, 3).astype(int), axis=0).max() < 25


@pytest.mark.parametrize('values, top', [([0.5, 1.9], 2), ([3.1] * 3, 4), ([0] * 999 + [700], 2), ([2e4], 1000)])
def test_scale(values, top):
    assert attention_sheet.common_scale([np.array(values)]) == top


def test_colors_and_overlay():
    """The square root of the value chooses the color; a patch has one color, where it is; gray shows through."""
    import cv2
    palette = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1]
    values = np.array([[0.0, 1.0], [4.0, 9.0]])
    colors = attention_sheet.colored(values, 4.0)
    np.testing.assert_array_equal(colors, palette[[[0, 128], [255, 255]]])
    image = Image.fromarray(np.full((30, 30, 3), 200, np.uint8))
    cell = np.asarray(attention_sheet.overlay(image, values, 4.0, 64)).astype(float)
    np.testing.assert_allclose(cell[40, 10], 0.35 * 200 + 0.65 * palette[255], atol=1)
    assert np.ptp(cell[:32, 32:].reshape(-1, 3), axis=0).max() == 0 and cell.shape == (64, 64, 3)


def test_sheet_shows_each_map_in_its_place(case):
    model, images, found = case
    rows = attention_sheet.rows_of(found, 0, 'tench')
    heads = found.attention.shape[2]
    assert [name for name, _ in rows[0].maps] == ['mean of heads', *(f'head {h}' for h in range(1, heads + 1))]
    last = ['gradient-weighted'] if model.family == 'cait' else ['rollout', 'gradient-weighted']
    assert [name for name, _ in rows[-1].maps] == last
    assert len(rows) == (3 if model.family == 'cait' else 2) and 'tench' in rows[-1].title
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    sheet = np.asarray(attention_sheet.sheet(photo, ['title'], rows, 4.0))
    cell, step = attention_sheet.CELL, attention_sheet.CELL + attention_sheet.GAP
    y = attention_sheet.MARGIN + 4 * attention_sheet.LINE
    for column, expected in ((0, attention_sheet.resized(photo, cell)),
                             (2, attention_sheet.overlay(photo, rows[0].maps[1][1], 4.0))):
        x = attention_sheet.MARGIN + column * step
        np.testing.assert_array_equal(sheet[y:y + cell, x:x + cell], np.asarray(expected))


def test_deletion_and_insertion():
    """A model that sums one quadrant's brightness: the right map beats the wrong one, and random lies between."""
    class Bright(paddle.nn.Layer):
        def forward(self, x):
            seen = x[:, :, :16, :16].mean([1, 2, 3])
            return paddle.stack([8 * seen, 0 * seen], axis=1)
    side, truth = 8, np.zeros((8, 8))
    truth[:4, :4] = 1
    image = np.ones((3, 32, 32), np.float32)
    image[:, 16:] = -1
    found = faithfulness.measure(Bright(), image, 0, {'right': truth, 'wrong': -truth}, steps=16)
    np.testing.assert_allclose(found['right'].deletion[0, [0, 4, 16]], [1 / (1 + np.exp(-8)), .5, .5], rtol=1e-5)
    assert found['wrong'].deletion[0, 12] == found['wrong'].deletion[0, 0]  # three quarters gone, nothing noticed
    areas = {name: faithfulness.area(one.deletion)[0] for name, one in found.items()}
    assert areas['right'] < areas['random'] < areas['wrong']
    summary = faithfulness.summarize(faithfulness.joined([found, found]))
    assert summary['right']['images'] == 2 and summary['random']['deletion_minus_random'] == 0
    assert summary['right']['deletion_minus_random'] == pytest.approx(areas['right'] - areas['random'], abs=1e-6)
    assert side == len(faithfulness.center_map(8)) and faithfulness.order_of(faithfulness.center_map(3))[0] == 4


@pytest.mark.parametrize('multi_label, logit', [(False, 5.0), (True, 8.0)])
def test_curves_of_images_with_several_classes(multi_label, logit):
    """A sigmoid per class: other logits do not count."""
    class Two(paddle.nn.Layer):
        def forward(self, x):
            seen = x.mean([1, 2, 3])
            return paddle.stack([8 * seen, 3 + 0 * seen], axis=1)
    found = faithfulness.measure(Two(), np.ones((3, 8, 8), np.float32), 0, {'map': np.ones((2, 2))}, 2, 0, multi_label)
    assert found['map'].deletion[0, 0] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


@pytest.mark.parametrize('shift, shown', [(-0.25, '-0.250'), (-0.0001, '+0.000'), (0.0004, '+0.000')])
def test_page_of_the_curves(tmp_path, check_page, shift, shown):
    curves = {name: faithfulness.DeletionInsertion(np.full((1, 5), value), np.full((1, 5), value))
              for name, value in (('random', 0.5), ('map', 0.5 + shift))}
    faithfulness.write(tmp_path, curves, 'a model')
    text, _ = check_page(tmp_path / 'faithfulness.html')
    assert f'map {0.5 + shift:.3f} {shown} {0.5 + shift:.3f} {shown}' in text
    assert 'Deletion (lower is better)' in text and 'DeletionInsertion' not in text


def test_area_by_hand():
    np.testing.assert_allclose(faithfulness.area(np.array([[1.0, 0.5, 0.0], [1, 1, 1]])), [0.5, 1.0])


def test_steps_replace_the_first_patches():
    first, last = np.zeros((3, 4, 4), np.float32), np.ones((3, 4, 4), np.float32)
    images = faithfulness.steps_between(first, last, np.array([2, 0, 3, 1]), 2, 4)
    assert images.shape == (5, 3, 4, 4) and images[0].sum() == 0 and images[-1].sum() == 48
    assert images[1][:, 2:, :2].all() and images[1].sum() == 12 and images[2][:, :2, :2].all()
