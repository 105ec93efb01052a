# SPDX-License-Identifier: Apache-2.0
"""What lies beside weights is used with them: the settings of training and the names of the classes."""
from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from CaiT.data.label_map import read_label_map
from CaiT.errors import InputError
from CaiT.main_single_gpu import main
from CaiT.report import attention
from CaiT.run_config import config_for
from CaiT.tools import attention_map
from CaiT.training import jobs

ROOT = Path(__file__).resolve().parents[2]
NAMES = ['斑马 zebra', '10 figs', 'dog']  # one of them begins with a number


@pytest.fixture(scope='module')
def run(stripes, tmp_path_factory):
    """A run with class names and settings of its own kind: another mean than the model's row, an output folder."""
    from tests.training.conftest import small_config
    folder = tmp_path_factory.mktemp('run') / 'run'
    names = folder.parent / 'names.json'
    names.write_text(json.dumps(NAMES), encoding='utf-8')
    jobs.train(small_config(stripes, 'DATA.MEAN', '(0.25,0.5,0.75)', epochs=1, output_dir=str(folder),
                            label_map=str(names), seed=3))
    names.unlink()  # only the run's folder travels
    return folder


def rows(table):
    with open(table, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_training_writes_the_class_names(run):
    assert read_label_map(run / 'classes.txt', 3) == NAMES


def test_names_of_several_lines_are_written_as_one(config, tmp_path):
    jobs._write_class_names(config(), tmp_path, ['a\nb', 'c  d ', '3 e'], True)
    assert read_label_map(tmp_path / 'classes.txt', 3) == ['a b', 'c d', '3 e']


@pytest.mark.parametrize('words', [
    ['-resume={run}'], pytest.param(['-resume', '{run}/best'], marks=pytest.mark.slow),
    pytest.param(['-output_dir={run}', '-resume=auto'], marks=pytest.mark.slow),
    ['-resume={run}', '-output_dir={run}-2']])
def test_a_run_is_resumed_with_its_own_settings(run, tmp_path, capsys, words):
    """No flag of it is repeated; one that is given wins."""
    copy = shutil.copytree(run, tmp_path / 'copy')
    assert main([word.format(run=copy) for word in words] + ['-epochs=2', '-device=cpu']) == 0
    output = capsys.readouterr().out
    assert f'config: {copy}/config.yaml (of the run that is resumed)' in output
    assert 'Epoch[002/002]' in output and 'Epoch[001/002]' not in output
    resumed = Path(f'{copy}-2') if len(words[0]) + len(words[-1]) > 40 else copy
    assert read_label_map(resumed / 'classes.txt', 3) == NAMES


def test_resuming_with_other_settings_says_how_to_use_its_own(run):
    with pytest.raises(InputError, match=r'MODEL.DEPTH is 2 there and 24 in this run.* \(without -cfg, -resume RUN '
                                         r'reads its config.yaml\)'):
        main(['-cfg=cait_xxs24_224', f'-resume={run}', '-num_classes=3', '-device=cpu'])


def test_the_datasets_own_file_is_left_alone(config, stripes, tmp_path):
    data = shutil.copytree(stripes, tmp_path / 'data')
    (data / 'classes.txt').write_text('0 a\n1 b\n2 c\n', encoding='utf-8')
    jobs.train(config(data_path=str(data), output_dir=str(data), epochs=1))
    assert (data / 'classes.txt').read_text(encoding='utf-8') == '0 a\n1 b\n2 c\n'


def test_what_is_read_and_what_is_of_that_run_alone(run, stripes):
    config, line = config_for(f'{run}/best', None)
    assert line == f'config: {run}/config.yaml (beside the weights)'
    assert (config.MODEL.EMBED_DIM, config.DATA.MEAN, config.SEED) == (32, (0.25, 0.5, 0.75), 3)
    assert (config.DATA.DATA_PATH, config.DATA.LABEL_MAP) == (str(stripes), f'{run}/classes.txt')
    assert (config.OUTPUT_DIR, config.DEVICE, config.MODEL.PRETRAINED) == ('', 'auto', '')
    config, _ = config_for(f'{run}/last.pdparams', None, ['SEED', '5', 'MODEL.USE_EMA', 'True'], output_dir='x',
                           label_map='y')
    assert (config.SEED, config.MODEL.USE_EMA, config.OUTPUT_DIR, config.DATA.LABEL_MAP) == (5, True, 'x', 'y')


def test_cfg_wins_over_what_lies_beside(run, tmp_path):
    (tmp_path / 'own.yaml').write_text('MODEL: {NUM_CLASSES: 3}\nSEED: 9\n', encoding='utf-8')
    config, line = config_for(f'{run}/best', str(tmp_path / 'own.yaml'))
    assert (config.SEED, config.MODEL.EMBED_DIM, line) == (9, 192, '')
    assert config.DATA.LABEL_MAP == f'{run}/classes.txt'  # the names are the weights'
    assert config_for(f'{run}/best', 'cait_xxs24_224')[0].DATA.LABEL_MAP == ''  # three names, 1,000 classes


@pytest.mark.parametrize('weights', ['', 'zoo:timm', 'nowhere/best'])
def test_weights_that_lie_nowhere_have_the_default(weights):
    config, line = config_for(weights, None)
    assert (config.MODEL.NAME, line) == ('cait_xxs24_224', '')


@pytest.mark.parametrize('text, message', [('a: 1', 'unknown key a'), ('DATA: [', 'cannot be read|expected')])
def test_a_file_of_another_program_beside_the_weights(tmp_path, text, message):
    (tmp_path / 'w.pdparams').touch()
    (tmp_path / 'config.yaml').write_text(text, encoding='utf-8')
    with pytest.raises(InputError, match=f'{tmp_path}/config.yaml.*{message}.*beside the weights; -cfg names another'):
        config_for(str(tmp_path / 'w'), None)


def test_eval_and_pred_need_no_flag_but_the_weights(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(['-eval', f'-pretrained={run}/best'])
    main(['-pred', f'-pretrained={run}/best', '-output_dir=out'])
    printed = capsys.readouterr().out
    assert 'Validation Acc@1' in printed and printed.count('(beside the weights)') == 2
    assert not list(run.glob('*eval*')) and list(Path('output').glob('eval-*/report.html'))
    assert {row['class_name'] for row in rows('out/predictions.csv')} <= set(NAMES)


def test_attention_maps_use_config_names_and_statistics(run, stripes, tmp_path, capsys):
    image = str(stripes / 'val/1/01.png')
    attention_map.main([f'-pretrained={run}/best', f'-img_path={image}', f'-output_dir={tmp_path}', '-npz'])
    assert f'config: {run}/config.yaml' in capsys.readouterr().out
    with np.load(tmp_path / '01.npz') as saved:
        probs = saved['probs']
    table, _ = jobs.predict(config_for(f'{run}/best', None, pretrained=f'{run}/best', data_path=image,
                                    output_dir=str(tmp_path / 'p'))[0])
    assert rows(table)[0]['class_name'] in NAMES
    assert float(rows(table)[0]['prob']) == pytest.approx(probs.max(), abs=1e-6)


def test_attention_maps_use_the_statistics_in_the_weight_file(config, tmp_path, monkeypatch, capsys):
    """Weights that say how their images are normalized: as -eval does, unless a flag says otherwise."""
    from CaiT.models.registry import create_model
    from CaiT.weights.writers import PADDLE, write
    model = create_model('cait', image_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=3)
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    data = dict(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), crop_pct=1.0, interpolation='bicubic')
    with open(tmp_path / 'w.safetensors', 'wb') as file:
        write(file, '.safetensors', arrays, PADDLE, data)
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / 'a.png')
    seen = []
    monkeypatch.setattr(attention, 'explain', lambda model, pixels, *_: seen.append(pixels) or 1 / 0)
    words = [f'-pretrained={tmp_path}/w', f'-img_path={tmp_path}/a.png', '-opts', 'MODEL.NAME', 'cait',
             'DATA.IMAGE_SIZE', '16', 'MODEL.PATCH_SIZE', '8', 'MODEL.EMBED_DIM', '32', 'MODEL.DEPTH', '2',
             'MODEL.NUM_HEADS', '4', 'MODEL.NUM_CLASSES', '3']
    for more, mean in (([], (0.1, 0.2, 0.3)), (['DATA.MEAN', '(0.4,0.4,0.4)'], (0.4, 0.4, 0.4))):
        with pytest.raises(ZeroDivisionError):
            attention_map.main([*words, *more])
        expected = (np.float32(200 / 255) - np.float32(mean)) / 0.5
        np.testing.assert_allclose(seen[-1][0, :, 0, 0], expected, rtol=1e-5)
    assert 'data config of the weights' in capsys.readouterr().out


