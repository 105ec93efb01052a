# SPDX-License-Identifier: Apache-2.0
"""The configuration's defaults, limits and choices, each written here once more: a change of one is a decision."""
from __future__ import annotations

import pytest

from CaiT import get_config
from CaiT.errors import InputError
from CaiT.settings import DEFAULTS
from tests.settings import leaves

EXPECTED_DEFAULTS = {
    'DATA.DATASET': 'imagenet2012', 'DATA.DATA_PATH': 'dataset/LSVRC2012', 'DATA.LABEL_MAP': '', 'DATA.SHUFFLE': 'full',
    'DATA.MULTI_LABEL': False, 'DATA.THRESHOLDS': '',
    'DATA.REDUCED_DECODE': False,
    'DATA.BATCH_SIZE': 256, 'DATA.BATCH_SIZE_EVAL': 64, 'DATA.NUM_WORKERS': 2, 'DATA.USE_SHARED_MEMORY': True,
    'MODEL.NAME': 'cait_xxs24_224', 'MODEL.PRETRAINED': '', 'MODEL.STRICT': True, 'MODEL.USE_EMA': False,
    'MODEL.CHECKPOINT_KEY': '', 'MODEL.NUM_CLASSES': 1000,
    'AUG.KIND': 'random_resized_crop', 'AUG.SCALE': (0.08, 1.0), 'AUG.RATIO': (0.75, 4 / 3), 'AUG.SHIFT': 0.125,
    'AUG.ROTATE': 0.0, 'AUG.ZOOM': 0.0, 'AUG.INTERPOLATION': 'random', 'AUG.HFLIP': 0.5, 'AUG.COLOR_JITTER': 0.0,
    'AUG.AUTO_AUGMENT': '', 'AUG.ERASE_PROB': 0.0, 'AUG.ERASE_MODE': 'pixel', 'AUG.MIXUP': 0.0, 'AUG.CUTMIX': 0.0,
    'AUG.MIX_PROB': 1.0, 'AUG.MIX_SWITCH_PROB': 0.5, 'AUG.MIX_MODE': 'batch', 'AUG.REPEATS': 1,
    'SAVE.EVERY': 0, 'SAVE.KEEP': 0, 'SAVE.TOP': 0, 'SAVE.BACKGROUND': False, 'TRAIN.EARLY_STOP': 0,
    'TRAIN.EPOCHS': 300, 'TRAIN.LAST_EPOCH': 0, 'TRAIN.BASE_LR': 5e-4, 'TRAIN.LR_BATCH': 512,
    'TRAIN.LR_SCHEDULE': 'cosine', 'TRAIN.LR_STEP': 30, 'TRAIN.LR_MILESTONES': [30, 60, 90], 'TRAIN.LR_DECAY': 0.1,
    'TRAIN.WARMUP_EPOCHS': 5, 'TRAIN.WARMUP_FRACTION': 0.0, 'TRAIN.WARMUP_START_LR': 1e-6, 'TRAIN.END_LR': 1e-5,
    'TRAIN.WEIGHT_DECAY': 0.05,
    'TRAIN.FREEZE': [], 'TRAIN.LAYER_DECAY': 1.0, 'TRAIN.GRAD_CLIP': 0.0, 'TRAIN.ACCUM_ITER': 1, 'TRAIN.LOSS': 'CE',
    'TRAIN.LABEL_SMOOTHING': 0.0, 'TRAIN.EMA_DECAY': 0.0, 'TRAIN.RECOMPUTE': False, 'TRAIN.ACCELERATE': True,
    'TRAIN.CLASS_WEIGHTS': '',
    'TRAIN.TO_STATIC': False, 'TRAIN.VISUALDL': False, 'TRAIN.TENSORBOARD': False,
    'TRAIN.OPTIMIZER.NAME': 'AdamW', 'TRAIN.OPTIMIZER.BETAS': (0.9, 0.999), 'TRAIN.OPTIMIZER.EPS': 1e-8,
    'TRAIN.OPTIMIZER.MOMENTUM': 0.9, 'TRAIN.OPTIMIZER.NESTEROV': False,
    'TRAIN.AMP.LEVEL': 'O1', 'TRAIN.AMP.DTYPE': 'auto',
    'TRAIN.DISTILL.TYPE': 'none', 'TRAIN.DISTILL.ALPHA': 0.5, 'TRAIN.DISTILL.TAU': 3.0, 'TRAIN.DISTILL.TEACHER': '',
    'TRAIN.DISTILL.TEACHER_WEIGHTS': '',
    'AMP': False, 'DEVICE': 'auto', 'SEED': 0, 'OUTPUT_DIR': '', 'RESUME': '', 'RESUME_ANYWAY': False, 'SAVE_STEPS': 0,
    'REPORT_FREQ': 100, 'VALIDATE_FREQ': 1}

