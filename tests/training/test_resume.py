# SPDX-License-Identifier: Apache-2.0
"""What a run may go on from: whole and fitting checkpoints, with the settings that wrote them."""
from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from CaiT import export_model
from CaiT.errors import InputError
from CaiT.training import checkpoint, jobs, resume
from CaiT.training.logger import RunLogger

EMA = ('TRAIN.EMA_DECAY', 0.5)


def snapshot(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def change(path, edit):
    """Edit a state in place; like one of an older version it then ends without a checksum."""
    with open(path, 'rb') as file:
        state = pickle.load(file)
    edit(state)
    path.write_bytes(pickle.dumps(state, protocol=4))


def refused(config, folder, message):
    """Resuming ``folder`` is refused with exactly this message, and nothing in the folder has changed."""
    before = snapshot(folder)
    with pytest.raises(InputError) as caught:
        jobs.train(config)
    assert str(caught.value) == message
    assert snapshot(folder) == before


BROKEN = {
    "'optimizer' is missing": lambda s: s.pop('optimizer'),
    "'progress' is missing": lambda s: s.pop('progress'),
    "'steps': found float, expected int": lambda s: s.update(steps=6.0),
    "'steps': found -1, expected at least 1": lambda s: s.update(steps=-1),
    "'config': found no sections DATA, MODEL and TRAIN": lambda s: s.update(config='MODEL: 3'),
    "config: TRAIN.EPOCHS: found 'x', expected an integer of at least 1":
        lambda s: s.update(config=s['config'].replace('EPOCHS: 1\n', 'EPOCHS: x\n', 1)),
    "'optimizer': found 5 as a name, expected text": lambda s: s['optimizer'].update({5: np.zeros(1, 'float32')}),
    "'model': found b'head' as a name, expected text": lambda s: s['model'].update({b'head': np.zeros(1, 'float32')}),
    "config: TRAIN.LAST_EPOCH: found 'x', expected an integer":
        lambda s: s.update(config=s['config'].replace('LAST_EPOCH: 0\n', 'LAST_EPOCH: x\n', 1)),
    f"config: TRAIN.EPOCHS: found '{'x' * 79}…, expected an integer of at least 1":
        lambda s: s.update(config=s['config'].replace('EPOCHS: 1\n', f'EPOCHS: {"x" * 9000}\n', 1)),
    "model: 'head.bias' is missing": lambda s: s['model'].pop('head.bias'),
    "model: 'extra' is not of this model": lambda s: s['model'].update(extra=np.zeros(1, 'float32')),
    "model: 'norm.weight': found shape [1], expected [32]":
        lambda s: s['model'].update({'norm.weight': np.zeros(1, 'float32')}),
    "model: 'norm.bias': found int64, expected an array of floating-point numbers":
        lambda s: s['model'].update({'norm.bias': np.zeros(32, 'int64')}),
    "model: 'cls_token': found list, expected an array of floating-point numbers":
        lambda s: s['model'].update(cls_token=[0.0]),
    "model: 'norm.weight': found float64, expected float32":
        lambda s: s['model'].update({'norm.weight': np.ones(32, 'float64')}),
    "model: 'head.bias': found float16, expected float32":
        lambda s: s['model'].update({'head.bias': np.zeros(3, 'float16')}),
    "ema: 'norm.weight': found float16, expected float32":
        lambda s: s['ema'].update({'norm.weight': np.ones(32, 'float16')}),
    "optimizer: 'head.bias/moment1_0': found float64, expected float32":
        lambda s: s['optimizer'].update({'head.bias/moment1_0': np.zeros(3)}),
    "model: 'pos_embed' holds NaN or infinite numbers": lambda s: s['model']['pos_embed'].fill(np.inf),
    "ema: 'head.weight' is missing": lambda s: s['ema'].pop('head.weight'),
    'ema: is empty, expected the moving average of all parameters': lambda s: s['ema'].clear(),
    "ema: 'norm.bias' holds NaN or infinite numbers": lambda s: s['ema']['norm.bias'].fill(np.nan),
    "optimizer: 'norm.bias/moment2_0' is missing": lambda s: s['optimizer'].pop('norm.bias/moment2_0'),
    "optimizer: 'head.bias/moment1_0': found shape [5], expected [3]":
        lambda s: s['optimizer'].update({'head.bias/moment1_0': np.zeros(5, 'float32')}),
    "optimizer: 'head.bias/beta1_pow_acc_0' holds NaN or infinite numbers":
        lambda s: s['optimizer']['head.bias/beta1_pow_acc_0'].fill(-np.inf),
    "optimizer: 'norm.bias/moment2_0': found -1, expected squares, at least 0":
        lambda s: s['optimizer']['norm.bias/moment2_0'].fill(-1),
    "optimizer: 'head.bias/beta2_pow_acc_0': found 1, expected a power of a number below 1":
        lambda s: s['optimizer']['head.bias/beta2_pow_acc_0'].fill(1),
    "optimizer: 'cls_token/beta1_pow_acc_0': found -0.5, expected a power of a number below 1":
        lambda s: s['optimizer']['cls_token/beta1_pow_acc_0'].fill(-0.5),
    'progress: epoch: found -5, expected an integer from 1 to 2': lambda s: s['progress'].update(epoch=-5),
    'progress: epoch: found 3, expected an integer from 1 to 2': lambda s: s['progress'].update(epoch=3),
    'progress: step: found 1000000000, expected an integer from 0 to 6': lambda s: s['progress'].update(step=10**9),
    'progress: step: found 1.5, expected an integer from 0 to 6': lambda s: s['progress'].update(step=1.5),
    'progress: epoch: found True, expected a number': lambda s: s['progress'].update(epoch=True),
    'progress: best_top1: found nan, expected a number from -1 to 1':
        lambda s: s['progress'].update(best_top1=float('nan')),
    'progress: correct is missing': lambda s: s['progress'].pop('correct'),
    "progress: unknown key 'momentum'": lambda s: s['progress'].update(momentum=1),
    'progress: images: found 0.5 after 3 steps': lambda s: s['progress'].update(step=3, images=0.5, correct=0),
    'progress: best_epoch: found 1 in epoch 1': lambda s: s['progress'].update(epoch=1, best_epoch=1),
    'progress: images: found 1.5 after 0 steps, expected 0': lambda s: s['progress'].update(step=0, images=1.5),
    'progress: loss_sum: found -2 after 0 steps, expected 0': lambda s: s['progress'].update(step=0, loss_sum=-2.0),
    'progress: images: found 0 after 2 steps': lambda s: s['progress'].update(step=2, images=0, correct=0),
}


@pytest.mark.parametrize('message', BROKEN)
def test_a_state_that_is_not_whole_is_refused_by_name(config, trained, message):
    path = trained / 'last.pdstate'
    change(path, BROKEN[message])
    refused(config(*EMA, output_dir=str(trained), resume='auto'), trained, f'-resume {path}: {message}')


@pytest.mark.parametrize('path', ['a\0b', 'x' * 70_000])
def test_a_data_path_that_cannot_be_one_differs(config, path):
    found = {key: theirs for key, theirs, _ in resume.differences({'DATA': {'DATA_PATH': path}}, config())}
    assert found['DATA.DATA_PATH'] == path


@pytest.mark.parametrize('where', [0.3, 0.7, 1.0], ids=['first third', 'last third', 'checksum'])
def test_a_flipped_bit_is_noticed(config, trained, where):
    path = trained / 'last.pdstate'
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 4
    path.write_bytes(content)
    refused(config(*EMA, output_dir=str(trained), resume='auto'), trained,
            f'{path}: damaged checkpoint: its content does not have the checksum at its end')


@pytest.mark.parametrize('cut, more', [(1, b''), (31, b''), (43, b''), (0, b'x'), (0, bytes(44)), (44, b'CaiT-512:')])
def test_a_checksum_that_is_not_whole(config, trained, cut, more):
    """The file was taken for one of an older version, without a checksum."""
    path = trained / 'last.pdstate'
    content = path.read_bytes()
    path.write_bytes(content[:len(content) - cut] + more)
    refused(config(*EMA, output_dir=str(trained), resume='auto'), trained,
            f'{path}: damaged checkpoint: found {min(44 - cut + len(more), 45)} bytes behind its content, expected the '
            '44 of its checksum')


def test_a_state_of_an_older_version_resumes_to_the_same_bits(config, trained, tmp_path):
    """Without a checksum, with the older names of its keys, without settings that came later."""
    def older(state):
        progress = state['progress']
        progress['pictures'] = progress.pop('images')
        progress.pop('lr'), progress.pop('grad_norm')
        settings = yaml.safe_load(state['config'])
        settings['TRAIN'].pop('FREEZE'), settings.pop('RESUME_ANYWAY')
        state['config'] = yaml.safe_dump({**settings, 'SHARDS': False})

    new = Path(shutil.copytree(trained, tmp_path / 'new'))
    change(trained / 'last.pdstate', older)
    for folder in (trained, new):
        jobs.train(config(*EMA, output_dir=str(folder), resume='auto'))
    old_state, new_state = (checkpoint.read(folder / 'last.pdstate') for folder in (trained, new))
    for part in ('model', 'ema', 'optimizer'):
        assert old_state[part].keys() == new_state[part].keys()
        assert all(np.array_equal(old_state[part][name], array) for name, array in new_state[part].items())
    assert old_state['progress'] == new_state['progress']


@pytest.mark.parametrize('opts, message', [
    (['DATA.MEAN', '(0.1,0.2,0.3)', 'TRAIN.LOSS', 'BCE'],
     'DATA.MEAN is [0.485, 0.456, 0.406] there and [0.1, 0.2, 0.3] in this run; '
     "TRAIN.LOSS is 'CE' there and 'BCE' in this run"),
    (['SEED', 5], 'SEED is 0 there and 5 in this run'),
    (['TRAIN.FREEZE', "['patch_embed.*']"], "TRAIN.FREEZE is [] there and ['patch_embed.*'] in this run"),
    (['MODEL.DROP_PATH_RATE', 0.3], 'MODEL.DROP_PATH_RATE is 0.0 there and 0.3 in this run'),
    (['AUG.MIXUP', 0.5], 'AUG.MIXUP is 0.0 there and 0.5 in this run')])
def test_other_settings_are_listed_and_refused_unless_said(config, trained, opts, message):
    path = trained / 'last.pdstate'
    refused(config(*EMA, *opts, output_dir=str(trained), resume='auto'), trained,
            f'-resume {path}: {message}; expected the same settings, or -opts RESUME_ANYWAY True to go on with '
            'those of this run, or another -output_dir for a run of its own')
    jobs.train(config(*EMA, *opts, 'RESUME_ANYWAY', True, output_dir=str(trained), resume='auto'))
    assert f'warning: resumed although settings differ: {message}\n' in (trained / 'log_train.txt').read_text()
    assert yaml.safe_load((trained / 'config.yaml').read_text())['RESUME_ANYWAY'] is False


@pytest.mark.parametrize('opts, message', [
    (['MODEL.NUM_HEADS', 8], 'MODEL.NUM_HEADS is 4 there and 8 in this run'),
    (['DATA.IMAGE_SIZE', 32, 'DATA.CROP_PCT', 0.5], 'DATA.IMAGE_SIZE is 16 there and 32 in this run'),
    (['TRAIN.OPTIMIZER.NAME', 'Momentum'], "TRAIN.OPTIMIZER.NAME is 'AdamW' there and 'Momentum' in this run")])
def test_what_the_arrays_depend_on_is_refused_whatever_is_said(config, trained, opts, message):
    refused(config(*EMA, *opts, 'RESUME_ANYWAY', True, output_dir=str(trained), resume='auto'), trained,
            f'-resume {trained / "last.pdstate"}: {message}; expected the flags of that run (without -cfg, -resume RUN '
            'reads its config.yaml)')


def test_where_and_how_a_run_goes_on_is_free(config, stripes, trained, tmp_path):
    """Workers, report frequency, an evaluation's batch; the same data by another path; -pretrained's file gone."""
    (tmp_path / 'link').symlink_to(stripes)
    state = jobs.train(config(*EMA, 'DATA.BATCH_SIZE_EVAL', 3, 'REPORT_FREQ', 1, 'SAVE_STEPS', 2, resume='auto',
                              output_dir=str(trained), data_path=str(tmp_path / 'link'), pretrained='/is/not/there'))
    assert state.epoch == 3


def test_batch_and_epochs_are_said(config, trained):
    jobs.train(config(*EMA, output_dir=str(trained), resume='auto', batch_size=8, epochs=3))
    said = (trained / 'log_train.txt').read_text()
    assert ('resumed with other settings: DATA.BATCH_SIZE is 4 there and 8 in this run; '
            'TRAIN.EPOCHS is 1 there and 3 in this run\n') in said
    assert 'warning: resumed for 3 epochs instead of 1: the learning rate jumps from 1e-05 to 0.00075\n' in said


@pytest.mark.parametrize('opts, line', [
    (['TRAIN.AMP.DTYPE', 'bfloat16'], "TRAIN.AMP.DTYPE is 'auto' there and 'bfloat16' in this run"),
    (['TRAIN.AMP.LEVEL', 'O2'], "TRAIN.AMP.LEVEL is 'O1' there and 'O2' in this run"),
    (['AMP', True], 'AMP is False there and True in this run'),
    (['TRAIN.ACCUM_ITER', 2], 'TRAIN.ACCUM_ITER is 1 there and 2 in this run')])
def test_what_may_differ_is_said(config, trained, opts, line):
    saved = resume.read_config(checkpoint.read(trained / 'last.pdstate'))
    assert resume.check_settings(saved, config(*EMA, *opts, epochs=1)) == f'resumed with other settings: {line}'


def test_auto_without_a_folder_takes_the_newest_run_if_it_is_this_one(config, stripes, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, 'output/train-20200101-00-00-00')
    other = tmp_path / 'other'
    shutil.copytree(stripes, other)
    with pytest.raises(InputError, match=r'DATA\.DATA_PATH is .*stripes.* there and .*other.* in this run; expected '):
        jobs.train(config(*EMA, resume='auto', data_path=str(other)))
    assert os.listdir('output') == ['train-20200101-00-00-00']
    jobs.train(config(*EMA, resume='auto'))
    assert [r['epoch'] for r in RunLogger('output/train-20200101-00-00-00', 'x').records()] == [1, 2]


def best_of(folder):
    return {name: (folder / name).read_bytes() for name in ('best.pdstate', 'best.pdparams', 'best_ema.pdparams')}


def test_best_goes_along_into_another_folder(config, trained, tmp_path, monkeypatch):
    from CaiT.training import trainer as module
    from CaiT.training.evaluator import EvalResult
    monkeypatch.setattr(module, 'evaluate', lambda *_: EvalResult(1.0, 0.0, 0.0, 11))  # no later epoch is better
    best = best_of(trained)
    state = jobs.train(config(*EMA, output_dir=str(tmp_path / 'b'), resume=str(trained)))
    assert best_of(tmp_path / 'b') == best == best_of(trained) and state.best_epoch == 1
    assert f'weights: {tmp_path}/b/best.pdparams' in (tmp_path / 'b/log_train.txt').read_text()


@pytest.mark.parametrize('lose', ['best.pdstate', 'best.pdparams', 'a later best'])
@pytest.mark.parametrize('moved', [True, False])
def test_best_that_is_not_there_starts_anew(config, trained, tmp_path, lose, moved):
    if lose == 'a later best':
        if not moved:
            pytest.skip('in its own folder the run redoes that epoch')
        change(trained / 'best.pdstate', lambda s: s['progress'].update(best_top1=1.0))
    else:
        (trained / lose).unlink()
    folder = tmp_path / 'b' if moved else trained
    state = jobs.train(config(*EMA, output_dir=str(folder), resume=str(trained / 'last')))
    assert (state.best_epoch, (folder / 'best.pdparams').is_file()) == (2, True)
    assert f'are not in {trained}: best starts anew' in (folder / 'log_train.txt').read_text()


def test_a_run_in_the_other_folder_is_not_overwritten(config, trained, tmp_path):
    other = Path(shutil.copytree(trained, tmp_path / 'b'))
    refused(config(*EMA, output_dir=str(other), resume=str(trained)), other,
            f'-output_dir {other}: holds a run already, which -resume {trained}/last.pdstate would overwrite; name '
            'another folder, or add -resume auto to go on with it')


def exported(folder, tag='last', *flags):
    """The config that export uses of the config.yaml in ``folder`` and its flags."""
    args = export_model.parser().parse_args(list(flags))
    return export_model.load_config(args, str(folder / f'{tag}.pdparams'))


@pytest.mark.parametrize('tag', ['last', 'best', 'best_ema'])
@pytest.mark.parametrize('key, old, new, message', [
    ('MEAN', '- 0.485', '- 0.5', 'DATA.MEAN is [0.485, 0.456, 0.406] in {} and [0.5, 0.456, 0.406] given'),
    ('CROP_PCT', 'CROP_PCT: 1.0', 'CROP_PCT: 0.5', 'DATA.CROP_PCT is 1.0 in {} and 0.5 given'),
    ('DEPTH', '  DEPTH: 2', '  DEPTH: 1', 'MODEL.DEPTH is 2 in {} and 1 given')])
def test_export_refuses_a_config_of_another_training(trained, capsys, tag, key, old, new, message):
    text = (trained / 'config.yaml').read_text()
    state = f'{"last" if tag == "best_ema" else tag}.pdstate'
    exported(trained, tag)
    assert capsys.readouterr().out.splitlines()[-1] == (
        f'settings: architecture, image size, mean and std are those of {state}')
    assert text.count(f' {key}:') == 1
    (trained / 'config.yaml').write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        exported(trained, tag)
    assert str(caught.value) == (f'{trained}/{tag}.pdparams: was trained with other settings than given: '
                                 + message.format(state))


def test_what_a_flag_of_export_says_is_meant(trained, capsys):
    assert exported(trained, 'last', '--image-size=32').DATA.IMAGE_SIZE == 32
    assert 'settings: DATA.IMAGE_SIZE is 16 in last.pdstate and 32 by a flag\n' in capsys.readouterr().out
    path = trained / 'config.yaml'
    path.write_text(path.read_text().replace('NUM_CLASSES: 3', 'NUM_CLASSES: 1000'))
    with pytest.raises(InputError, match='MODEL.NUM_CLASSES is 3 in last.pdstate and 1000 given'):
        exported(trained)
    assert exported(trained, 'last', '--num-classes=3').MODEL.NUM_CLASSES == 3


def test_weights_without_a_training_state_are_not_compared(trained, capsys):
    (trained / 'last.pdstate').write_bytes(b'half')
    exported(trained)
    assert 'warning: settings not compared with those of training, ' in capsys.readouterr().out
    for path in (trained / 'last.pdstate', trained / 'best.pdstate'):
        path.unlink()
    exported(trained)
    assert 'settings' not in capsys.readouterr().out


@pytest.mark.parametrize('name', ['', 'last', 'last.pdstate', 'last.pdparams'])
def test_names_of_a_checkpoint(trained, name):
    """A run's folder, a path without extension, the file, the weights beside it."""
    assert checkpoint.find(str(trained / name), 'elsewhere') == trained / 'last.pdstate'


def test_an_average_that_is_not_there_has_no_best(config, trained):
    """Or no average of this run would ever be written: none is better than 1."""
    change(trained / 'last.pdstate', lambda s: s['progress'].update(best_ema_top1=1.0))
    (trained / 'best_ema.pdparams').unlink()
    jobs.train(config(*EMA, output_dir=str(trained), resume='auto'))
    assert (trained / 'best_ema.pdparams').is_file()
