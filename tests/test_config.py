# SPDX-License-Identifier: Apache-2.0
"""The configuration: priority of its sources, errors, and the effect of every key of MODEL on the model."""
from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
import yaml

from CaiT import build_model, get_config
from CaiT.config import data_config
from CaiT.errors import InputError
from CaiT.settings import DEFAULTS, FLAGS
from tests.settings import leaves


def write(folder, name, text):
    (folder / name).write_text(text, encoding='utf-8')
    return str(folder / name)


def refused(match, *arguments, **flags):
    with pytest.raises(InputError, match=match) as caught:
        get_config(*arguments, **flags)
    assert '\n' not in str(caught.value)


def test_model_row_and_dataset_are_defaults():
    config = get_config(opts=['MODEL.NAME', 'vit_base_patch32_384', 'DATA.DATASET', 'cifar100'])
    assert (config.MODEL.PATCH_SIZE, config.MODEL.EMBED_DIM, config.MODEL.NUM_HEADS) == (32, 768, 12)
    assert data_config(config) == {'image_size': 384, 'crop_pct': 1.0, 'interpolation': 'bicubic',
                                   'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}
    assert config.MODEL.NUM_CLASSES == 100
    assert get_config(opts=['DATA.DATASET', 'digits']).MODEL.NUM_CLASSES == 10
    assert get_config().MODEL.NUM_CLASSES == 1000 and get_config().MODEL.NAME == 'cait_xxs24_224'


def test_priority_of_sources(tmp_path):
    """Model's row, then BASE files in their order, the file, flags, opts from left to right."""
    write(tmp_path, 'a.yaml', 'TRAIN: {EPOCHS: 1, BASE_LR: 1.0, WARMUP_EPOCHS: 1, END_LR: 0.5}')
    (tmp_path / 'sub').mkdir()
    write(tmp_path / 'sub', 'deep.yaml', 'BASE: ../a.yaml\nTRAIN: {BASE_LR: 2.0}')
    write(tmp_path, 'b.yaml', 'TRAIN: {WARMUP_EPOCHS: 3}')
    path = write(tmp_path, 'c.yaml', 'BASE: [sub/deep.yaml, b.yaml]\n'
                                     'MODEL: {NAME: cait_s36_224, DROP_PATH_RATE: 0.15}\nTRAIN: {EPOCHS: 4}')
    config = get_config(path)
    train = config.TRAIN
    assert (train.END_LR, train.BASE_LR, train.WARMUP_EPOCHS, train.EPOCHS) == (0.5, 2, 3, 4)
    assert (config.MODEL.DROP_PATH_RATE, config.MODEL.INIT_VALUES) == (0.15, 1e-6)
    config = get_config(path, epochs=5, seed=None)
    assert config.TRAIN.EPOCHS == 5 and config.SEED == 0
    config = get_config(path, ['TRAIN.EPOCHS', '6', 'SEED', '1', 'TRAIN.EPOCHS', '7'], epochs=5, seed=2)
    assert config.TRAIN.EPOCHS == 7 and config.SEED == 1
    assert get_config(path, ['MODEL.NAME', 'cait_xxs24_224']).MODEL.EMBED_DIM == 192


@pytest.mark.parametrize('text, epochs, fraction', [
    ('', 5, 0.0), ('WARMUP_FRACTION: 0.1', 0, 0.1), ('WARMUP_FRACTION: 0.0', 5, 0.0),
    ('WARMUP_FRACTION: 0.2, WARMUP_EPOCHS: 0', 0, 0.2), ('WARMUP_FRACTION: 0.0, WARMUP_EPOCHS: 3', 3, 0.0)])
def test_warmup_of_epochs_or_a_fraction(tmp_path, text, epochs, fraction):
    """And what is written is read again as the same."""
    config = get_config(write(tmp_path, 'a.yaml', f'TRAIN: {{{text}}}'))
    again = get_config(write(tmp_path, 'b.yaml', config.dump()))
    for found in (config, again):
        assert (found.TRAIN.WARMUP_EPOCHS, found.TRAIN.WARMUP_FRACTION) == (epochs, fraction)


def test_warmup_of_both_is_refused():
    with pytest.raises(InputError) as caught:
        get_config(opts=['TRAIN.WARMUP_FRACTION', '0.1', 'TRAIN.WARMUP_EPOCHS', '2'])
    assert str(caught.value) == ('TRAIN.WARMUP_FRACTION: found 0.1 beside TRAIN.WARMUP_EPOCHS 2, expected one of them, '
                                 'the other 0')


def test_every_flag_sets_its_key():
    given = {'dataset': 'digits', 'data_path': 'd', 'label_map': 'l', 'batch_size': 3, 'batch_size_eval': 4,
             'image_size': 48, 'num_workers': 5, 'num_classes': 6, 'pretrained': 'p', 'epochs': 7, 'last_epoch': 2,
             'output_dir': 'o', 'resume': 'auto', 'amp': True, 'seed': 8, 'device': 'cpu'}
    assert set(given) == set(FLAGS)
    found = dict(leaves(get_config(**given)))
    assert {name: found[FLAGS[name]] for name in given} == given


def test_text_is_read_in_the_type_of_the_default():
    config = get_config(opts=['TRAIN.BASE_LR', '1', 'AMP', 'True', 'AUG.SCALE', '(0.5, 1)', 'TRAIN.LR_MILESTONES',
                              '[1,2]', 'DATA.DATA_PATH', '2024', 'TRAIN.OPTIMIZER.EPS', '1e-6'])
    assert config.TRAIN.BASE_LR == 1.0 and isinstance(config.TRAIN.BASE_LR, float) and config.AMP is True
    assert config.AUG.SCALE == (0.5, 1.0) and config.TRAIN.LR_MILESTONES == [1, 2]
    assert config.DATA.DATA_PATH == '2024' and config.TRAIN.OPTIMIZER.EPS == 1e-6


@pytest.mark.parametrize('text', ["['*', '!head*']", "('*', '!head*')"])
def test_a_list_whose_default_is_empty(tmp_path, text):
    assert get_config(opts=['TRAIN.FREEZE', text]).TRAIN.FREEZE == ['*', '!head*']
    config = get_config(write(tmp_path, 'a.yaml', "TRAIN: {FREEZE: ['*', '!head*']}"))
    assert config.TRAIN.FREEZE == ['*', '!head*'] and get_config().TRAIN.FREEZE == []
    assert get_config(write(tmp_path, 'b.yaml', config.dump())) == config


def test_yaml_number_without_a_point(tmp_path):
    """YAML parses 1e-3 as a string, although its author means a number."""
    assert get_config(write(tmp_path, 'a.yaml', 'TRAIN: {BASE_LR: 1e-3}')).TRAIN.BASE_LR == 1e-3


@pytest.mark.parametrize('opts, match', [
    (['TRAIN.EPOCH', '3'], '-opts: unknown key TRAIN.EPOCH, expected EPOCHS'),
    (['MODEL.EPS', '3'], '-opts: unknown key MODEL.EPS, expected '),
    (['WEIGHTS', 'x'], '-opts: unknown key WEIGHTS'),
    (['TRAIN.EPOCHS', 'three'], "-opts: TRAIN.EPOCHS: found 'three', expected int"),
    (['TRAIN.EPOCHS', '3.0'], "-opts: TRAIN.EPOCHS: found '3.0', expected int"),
    (['TRAIN.EPOCHS', 'True'], "-opts: TRAIN.EPOCHS: found 'True', expected int"),
    (['AMP', '1'], "-opts: AMP: found '1', expected bool"),
    (['TRAIN.BASE_LR', 'nan'], "-opts: TRAIN.BASE_LR: found 'nan', expected float"),
    (['AUG.SCALE', '(1,2,3)'], r"-opts: AUG.SCALE: found '\(1,2,3\)', expected tuple of 2"),
    (['AUG.SCALE', '0.5'], "-opts: AUG.SCALE: found '0.5', expected tuple of 2"),
    (['TRAIN.LR_MILESTONES', '[1.5]'], r'-opts: TRAIN.LR_MILESTONES: found 1.5, expected int'),
    (['TRAIN', '3'], "-opts: TRAIN: found '3', expected keys EPOCHS, "),
    (['TRAIN', '3', 'TRAIN.EPOCHS', '4'], '-opts: TRAIN'),
    (['TRAIN.EPOCHS'], '-opts: found TRAIN.EPOCHS, expected KEY VALUE pairs'),
    (['MODEL.NAME=cait_xxs24_224'], '-opts: found MODEL.NAME=cait_xxs24_224, expected KEY VALUE pairs \\(write '
                                    r'MODEL.NAME cait_xxs24_224\)'),
    (['TRAIN.EPOCHS', '0'], 'TRAIN.EPOCHS: found 0, expected at least 1'),
    (['MODEL.NUM_CLASSES', '10000000000'], 'MODEL.NUM_CLASSES: found 10000000000, expected a number from 1 to 1000000'),
    (['MODEL.NUM_CLASSES', '0'], 'MODEL.NUM_CLASSES: found 0, expected at least 1'),
    (['TRAIN.LOSS', 'MSE'], "TRAIN.LOSS: found 'MSE', expected one of CE, BCE"),
    (['DATA.DATASET', 'mnist'], "DATA.DATASET: found 'mnist', expected one of imagenet2012, "),
    (['DATA.CROP_PCT', '1.2'], 'DATA.CROP_PCT: found 1.2, expected more than 0, at most 1'),
    (['TRAIN.EMA_DECAY', '1.5'], 'TRAIN.EMA_DECAY: found 1.5, expected a number from 0 to 1'),
    (['DATA.MEAN', '(123.675, 116.28, 103.53)'],
     r'DATA.MEAN: found \(123.675, 116.28, 103.53\), expected numbers from 0 to 1 \(of pixels scaled to 0 .. 1\)'),
    (['DATA.STD', '(0, 0.5, 0.5)'], r'DATA.STD: found \(0.0, 0.5, 0.5\), expected numbers from 0.001 to 1'),
    (['DATA.STD', '(0.5, -0.5, 0.5)'], 'DATA.STD: found .*, expected numbers from 0.001 to 1'),
    (['DATA.MEAN', '(1e38, 0.5, 0.5)'], 'DATA.MEAN: found .*, expected numbers from 0 to 1'),
    (['DATA.MEAN', '(1e999, 0.5, 0.5)'], '-opts: DATA.MEAN: found 1e999|inf, expected a finite number'),
    (['TRAIN.BASE_LR', '1e999'], "-opts: TRAIN.BASE_LR: found '1e999', expected a finite number"),
    (['TRAIN.OPTIMIZER.BETAS', '(0.9, 1.0)'], 'TRAIN.OPTIMIZER.BETAS: found 1.0, expected a number from 0 to below 1'),
    (['TRAIN.OPTIMIZER.MOMENTUM', '-0.1'], 'TRAIN.OPTIMIZER.MOMENTUM: found -0.1, expected a number from 0 to below 1'),
    (['TRAIN.OPTIMIZER.BETAS', '(0.9, 0.99999999999)'],
     'TRAIN.OPTIMIZER.BETAS: found 0.99999999999, expected a number from 0 to below 1'),
    (['TRAIN.OPTIMIZER.EPS', '1e-320'], 'TRAIN.OPTIMIZER.EPS: found 1e-320, expected at least 1e-45'),
    (['TRAIN.WEIGHT_DECAY', '1e300'],
     "-opts: TRAIN.WEIGHT_DECAY: found '1e300', expected at most 3.4e.38, the largest float32"),
    (['AUG.RATIO', '(0.5, 1e39)'], '-opts: AUG.RATIO: found 1e.39, expected at most 3.4e.38, the largest float32'),
    (['TRAIN.OPTIMIZER.EPS', '0'], 'TRAIN.OPTIMIZER.EPS: found 0.0, expected more than 0'),
    (['TRAIN.END_LR', '-1e-5'], 'TRAIN.END_LR: found -1e-05, expected at least 0'),
    (['TRAIN.FREEZE', '[1]'], '-opts: TRAIN.FREEZE: found 1, expected str'),
    (['TRAIN.FREEZE', 'head*'], r"-opts: TRAIN.FREEZE: found 'head\*', expected list"),
    (['MODEL.NAME', 'cait'.upper()], "model 'CAIT' is not known"),
])
def test_refused(opts, match):
    refused(match, None, opts)


@pytest.mark.parametrize('text, match', [
    ('TRAIN: {EPOCH: 3}', 'a.yaml: unknown key TRAIN.EPOCH, expected EPOCHS'),
    ('TRAIN: {BASE_LR: .nan}', 'a.yaml: TRAIN.BASE_LR: found nan, expected a finite number'),
    ('DATA: {STD: [.inf, 0.2, 0.2]}', 'a.yaml: DATA.STD: found inf, expected a finite number'),
    ('DATA: {MEAN: [0.5, .nan, 0.2]}', 'a.yaml: DATA.MEAN: found nan, expected a finite number'),
    ('TRAIN: {EPOCHS: 3.5}', 'a.yaml: TRAIN.EPOCHS: found 3.5, expected int'),
    ('TRAIN: 3', 'a.yaml: TRAIN: found 3, expected keys EPOCHS, '),
    ('TRAIN:', 'a.yaml: TRAIN: found None, expected keys EPOCHS, '),
    ('- TRAIN', 'a.yaml: found list, expected KEY: value lines'),
    ('TRAIN: {EPOCHS: 3', 'a.yaml: not YAML: '),
    ('BASE: b.yaml', 'config file .*b.yaml: No such file or directory'),
    ('BASE: ["b\\nc.yaml"]', r'^config file b\?c.yaml: no such file$'),
    ('BASE: "b\\eZ.yaml"', r'^config file b\?Z.yaml: no such file$'),
    ('BASE: a.yaml', 'a.yaml: BASE leads back to this file'),
    ('BASE: 3', 'a.yaml: BASE: found 3, expected a file name or a list of them'),
    ('BASE: [3]', r'a.yaml: BASE: found \[3\], expected a file name or a list of them'),
])
def test_refused_files(text, match, tmp_path):
    refused(match, write(tmp_path, 'a.yaml', text))


def test_missing_file():
    refused('config file nowhere.yaml: No such file or directory', 'nowhere.yaml')


def test_an_error_names_the_base_file_it_is_in(tmp_path):
    write(tmp_path, 'base.yaml', 'AUG: {FLIP: 1}')
    refused('base.yaml: unknown key AUG.FLIP, expected HFLIP', write(tmp_path, 'a.yaml', 'BASE: base.yaml'))


@pytest.mark.parametrize('opts, match', [
    (['MODEL.NUM_HEADS', '5'], 'CaiT: embed_dim 192 is not divisible by num_heads 5'),
    (['DATA.IMAGE_SIZE', '230'], 'CaiT: image_size 230 is not divisible by patch_size 16'),
    (['MODEL.DROP_RATE', '1.0'], 'CaiT: drop_rate 1.0 is outside 0 <= drop_rate < 1'),
])
def test_impossible_models(opts, match):
    with pytest.raises(InputError, match=match):
        build_model(get_config(opts=opts))


def test_frozen_and_defaults_unchanged():
    before = json.dumps(DEFAULTS, default=str)
    config = get_config(opts=['TRAIN.EPOCHS', '3', 'AUG.SCALE', '(0.5, 0.6)', 'TRAIN.LR_MILESTONES', '[7]'])
    for node, key in ((config, 'SEED'), (config.TRAIN, 'EPOCHS'), (config.TRAIN.OPTIMIZER, 'NAME')):
        with pytest.raises(AttributeError):
            setattr(node, key, 1)
    assert json.dumps(DEFAULTS, default=str) == before


def test_what_is_written_reads_back_as_itself(tmp_path):
    config = get_config(opts=['MODEL.NAME', 'deit_tiny_distilled_patch16_224', 'TRAIN.BASE_LR', '3e-7', 'AUG.RATIO',
                              '(0.7, 1.5)', 'DATA.DATASET', 'cifar10', 'MODEL.PRETRAINED', 'a: b'])
    again = get_config(write(tmp_path, 'config.yaml', config.dump()))
    assert again == config and yaml.safe_load(config.dump())['TRAIN']['BASE_LR'] == 3e-7


# For each leaf of MODEL and family another value; a leaf without one here fails the test.
COMMON = {'NUM_CLASSES': 7, 'PATCH_SIZE': 8, 'IN_CHANNELS': 1, 'EMBED_DIM': 24, 'DEPTH': 3, 'NUM_HEADS': 4,
          'MLP_RATIO': 2.0, 'QKV_BIAS': False, 'DROP_RATE': 0.2, 'ATTN_DROP_RATE': 0.2, 'DROP_PATH_RATE': 0.2}
CHANGES = {'cait': {**COMMON, 'DEPTH_TOKEN_ONLY': 1, 'INIT_VALUES': 0.5}, 'deit': COMMON, 'vit': COMMON}
SMALL = ['DATA.IMAGE_SIZE', '32', 'MODEL.EMBED_DIM', '16', 'MODEL.DEPTH', '2', 'MODEL.NUM_HEADS', '2',
         'MODEL.NUM_CLASSES', '5']


def description(model):
    """Everything in which two models can differ, except random numbers."""
    values = {name: p.numpy() for name, p in model.named_parameters()}
    return (repr(model), {name: value.shape for name, value in values.items()},
            [layer.num_heads for layer in model.sublayers() if hasattr(layer, 'num_heads')],
            {name: value[0] for name, value in values.items() if '.gamma_' in name})


@pytest.mark.parametrize('family, leaf', [(family, leaf) for family in CHANGES for leaf in CHANGES[family]])
def test_each_leaf_changes_the_model(family, leaf):
    opts = ['MODEL.NAME', family, *SMALL]
    plain = description(build_model(get_config(opts=opts)))
    assert description(build_model(get_config(opts=opts))) == plain
    opts += [f'MODEL.{leaf}', str(CHANGES[family][leaf])]
    assert description(build_model(get_config(opts=opts))) != plain


def test_no_leaf_is_left_out(tmp_path):
    # below, in tests/weights, and by the parameter of the test above
    others = {'NAME', 'PRETRAINED', 'STRICT', 'USE_EMA', 'CHECKPOINT_KEY'}
    for family, changes in CHANGES.items():
        assert set(get_config(opts=['MODEL.NAME', family]).MODEL) == {*changes, *others}


def test_pretrained_and_strict(tmp_path):
    opts = ['MODEL.NAME', 'vit', *SMALL]
    model = build_model(get_config(opts=opts))
    path = str(tmp_path / 'weights.pdparams')
    state = model.state_dict()
    paddle.save(state, path)
    again = build_model(get_config(opts=opts, pretrained=path))
    np.testing.assert_array_equal(again.cls_token.numpy(), model.cls_token.numpy())
    del state['norm.weight']
    paddle.save(state, path)
    with pytest.raises(InputError, match='norm.weight'):
        build_model(get_config(opts=opts, pretrained=path))
    report = build_model(get_config(opts=[*opts, 'MODEL.STRICT', 'False'], pretrained=path)).load_report
    assert report.initial == ['norm.weight']