# What is accepted at the limit, and what is refused just beyond it.
ABOVE = '1.0001'
LIMITS = {
    'DATA.BATCH_SIZE': (['1'], ['0', '-1']), 'DATA.BATCH_SIZE_EVAL': (['1'], ['0']),
    'DATA.NUM_WORKERS': (['0'], ['-1']), 'DATA.IMAGE_SIZE': (['1'], ['0']),
    'DATA.CROP_PCT': (['1e-3', '1'], ['0', ABOVE]),
    'DATA.MEAN': (['(0, 1, 0.5)'], ['(0, 1.01, 0)', '(-0.01, 0, 0)']),
    'DATA.STD': (['(0.001, 1, 0.5)'], ['(0.5, 0.0009, 0.5)', '(0.5, 1.01, 0.5)']),
    'MODEL.NUM_CLASSES': (['1'], ['0']),
    'AUG.SCALE': (['(1e-3, 1)', '(1, 1)'], ['(0, 1)', '(0.5, 1.01)', '(0.5, 0.4)']),
    'AUG.RATIO': (['(0.01, 9)'], ['(0, 1)', '(2, 1)']), 'AUG.SHIFT': (['0', '1'], ['-0.1', ABOVE]),
    'AUG.ZOOM': (['0', '0.9'], ['-0.1', '0.91']), 'AUG.HFLIP': (['0', '1'], ['-0.1', ABOVE]),
    'AUG.COLOR_JITTER': (['0', '1'], ['-0.1', ABOVE]), 'AUG.ERASE_PROB': (['0', '1'], ['-0.1', ABOVE]),
    'AUG.MIXUP': (['0', '9'], ['-0.1']), 'AUG.CUTMIX': (['0', '9'], ['-0.1']),
    'AUG.MIX_PROB': (['0', '1'], ['-0.1', ABOVE]),
    'AUG.MIX_SWITCH_PROB': (['0', '1'], ['-0.1', ABOVE]), 'AUG.REPEATS': (['1'], ['0']),
    'TRAIN.EPOCHS': (['1'], ['0']), 'TRAIN.LAST_EPOCH': (['0'], ['-1']), 'TRAIN.BASE_LR': (['0'], ['-1e-9']),
    'TRAIN.LR_BATCH': (['0'], ['-1']), 'TRAIN.LR_STEP': (['1'], ['0']), 'TRAIN.LR_DECAY': (['0', '1'], ['-0.1', ABOVE]),
    'TRAIN.WARMUP_EPOCHS': (['0'], ['-1']), 'TRAIN.WARMUP_FRACTION': (['0', '1'], ['-0.1', ABOVE]),
    'TRAIN.WARMUP_START_LR': (['0'], ['-1e-9']),
    'TRAIN.END_LR': (['0'], ['-1e-9']), 'TRAIN.WEIGHT_DECAY': (['0'], ['-1e-9']),
    'TRAIN.LAYER_DECAY': (['0', '1'], ['-0.1', ABOVE]), 'TRAIN.GRAD_CLIP': (['0'], ['-1e-9']),
    'TRAIN.ACCUM_ITER': (['1'], ['0']), 'TRAIN.LABEL_SMOOTHING': (['0', '1'], ['-0.1', ABOVE]),
    'TRAIN.EMA_DECAY': (['0', '1'], ['-0.1', ABOVE]), 'TRAIN.OPTIMIZER.EPS': (['1e-30'], ['0', '-1']),
    'TRAIN.OPTIMIZER.MOMENTUM': (['0', '0.999'], ['-0.1', '1']),
    'TRAIN.OPTIMIZER.BETAS': (['(0, 0)'], ['(1, 0)', '(0, 1)', '(-0.1, 0)', '(0, -0.1)']),
    'TRAIN.DISTILL.ALPHA': (['0', '1'], ['-0.1', ABOVE]), 'TRAIN.DISTILL.TAU': (['1e-3'], ['0', '-1']),
    'SAVE.EVERY': (['0'], ['-1']), 'SAVE.KEEP': (['0'], ['-1']), 'SAVE.TOP': (['0'], ['-1']),
    'TRAIN.EARLY_STOP': (['0'], ['-1']), 'SEED': (['0'], ['-1']), 'SAVE_STEPS': (['0'], ['-1']),
    'REPORT_FREQ': (['1'], ['0']),
    'VALIDATE_FREQ': (['1'], ['0'])}
