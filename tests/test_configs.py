# SPDX-License-Identifier: Apache-2.0
"""The configurations of the package: each loads and builds, and its head comment is correct."""
from __future__ import annotations

import re
import shlex
from pathlib import Path

import paddle
import pytest

from CaiT import build_model, get_config, get_variant, list_models
from CaiT.main_single_gpu import parse
from CaiT.tools.model_table import macs
from CaiT.training.optim import build_schedule

FOLDER = Path(__file__).resolve().parents[1] / 'CaiT' / 'configs'
MODELS = sorted(path.stem for path in FOLDER.glob('*.yaml'))
RECIPES = sorted(path.stem for path in (FOLDER / 'recipes').glob('*.yaml'))


def comment(path: Path) -> str:
    """The head comment as one line."""
    lines = path.read_text(encoding='utf-8').splitlines()
    head = lines[:next(i for i, line in enumerate(lines) if not line.startswith('#'))]
    return ' '.join(' '.join(line.lstrip('# ') for line in head).split())


def commands(path: Path) -> list:
    """The commands in the head comment, as lists of words."""
    text = re.sub(r'\\\n#\s*', ' ', path.read_text(encoding='utf-8'))
    return [shlex.split(line.lstrip('# ')) for line in text.splitlines() if line.startswith('#   python ')]


def test_one_file_per_model():
    assert set(list_models()) <= set(MODELS)
    for name in list_models():
        assert get_config(str(FOLDER / f'{name}.yaml')).MODEL.NAME == name


@pytest.mark.parametrize('name', MODELS)
def test_loads_and_builds(name):
    config = get_config(str(FOLDER / f'{name}.yaml'))
    with paddle.LazyGuard():  # shapes only
        model = build_model(config)
    assert model.num_classes == config.MODEL.NUM_CLASSES


@pytest.mark.parametrize('name', [name for name in MODELS if name != 'cait_digits'])
def test_head_comment(name):
    config, text = get_config(str(FOLDER / f'{name}.yaml')), comment(FOLDER / f'{name}.yaml')
    variant = get_variant(config.MODEL.NAME)
    with paddle.LazyGuard():
        count = sum(p.size for p in build_model(config).parameters())
    total = macs(config.MODEL.NAME, config.MODEL.NUM_CLASSES)['total']
    assert re.search(rf'Cost: {count:,} parameters, {total / 1e9:.3f} GMACs per image\.', text)
    assert 'Paper: ' in text and ('Not measured here.' in text or 'Measured here: ' in text)
    if config.MODEL.NUM_CLASSES == 1000 and variant.published.get('top1'):
        top5 = f', top-5 {variant.published["top5"]:g} %' if variant.published['top5'] else ''
        assert f'Published: top-1 {variant.published["top1"]:g} %{top5} on ImageNet-1K' in text
    else:
        assert 'Published: no number' in text
    if variant.family == 'cait' and config.MODEL.NUM_CLASSES == 1000 and 'distilled' not in name:
        assert f'LayerScale starts at {variant.arch["init_values"]:.0e}'.replace('e-0', 'e-') in text
        assert f'{variant.arch["drop_path_rate"]:g}' in text


@pytest.mark.parametrize('name', MODELS)
def test_commands(name):
    """They name this file, their flags parse, and the last one evaluates what the first one trains."""
    found = commands(FOLDER / f'{name}.yaml')
    flags = [parse(words[[word.startswith('CaiT/main_') for word in words].index(True) + 1:])
             for words in found if any(word.startswith('CaiT/main_') for word in words)]
    assert len(flags) >= 2 and {flag['cfg'] for flag in flags} == {f'CaiT/configs/{name}.yaml'}
    *trainings, evaluation = flags
    assert evaluation['eval'] and not any(flag['eval'] for flag in trainings)
    for flag in trainings:
        assert flag['output_dir']
        path, opts = str(FOLDER / f'{name}.yaml'), flag['opts']
        get_config(path, opts)
        if not evaluation['pretrained'].endswith('.safetensors'):
            assert evaluation['pretrained'] == flag['output_dir'] + '/best'


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_load(name):
    get_config(str(FOLDER / 'recipes' / f'{name}.yaml'))


def scratch(name):
    return get_config(str(FOLDER / f'{name}.yaml'))


