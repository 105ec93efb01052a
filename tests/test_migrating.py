# SPDX-License-Identifier: Apache-2.0
"""Other projects' commands: every row of docs/migrating.md, their flags, names of models and YAML files."""
from __future__ import annotations

import re
import shlex

import pytest

from CaiT.config import get_config
from CaiT.errors import InputError
from CaiT.main_single_gpu import parse
from tests.commands import ROOT, blocks, check

PROJECTS = ('MindCV', 'PASSL', 'PaddleClas', 'PaddleViT', 'timm', 'DeiT')


def rows(name):
    text = (ROOT / 'docs' / name).read_text(encoding='utf-8')
    return re.findall(rf'^\| ({"|".join(PROJECTS)}) \| `(.+?)` \| `(.+?)` \|$', text, re.M)


ROWS = rows('migrating.md')


def test_both_languages_have_the_same_rows():
    assert rows('migrating_cn.md') == ROWS and {project for project, _, _ in ROWS} == set(PROJECTS)


@pytest.mark.parametrize('ours', [ours for _, _, ours in ROWS])
def test_our_command_would_be_understood(ours, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(shlex.split(ours))


@pytest.mark.parametrize('theirs', [theirs for _, theirs, _ in ROWS if not re.search('export|predict_cls', theirs)])
def test_their_flags_get_an_answer(theirs):
    """Each flag of a row's left side is understood, or the error says what does its work."""
    words = shlex.split(theirs)
    start = next(i for i, word in enumerate(words) if word.endswith(('.py', 'passl-train'))) + 1
    try:
        parse(words[start:])
    except InputError as error:
        assert re.search('is a flag of another project, here it is|are started by', str(error)), error


def given(*words):
    return {key: value for key, value in parse(list(words)).items() if value not in (None, False, [])}


@pytest.mark.parametrize('words, expected', [
    (['--config', 'a.yaml', '--data_dir=x', '--distribute', 'False'], {'cfg': 'a.yaml', 'data_path': 'x'}),
    (['--config=a.yaml', '--distribute=False', '--ckpt-path', 'w.ckpt', '-eval'],
     {'cfg': 'a.yaml', 'pretrained': 'w.ckpt', 'eval': True}),
    (['--model=vit_b_32', '--opt=momentum', '--momentum', '0.8'],
     {'cfg': 'vit_b_32', 'opts': ['TRAIN.OPTIMIZER.NAME', 'Momentum', 'TRAIN.OPTIMIZER.MOMENTUM', '0.8']}),
    (['/imagenet', '--model', 'cait_xxs24_224', '-b', '64', '-j', '4', '--pretrained', '--amp'],
     {'data_path': '/imagenet', 'cfg': 'cait_xxs24_224', 'batch_size': 64, 'num_workers': 4, 'pretrained': 'zoo',
      'amp': True}),
    (['-c', 'a.yaml', '-o', 'Global.epochs=3', '-o', 'Arch.class_num=5', '-opts', 'SEED', '7'],
     {'cfg': 'a.yaml', 'opts': ['TRAIN.EPOCHS', '3', 'MODEL.NUM_CLASSES', '5', 'SEED', '7']}),
    (['-cfg=a.yaml', '--model=cait_s24', '-opts', 'SEED', '7', '--mixup=0.2'],
     {'cfg': 'a.yaml', 'opts': ['AUG.MIXUP', '0.2', 'MODEL.NAME', 'cait_s24', 'SEED', '7']}),
    (['--dataset=imagenet', '--pretrained=False', '--epoch_size', '5'], {'dataset': 'imagenet2012', 'epochs': 5}),
    (['-pretrained=w', '-dataset', 'digits'], {'pretrained': 'w', 'dataset': 'digits'})])
def test_flags_of_one_meaning_are_accepted(words, expected):
    assert given(*words) == expected


def test_lr_is_taken_as_it_is_and_that_is_said(capsys):
    assert given('--lr', '0.01')['opts'] == ['TRAIN.BASE_LR', '0.01', 'TRAIN.LR_BATCH', '0']
    assert capsys.readouterr().out.startswith('--lr 0.01: taken as it is, whatever the number of images per update')


@pytest.mark.parametrize('words, message', [
    (['--aa', 'rand-m9'], '^--aa: is a flag of another project, here it is the augmentation: -opts AUG.AUTO_AUGMENT'),
    (['--clip-grad=1.0'], '^--clip-grad: .* -opts TRAIN.GRAD_CLIP'), (['--model-ema'], 'TRAIN.EMA_DECAY'),
    (['--distribute', 'True'], '^--distribute: several devices are started by python -m paddle.distributed.launch'),
    (['--opt=sgd'], '^--opt: found sgd, expected one of momentum, adamw, lamb'),
    (['-o', 'Loss.Train=x'], '^-o Loss.Train=x: found no counterpart of Loss.Train, expected -opts KEY VALUE'),
    (['--dataset_download'], 'docs/data.md'), (['--lr'], '^--lr: found no value, expected one$'),
    (['--nonsense', '3'], '^unknown flag --nonsense')])
def test_other_flags_are_answered(words, message):
    with pytest.raises(InputError, match=message):
        parse(words)


@pytest.mark.parametrize('name, model, size, crop', [
    ('vit_b_32', 'vit_base_patch32_224', 224, 0.875), ('vit_l_16', 'vit_large_patch16_224', 224, 0.875),
    ('cait_xxs24', 'cait_xxs24_224', 224, 1.0), ('cait_XXS24', 'cait_xxs24_384', 384, 1.0),
    ('cait_XXS24_224', 'cait_xxs24_224', 224, 1.0), ('cait_M48', 'cait_m48_448', 448, 1.0),
    ('ViT_base_patch16_224', 'vit_base_patch16_224', 224, 0.9),
    ('DeiT_tiny_distilled_patch16_224', 'deit_tiny_distilled_patch16_224', 224, 0.9),
    ('cait_s24_224.fb_dist_in1k', 'cait_s24_224', 224, 1.0)])
def test_their_names_of_models(name, model, size, crop):
    """As a configuration's name and as MODEL.NAME: the same architecture and recipe."""
    found, same = get_config(name), get_config(model)
    assert found.TRAIN == same.TRAIN and found.MODEL.EMBED_DIM == same.MODEL.EMBED_DIM
    assert (found.DATA.IMAGE_SIZE, found.DATA.CROP_PCT) == (size, crop)
    assert get_config(opts=['MODEL.NAME', name]).MODEL.DEPTH == same.MODEL.DEPTH


@pytest.mark.parametrize('text, project, hint', [
    ('Global: {epochs: 3}\nArch: {name: DeiT_tiny_patch16_224}\nLoss: {}', 'PaddleClas or PASSL',
     '; its model: -cfg=deit_tiny_patch16_224'),
    ('model: {name: CaiTWrapper}\ndataloader: {}\nlr_scheduler: {}', 'PASSL', ''),
    ('distribute: True\nmodel: vit_b_32_224\ndata_dir: x', 'MindCV', ''),
    ('aa: rand-m9\nmodel: cait_xxs24_224\nopt: adamw', 'timm', '; its model: -cfg=cait_xxs24_224'),
    ('MODEL: {TYPE: cait, NAME: cait_xxs24_224}\nTRAIN: {NUM_EPOCHS: 3}', 'PaddleViT',
     '; its model: -cfg=cait_xxs24_224')])
def test_their_yaml_files_get_a_pointer(tmp_path, text, project, hint):
    path = tmp_path / 'theirs.yaml'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(InputError) as caught:
        get_config(str(path))
    assert str(caught.value) == (f'{path}: is a configuration of {project}, expected one of this project: -cfg=NAME '
                                 f'for a shipped one, docs/migrating.md for the keys{hint}')


@pytest.mark.parametrize('document', ['migrating.md', 'migrating_cn.md'])
def test_a_model_from_a_configuration(document):
    code = next(block for _, block in blocks((ROOT / 'docs' / document).read_text(encoding='utf-8'), 'python'))
    names = {}
    exec(code, names)
    assert names['features'].shape == [1, 197, 384] and names['logits'].shape == [1, 1000]
