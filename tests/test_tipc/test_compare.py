# SPDX-License-Identifier: Apache-2.0
"""compare_results.py, compare_losses.py and analyse_speed.py: passing and failing comparisons."""
from __future__ import annotations

import importlib.util
import json

import pytest
from trees import ROOT

from CaiT.errors import InputError

TABLE = ('path,class_id,class_name,prob,top5_class_ids,top5_probs\n'
         'd/a.png,3,,0.52,3 5,0.52 0.4799\nd/b.png,7,,0.9,7 1,0.9 0.1\n')
GOOD = 'image_name: d/a.png, class_id: 3, prob: 0.5200\nimage_name: d/b.png, class_id: 7, prob: 0.9000\n'


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f'test_tipc/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


results, losses, speed = load('compare_results'), load('compare_losses'), load('analyse_speed')


@pytest.fixture
def compare(tmp_path):
    """compare(truth, log, *flags): runs the comparison; texts become truth.csv or .txt and log_fp32.log."""
    def run(truth, log, *flags):
        gt, shown = tmp_path / ('truth.csv' if truth.startswith('path,') else 'truth.txt'), tmp_path / 'log_fp32.log'
        gt.write_text(truth, encoding='utf-8')
        shown.write_text(log, encoding='utf-8')
        return results.main([f'--gt_file={gt}', f'--log_file={shown}', '--atol=1e-3', '--rtol=0', *flags])
    return run


def test_same_predictions(compare, capsys):
    assert compare(TABLE, 'args\n' + GOOD + '[2026] root INFO: x\n') == 0
    assert 'Assert allclose passed! The results of ' in capsys.readouterr().out
    assert compare(TABLE, GOOD.replace('d/', './d/')) == 0


@pytest.mark.parametrize('old, new, error', [
    ('class_id: 7', 'class_id: 1', 'd/b.png: found class 1, probability 0.9000, expected class 7'),
    ('class_id: 7', 'class_id: 4', 'expected class 7'),
    ('prob: 0.9000', 'prob: 0.8989', 'are inconsistent! (1 of 2 images'),
    ('prob: 0.9000', 'prob: nan', 'are inconsistent!'),
    ('prob: 0.9000', 'prob: high', 'd/b.png: found probability high, expected a number'),
    ('image_name: d/b', 'b.png\t[7, 0.9]\nimage_name: d/b', None),
    ('image_name: d/b', 'b.png\t[7, 0.8983]\nimage_name: d/b', 'probability 0.8983, expected class 7'),
    ('image_name: d/b', 'b.png\t[7, NaN]\nimage_name: d/b', 'are inconsistent!'),
    ('image_name: d/b', 'b.png\t[1, 0.9]\nimage_name: d/b', 'found class 1 in a line and 7 in the next'),
    ('d/b.png', 'd/c.png', '1 of 2 stored images are not in the log, the first: d/b.png'),
    ('image_name', 'image', 'not in the log'),
    (GOOD, '', '2 of 2 stored images are not in the log'),
])
def test_different_predictions(compare, old, new, error):
    if error is None:
        assert compare(TABLE, GOOD.replace(old, new)) == 0
        return
    with pytest.raises(InputError) as raised:
        compare(TABLE, GOOD.replace(old, new))
    assert error in str(raised.value)


def test_a_number_is_known_to_half_its_last_digit(compare):
    assert results.half_a_digit('0.9664') == pytest.approx(5e-5)
    assert results.half_a_digit('1e-3') == pytest.approx(5e-4)
    assert compare(TABLE.replace('0.9 0.1', '0.90104 0.1'), GOOD) == 0
    with pytest.raises(InputError):
        compare(TABLE.replace('0.9 0.1', '0.90106 0.1'), GOOD)


def test_fraction(compare):
    wrong = GOOD.replace('class_id: 7', 'class_id: 1')
    assert compare(TABLE, wrong, '--fraction=0.5') == 0
    with pytest.raises(InputError):
        compare(TABLE, wrong, '--fraction=0.6')
    with pytest.raises(InputError):  # a missing image is never part of the fraction
        compare(TABLE, wrong.replace('d/b.png', 'd/c.png'), '--fraction=0.5')


def test_equally_likely_class_is_no_difference(compare):
    assert compare(TABLE, GOOD.replace('class_id: 3, prob: 0.5200', 'class_id: 5, prob: 0.4799'), '--atol=0.05') == 0
    with pytest.raises(InputError):
        compare(TABLE, GOOD.replace('class_id: 3, prob: 0.5200', 'class_id: 5, prob: 0.4799'), '--atol=0.02')


def test_official_lines(compare):
    stored = 'elsewhere/a.png\t[3, 0.52]\nelsewhere/b.png\t[7, 0.9]\n'
    assert compare(stored, 'a.png\t[3, 0.5201]\nb.png\t[7, 0.9]\n') == 0
    assert compare(stored, GOOD) == 0
    with pytest.raises(InputError):
        compare(stored, 'a.png\t[3, 0.5201]\nb.png\t[8, 0.9]\n')


