# SPDX-License-Identifier: Apache-2.0
"""Memory of training: computed from two small models, equal to what Paddle's allocator holds for the whole one."""
from __future__ import annotations

import re
from pathlib import Path

import paddle
import pytest

from CaiT.config import build_model, get_config
from CaiT.errors import InputError
from CaiT.tools import memory

FOLDER = Path(__file__).resolve().parents[2] / 'CaiT' / 'configs'
CORE = paddle.base.core


def allocated():
    return CORE.host_memory_stat_current_value('Allocated', 0)


@pytest.mark.parametrize('opts', [
    ['MODEL.NAME', 'cait_xxs24_224', 'MODEL.DEPTH', '7', 'MODEL.DROP_PATH_RATE', '0.1'],
    ['MODEL.NAME', 'deit_tiny_distilled_patch16_224', 'MODEL.DEPTH', '5', 'DATA.IMAGE_SIZE', '160'],
    ['MODEL.NAME', 'vit_small_patch16_224', 'MODEL.DEPTH', '4', 'MODEL.DROP_RATE', '0.1'],
], ids=lambda opts: opts[1])
@pytest.mark.parametrize('recompute', [False, True])
def test_it_is_what_the_allocator_holds(opts, recompute):
    config = get_config(opts=opts)
    computed = memory.measure(config)
    model, batch = build_model(config), 3
    model.set_grad_checkpointing(recompute)
    model.train()
    images = paddle.randn([batch, 3, config.DATA.IMAGE_SIZE, config.DATA.IMAGE_SIZE])
    logits = model(images[:1])  # of a distilled model two
    sum(one.sum() for one in (logits if isinstance(logits, tuple) else [logits])).backward()
    del logits
    model.clear_gradients()
    before = allocated()
    logits = model(images)
    found = (allocated() - before) / batch + memory._bytes(images) / batch  # the images were there before
    total = computed.activations.required(recompute)
    if recompute:  # a block more while it is recomputed; blocks of the class token are counted as a whole
        assert found <= total - 0.9 * computed.activations.block < 2.3 * found
    else:
        assert found == pytest.approx(total, rel=0.01)
    del logits
    count = sum(parameter.size for parameter in model.parameters())
    assert (computed.weights, computed.gradients, computed.optimizer) == (4 * count, 4 * count, 8 * count)


TWELVE = memory.Memory(memory.Activations(10, 100, 5, 12), 40, 40, 80, 0)  # an image: 1210, recomputed 170; fixed: 160


@pytest.mark.parametrize('limit, expected', [
    (160 + 32 * 1210, (32, 1, False)), (160 + 32 * 1210 - 1, (16, 2, False)), (160 + 8 * 1210, (8, 4, False)),
    (160 + 8 * 1210 - 1, (32, 1, True)), (160 + 31 * 170, (16, 2, True)), (160 + 170, (1, 32, True)), (329, None)])
def test_settings_that_fit(limit, expected):
    assert memory.fitting(TWELVE, 32, 1, limit) == expected


def test_settings_change_the_bytes(capsys):
    opts = ['MODEL.NAME', 'deit_tiny_patch16_224', 'MODEL.DEPTH', '3', 'DATA.IMAGE_SIZE', '64']
    plain = memory.measure(get_config(opts=opts))
    half = memory.measure(get_config(opts=[*opts, 'AMP', 'True', 'TRAIN.AMP.LEVEL', 'O2']))
    assert (half.weights, half.gradients) == (plain.weights * 6 // 4, plain.weights // 2)
    sgd = memory.measure(get_config(opts=[*opts, 'TRAIN.OPTIMIZER.NAME', 'Momentum', 'TRAIN.EMA_DECAY', '0.9']))
    assert (sgd.optimizer, sgd.ema) == (plain.weights, plain.weights)
    assert memory.main(['-opts', *opts, '--gb', '0.2']) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith('deit_tiny_patch16_224, 64 pixels: 8 devices x DATA.BATCH_SIZE 256 x TRAIN.ACCUM_ITER 1 '
                              '= 2048 images per update, TRAIN.RECOMPUTE False, AMP False')
    assert re.match(r'does not fit into 0.2 GB; the same update fits with -opts DATA.BATCH_SIZE 128 TRAIN.ACCUM_ITER 2 '
                    r'TRAIN.RECOMPUTE False: 0.\d GB$', said[-1])
    assert memory.main(['-opts', *opts]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == 'fits into 32 GB, of which 10 % are left'


@pytest.mark.parametrize('words, message', [
    (['--gb', '0'], '--gb: found 0.0, expected a number above 0'),
    (['--devices', '0'], '--devices: found 0, expected at least 1')])
def test_refused(words, message):
    with pytest.raises(InputError) as error:
        memory.main(words)
    assert str(error.value) == message


QUICK = ('cait_s24_224', 'deit_small_patch16_224', 'vit_base_patch32_384')
SLOW = sorted(path.stem for path in FOLDER.glob('*.yaml') if path.stem not in (*QUICK, 'cait_digits'))


@pytest.mark.parametrize('name', [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_recipe_fits_and_says_so(name):
    path = FOLDER / f'{name}.yaml'
    config = get_config(str(path))
    found, batch, recompute = memory.measure(config), config.DATA.BATCH_SIZE, config.TRAIN.RECOMPUTE
    assert memory.lines(config, found, 8, 32)[-1].startswith('fits')
    text = ' '.join(path.read_text(encoding='utf-8').replace('\n# ', ' ').split())
    line = (f'Memory: {found.activations.required(recompute) / 1e9:.3f} GB of activations per image, '
            f'{found.required(batch, recompute) / 1e9:.1f} GB on each device (computed)')
    if recompute:
        line += (f' with TRAIN.RECOMPUTE; without it {found.activations.required(False) / 1e9:.3f} and '
                 f'{found.required(batch, False) / 1e9:.1f} GB')
    assert f'{line}. ' in text