def test_pred_and_infer_write_the_same_columns(run, stripes, tmp_path):
    config, _ = config_for(f'{run}/best', None, pretrained=f'{run}/best', output_dir=str(tmp_path / 'p'))
    table, _ = jobs.predict(config)
    for words in (['export_model.py', f'-pretrained={run}/best', f'--save-inference-dir={tmp_path}/m'],
                  ['infer.py', f'--model-dir={tmp_path}/m', f'--img-path={stripes}/test_list.txt',
                   f'--output={tmp_path}/i.csv']):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    pred, infer = rows(table), rows(tmp_path / 'i.csv')
    assert list(pred[0]) == list(infer[0]) == ['path', 'class_id', 'class_name', 'prob', 'top5_class_ids',
                                               'top5_probs']
    for mine, theirs in zip(pred, infer):
        for key in ('path', 'class_id', 'class_name', 'top5_class_ids'):
            assert mine[key] == theirs[key]
        np.testing.assert_allclose(np.array(theirs['top5_probs'].split(), float),
                                   np.array(mine['top5_probs'].split(), float), atol=1e-5)


@pytest.mark.parametrize('names', [['斑马', 'x', 'ｗide'], ['e\u0301te\u0301', '🦓', 'plain name'], None])
def test_the_printed_table_is_aligned(stripes, tmp_path, capsys, names):
    """Columns as a terminal shows them: Chinese and emoji take two, combining marks none."""
    from CaiT.data.text import display_width
    paths = ['图/一.png', 'b.png', 'caf\u0065\u0301.png']
    predictions = [(np.array([i, (i + 1) % 3]), np.array([0.75, 0.25], np.float32)) for i in range(3)]
    jobs._write_predictions(tmp_path / 'p.csv', paths, names, predictions)
    head, *lines = capsys.readouterr().out.splitlines()[:4]
    starts = {display_width(head[:head.index(title)]) for title in ('top-5',)}
    starts |= {display_width(line[:line.index(f'{i}:0.7500')]) for i, line in enumerate(lines)}
    probs = {display_width(line[:line.index('0.7500')]) for line in lines} | {display_width(head[:head.index('prob')])}
    assert len(starts) == 1 and len(probs) == 1