CHOICES = {
    'DATA.DATASET': ['imagenet2012', 'digits', 'cifar10', 'cifar100', 'tar', 'parquet'],
    'DATA.INTERPOLATION': ['bicubic', 'bilinear', 'nearest', 'lanczos'],
    'AUG.KIND': ['random_resized_crop', 'pad_crop'], 'AUG.MIX_MODE': ['batch', 'pair', 'elem'],
    'AUG.ERASE_MODE': ['pixel', 'rand', 'const'],
    'AUG.INTERPOLATION': ['', 'random', 'bicubic', 'bilinear', 'nearest', 'lanczos'],
    'TRAIN.LR_SCHEDULE': ['cosine', 'linear', 'step', 'multistep', 'constant'], 'TRAIN.LOSS': ['CE', 'BCE'],
    'TRAIN.OPTIMIZER.NAME': ['AdamW', 'Momentum', 'LAMB'], 'TRAIN.DISTILL.TYPE': ['none', 'hard', 'soft'],
    'TRAIN.AMP.LEVEL': ['O1', 'O2'], 'TRAIN.AMP.DTYPE': ['auto', 'float16', 'bfloat16']}
# Any value of the default's type is accepted here; where it is used it is checked, or cannot be wrong.
FREE = {'AUG.ROTATE', 'TRAIN.LR_MILESTONES', 'TRAIN.FREEZE'}


def value(config, key):
    for part in key.split('.'):
        config = config[part]
    return config


def test_defaults():
    assert dict(leaves(DEFAULTS)) == EXPECTED_DEFAULTS
    types = {key: type(value) for key, value in EXPECTED_DEFAULTS.items()}
    assert {key: type(value) for key, value in leaves(DEFAULTS)} == types  # 1 == 1.0 == True


@pytest.mark.parametrize('dataset, classes', [('imagenet2012', 1000), ('digits', 10), ('cifar10', 10),
                                              ('cifar100', 100)])
def test_classes_of_a_dataset(dataset, classes):
    assert get_config(dataset=dataset).MODEL.NUM_CLASSES == classes


def test_every_number_has_limits_and_every_word_choices():
    numbers = {key for key, value in EXPECTED_DEFAULTS.items() if type(value) in (int, float, tuple, list)}
    assert numbers <= {*LIMITS, *FREE}
    words = {key for key, value in EXPECTED_DEFAULTS.items() if isinstance(value, str) and value}
    assert words - {'DATA.DATA_PATH', 'DATA.SHUFFLE', 'MODEL.NAME', 'DEVICE'} <= set(CHOICES)


@pytest.mark.parametrize('key, allowed', [(key, one) for key, (allowed, _) in LIMITS.items() for one in allowed])
def test_at_the_limit(key, allowed):
    found = value(get_config(opts=[key, allowed]), key)
    assert found == type(found)(eval(allowed))


@pytest.mark.parametrize('key, refused', [(key, one) for key, (_, refused) in LIMITS.items() for one in refused])
def test_beyond_the_limit(key, refused):
    with pytest.raises(InputError, match=f'^{key}: found '):
        get_config(opts=[key, refused])


@pytest.mark.parametrize('key', CHOICES)
def test_choices(key):
    for word in CHOICES[key]:
        assert value(get_config(opts=[key, word]), key) == word
    for word in ('something', CHOICES[key][-1].upper() + 'X'):
        with pytest.raises(InputError, match=f"^{key}: found '{word}', expected one of ") as caught:
            get_config(opts=[key, word])
        assert str(caught.value).endswith('expected one of ' + ', '.join(one or "''" for one in CHOICES[key]))


@pytest.mark.parametrize('refused', ['block:0', 'block:', 'block:-1', 'blocks:2', '', 'none', 'block:1e3'])
def test_shuffle(refused):
    words = ['full', 'balanced', 'block:1']
    assert [get_config(opts=['DATA.SHUFFLE', word]).DATA.SHUFFLE for word in words] == words
    with pytest.raises(InputError) as error:
        get_config(opts=['DATA.SHUFFLE', refused])
    assert str(error.value) == (f'DATA.SHUFFLE: found {refused!r}, expected full, balanced, or block:N with a number '
                                'of images of at least 1')


@pytest.mark.parametrize('bases, is_refused', [(19, False), (20, True)])
def test_files_that_name_each_other(tmp_path, bases, is_refused):
    for number in range(bases):
        (tmp_path / f'{number}.yaml').write_text(f'BASE: {number + 1}.yaml')
    (tmp_path / f'{bases}.yaml').write_text('SEED: 7')
    if is_refused:
        with pytest.raises(InputError, match=r'20\.yaml: more than 20 BASE files in a row'):
            get_config(str(tmp_path / '0.yaml'))
    else:
        assert get_config(str(tmp_path / '0.yaml')).SEED == 7