def test_cait_and_deit_recipe():
    """The table of the DeiT paper; CaiT differs in epochs and stochastic depth."""
    for name, epochs, drop_path in (('deit_small_patch16_224', 300, 0.1), ('cait_s36_224', 400, 0.2)):
        config = scratch(name)
        train, aug = config.TRAIN, config.AUG
        assert (train.EPOCHS, config.MODEL.DROP_PATH_RATE) == (epochs, drop_path)
        assert (train.OPTIMIZER.NAME, train.OPTIMIZER.BETAS, train.OPTIMIZER.EPS) == ('AdamW', (0.9, 0.999), 1e-8)
        assert train.BASE_LR * 8 * config.DATA.BATCH_SIZE / train.LR_BATCH == pytest.approx(1e-3)
        assert (train.LR_SCHEDULE, train.WARMUP_EPOCHS) == ('cosine', 5)
        assert (train.WARMUP_START_LR, train.END_LR) == (1e-6, 1e-5)
        assert (train.WEIGHT_DECAY, train.LABEL_SMOOTHING, train.EMA_DECAY, train.GRAD_CLIP) == (0.05, 0.1, 0.99996, 0)
        assert (aug.AUTO_AUGMENT, aug.ERASE_PROB, aug.ERASE_MODE) == ('rand-m9-mstd0.5-inc1', 0.25, 'pixel')
        assert (aug.MIXUP, aug.CUTMIX, aug.MIX_PROB, aug.MIX_SWITCH_PROB, aug.REPEATS) == (0.8, 1.0, 1.0, 0.5, 3)


def test_vit_recipe():
    config = scratch('vit_base_patch32_224')
    train, aug = config.TRAIN, config.AUG
    assert train.BASE_LR * 8 * config.DATA.BATCH_SIZE / train.LR_BATCH == pytest.approx(1.6e-3)
    assert 8 * config.DATA.BATCH_SIZE == 4096 and (train.EPOCHS, train.WARMUP_EPOCHS) == (300, 30)
    assert (train.WEIGHT_DECAY, train.LABEL_SMOOTHING, config.MODEL.DROP_PATH_RATE) == (0.3, 0.1, 0.1)
    assert (aug.AUTO_AUGMENT, aug.ERASE_PROB, aug.REPEATS, aug.MIXUP, aug.CUTMIX) == ('rand-m9-mstd0.5', 0, 1, 0.8, 1.0)


def test_fine_tuning_recipes():
    config = scratch('cait_s24_384')
    assert (config.TRAIN.EPOCHS, 8 * config.DATA.BATCH_SIZE) == (30, 512)
    assert (config.TRAIN.BASE_LR, config.TRAIN.LR_BATCH, config.TRAIN.WEIGHT_DECAY) == (5e-6, 512, 1e-8)
    config = scratch('cait_m48_448')
    assert (config.TRAIN.EPOCHS, 8 * config.DATA.BATCH_SIZE) == (60, 256)
    assert (config.TRAIN.BASE_LR, config.TRAIN.LR_BATCH, config.TRAIN.WEIGHT_DECAY) == (5e-6, 256, 0.05)
    assert config.MODEL.DROP_PATH_RATE == 0.3
    for name in ('vit_base_patch32_224_cifar10', 'vit_tiny_patch16_224_cifar10', 'cait_xxs24_224_cifar10'):
        config = scratch(name)
        assert (config.TRAIN.OPTIMIZER.NAME, config.TRAIN.OPTIMIZER.MOMENTUM) == ('Momentum', 0.9)
        assert (config.TRAIN.BASE_LR, config.TRAIN.LR_BATCH, config.MODEL.NUM_CLASSES) == (1e-3, 0, 10)


@pytest.mark.parametrize('name', ['cait_xxs36_224', 'deit_tiny_distilled_patch16_224', 'vit_small_patch16_224'])
@pytest.mark.parametrize('batch_size', [None, 128])
def test_recipe_for_photographs(name, batch_size):
    """For any model, by -opts or BASE: no dropout of any kind, one learning rate, a warm-up that fits every run."""
    config = get_config(str(FOLDER / 'recipes' / 'finetune.yaml'), ['MODEL.NAME', name], batch_size=batch_size,
                        epochs=1)
    model, train = config.MODEL, config.TRAIN
    assert (model.DROP_RATE, model.ATTN_DROP_RATE, model.DROP_PATH_RATE) == (0, 0, 0)
    assert (config.AUG.MIXUP, config.AUG.CUTMIX, config.AUG.REPEATS, train.EMA_DECAY) == (0, 0, 1, 0)
    assert model.EMBED_DIM == get_variant(name).arch['embed_dim'] and config.DATA.IMAGE_SIZE == 224
    assert config.DATA.BATCH_SIZE == (batch_size or 16)
    schedule, line = build_schedule(config, config.DATA.BATCH_SIZE)
    assert (schedule.peak_lr, train.LAYER_DECAY, schedule.warmup_epochs) == (5e-4, 0.65, pytest.approx(0.1))
    assert 'warning' not in line


def test_distillation_recipes():
    for name in ('deit_tiny_distilled_patch16_224', 'deit_base_distilled_patch16_384', 'cait_xxs24_224_distilled'):
        assert (scratch(name).TRAIN.DISTILL.TYPE, scratch(name).TRAIN.DISTILL.ALPHA) == ('hard', 0.5)
    assert scratch('deit_base_distilled_patch16_384').TRAIN.EPOCHS == 30
    assert scratch('deit_tiny_patch16_224').TRAIN.DISTILL.TYPE == 'none'