@pytest.mark.parametrize('truth, error', [
    ('', 'holds no results'), ('a.png 3\n', 'expected <image><tab>[class id, probability]'),
    ('path,class_id\nd/a.png,3\n', 'expected the columns that -pred writes'),
    ('x/b.png\t[7, 0.9]\ny/b.png\t[7, 0.9]\n', 'd/b.png: 2 stored images have this file name')])
def test_stored_results_that_are_none(compare, truth, error):
    with pytest.raises(InputError) as raised:
        compare(truth, GOOD)
    assert error in str(raised.value)


def test_nothing_to_compare(tmp_path):
    (tmp_path / 'a_fp32.txt').write_text('a.png\t[3, 0.52]\n', encoding='utf-8')
    for flags in ([f'--gt_file={tmp_path}/a_fp32.txt', f'--log_file={tmp_path}/*.log'],
                  [f'--gt_file={tmp_path}/*.csv', f'--log_file={tmp_path}/a_fp32.txt'], []):
        with pytest.raises(InputError) as raised:
            results.main(flags)
        assert 'nothing was compared' in str(raised.value)


def test_precision_chooses_the_stored_results(tmp_path):
    for kind, best in (('fp32', 3), ('int8', 4)):
        (tmp_path / f'truth_{kind}.txt').write_text(f'a.png\t[{best}, 0.5]\n', encoding='utf-8')
        (tmp_path / f'run_{kind}.log').write_text(f'a.png\t[{best}, 0.5]\n', encoding='utf-8')
    assert results.main([f'--gt_file={tmp_path}/truth_*.txt', f'--log_file={tmp_path}/run_*.log']) == 0
    (tmp_path / 'again_fp32.txt').write_text('a.png\t[3, 0.5]\n', encoding='utf-8')
    with pytest.raises(InputError) as raised:
        results.main([f'--gt_file={tmp_path}/*.txt', f'--log_file={tmp_path}/run_*.log'])
    assert 'both hold fp32 results' in str(raised.value)


def training_log(values, key='ips:', loss='2.30259,'):
    return ''.join(f'[Train][Epoch 1/1][Iter: {step}/{len(values)}] lr: 0.1, loss: {loss} '
                   f'avg_{key} {value} images/sec, {key} {value} images/sec, eta: 0:00:01\n'
                   for step, value in enumerate(values))


def test_losses(tmp_path):
    one, two = tmp_path / 'one.log', tmp_path / 'two.log'
    flags = [f'--dynamic={one}', f'--static={two}']
    one.write_text(training_log([1.0, 2.0]), encoding='utf-8')
    for text, error in ((training_log([1.0, 2.0]), None), (training_log([1.0]), '1 of 2 losses differ'),
                        (training_log([1.0, 2.0], loss='2.30260,'), 'the first in epoch 1, step 0'),
                        ('', 'nothing was compared')):
        two.write_text(text, encoding='utf-8')
        if error:
            with pytest.raises(InputError, match=error):
                losses.main(flags)
        else:
            assert losses.main(flags) == 0


@pytest.fixture
def analyze(tmp_path):
    def run(text, devices='N1C1'):
        (tmp_path / 'log').write_text(text, encoding='utf-8')
        speed.main([f'--filename={tmp_path}/log', f'--speed_log_file={tmp_path}/speed', '--model_name=m',
                    '--base_batch_size=4', '--run_mode=DP', '--fp_item=fp32', '--skip_steps=2',
                    f'--device_num={devices}', '--speed_unit=images/s'])
        return json.loads((tmp_path / 'speed').read_text(encoding='utf-8'))
    return run


def test_speed_is_the_trimmed_mean_times_the_cards(analyze):
    values = [0.0, 0.0, *[1e6] * 5, *[0.001] * 5, 10.0, 20.0]  # two skipped, five dropped at either end
    result = analyze(training_log(values), 'N1C4')
    assert result['ips'] == 60.0 and result['device_num'] == 'N1C4'
    assert result['convergence_value'] == 2.30259


def test_too_few_speeds(analyze):
    with pytest.raises(InputError, match='too few logs printed: found 12 speeds, expected at least 13'):
        analyze(training_log([1.0] * 12))


def test_glued_number_is_refused_as_the_official_script_would(analyze):
    with pytest.raises(InputError, match='expected a number'):
        analyze(training_log([1.0] * 20).replace('ips: 1.0 ', 'ips: 1.0, '))


def test_trainings_line_has_the_official_words():
    """As the official script splits it: a word that is the key, a word behind it that float() takes."""
    from CaiT.training.meter import Meter
    words = Meter().report(1, 2, 0, 4, 0.1, 2.30259, 0.5).split()
    assert float(words[words.index('ips:') + 1]) == 0.0
    assert float(words[words.index('loss:') + 1].rstrip(',')) == 2.30259
