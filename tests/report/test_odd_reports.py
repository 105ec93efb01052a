# SPDX-License-Identifier: Apache-2.0
"""Reports of odd inputs: names from disk, one class, no image right, probabilities that are none."""
from __future__ import annotations

import csv
import os

import numpy as np
import pytest
from PIL import Image

from CaiT.data.text import quoted
from CaiT.errors import InputError
from CaiT.report import evaluation, multi_label, predictions
from CaiT.report.comparison import compare
from CaiT.report.confusion_matrix import ink_on, short_names
from CaiT.report.names import titles
from CaiT.report.predictions import Predictions

NAMES = ['<script>alert(1)</script>', '"><img src=x onerror=alert(2)>', '东方白鹳', 'عربي', '', "O'Neil & \"Sons\""]


def rows(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize('name', ['caf\udce9.png', 'two\nlines.png', "$'x.png", '<b>&"\'.png'])
def test_file_names_from_disk(made, tmp_path, check_page, name):
    """Bytes that are no UTF-8, line ends, quotes: written as lists hold them, read again, and paired by -compare."""
    one = made()
    path = os.path.join(os.path.dirname(one.paths[0]), name)
    Image.new('RGB', (20, 20), 'red').save(path)
    one.paths[0] = path  # is wrong
    evaluation.write(tmp_path / 'out', one)
    text, images = check_page(tmp_path / 'out' / 'report.html')
    assert quoted(f'valid/0/{name}') in text and len(images) == 8
    again = predictions.read(tmp_path / 'out')
    assert again.paths == one.paths and compare(again, one).images == 40
    saved = rows(tmp_path / 'out' / 'report_predictions.csv')[0]['path']
    assert saved == (quoted(path) if '\udce9' in name else path)


@pytest.mark.parametrize('several', [False, True])
def test_class_names_are_text(made, tmp_path, check_page, several):
    """Escaped in every place, isolated where they run from right to left; of blank ones the class id is said."""
    out = tmp_path / 'out'
    if several:
        labels = np.eye(6, dtype=bool)
        one = multi_label.Evaluation([f'{i}.png' for i in range(6)], labels, 0.9 * labels[::-1], np.full(6, 0.5), NAMES)
        multi_label.write(out, one, 0.5, 'x', {'weights': NAMES[0]}, lambda i: Image.new('RGB', (9, 9)))
    else:
        evaluation.write(out, made(6, 24, names=NAMES), facts={'weights': NAMES[0]})
    text, images = check_page(out / 'report.html')  # no script, no image but ours
    html = (out / 'report.html').read_text(encoding='utf-8')
    assert all(name in text for name in NAMES if name) and 'class 4' in text and '<bdi>عربي</bdi>' in html
    assert images and 'onerror=alert(2)>' not in html
    assert [row['class_name'] for row in rows(out / 'per_class.csv')] == NAMES


def test_a_class_name_that_is_no_unicode(made, tmp_path):
    evaluation.write(tmp_path, made(3, 9, names=['a\ud800', 'b', 'c']))
    assert 'a\\ud800' in (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert rows(tmp_path / 'per_class.csv')[1]['class_name'] == 'b'


@pytest.mark.parametrize('names, shown', [
    ({134: 'crane', 517: 'crane', 2: 'x'}, {134: 'crane (134)', 517: 'crane (517)', 2: 'x'}),
    ({0: ' ', 1: 'a'}, {1: 'a'}), ({}, {})])
def test_equal_names_are_distinct(names, shown):
    assert titles(names) == shown


@pytest.mark.parametrize('names, shown', [
    (['short', 'a name of more than 18'], ['short', 'a name of more th…']),
    (['a very long name, first', 'a very long name, second'], ['a very long… 0', 'a very long… 1']),
    (['东方白鹳（大型涉禽）', 'x'], ['东方白鹳（大型涉…', 'x'])])
def test_names_in_the_matrix(names, shown):
    one = Predictions(['a'], np.array([0]), np.array([[0]]), np.ones((1, 1)), 2, dict(enumerate(names)))
    assert list(short_names(one, range(len(names))).values()) == shown


@pytest.mark.parametrize('color, opacity, ink', [('#d55e00', 0.6, '#000'), ('#0072b2', 0.6, '#000'),
                                                 ('#0072b2', 1, '#fff'), ('#000000', 0.4, '#000')])
def test_numbers_can_be_read_on_their_color(color, opacity, ink):
    assert ink_on(color, opacity) == ink


@pytest.mark.parametrize('classes, images, words', [
    (1, 3, ['100.00% always, with 1 class', '0.0000 mean cross', 'of 1 class; the head has 1', 'as certain as it is']),
    (2, 1, ['always, with 2 classes', 'of 1 class; the head has 2', '95% interval 20.7% to 100.0%']),
    (30, 40, ['Shown are the first 20 classes. Rows', 'No image was classified wrongly'])])
def test_all_right(tmp_path, check_page, classes, images, words):
    labels = np.arange(images) % classes
    evaluation.write(tmp_path, Predictions.from_probs([f'{i}' for i in range(images)], labels, np.eye(classes)[labels]))
    text, _ = check_page(tmp_path / 'report.html')
    assert all(one in text for one in words), text
    assert '-0.0' not in text


@pytest.mark.parametrize('images', [1, 23, 77, 1000])  # Wilson's lower end: a rounding error below 0
def test_none_right(tmp_path, check_page, images):
    probs = np.tile([0.75, 0.25], (images, 1))
    found = evaluation.write(tmp_path, Predictions.from_probs(['x'] * images, np.ones(images, np.int64), probs))
    assert found['top1'] == found['macro_f1'] == found['top1_low'] == 0 and found['ece'] == 0.75
    text, _ = check_page(tmp_path / 'report.html')
    assert '95% interval 0.0% to' in text and 'more certain than it is right' in text and '-0.0' not in text
    assert f'{images:,} of {images:,} images' in text


def test_nothing_in_common_but_the_images(made, tmp_path, check_page):
    """Where every decision changed, no difference of probabilities is defined."""
    one, other = made(), made()
    other.ids[:, 0] = (one.ids[:, 0] + 1) % 10
    other.write(tmp_path / 'other.csv')
    evaluation.write(tmp_path / 'out', one, earlier=tmp_path / 'other.csv')
    text, _ = check_page(tmp_path / 'out' / 'report.html')
    assert 'the top-1 probability, same class – ' in text and 'decisions that changed 40' in text


@pytest.mark.parametrize('value', ['nan', '7.25', '-0.5', 'inf'])
@pytest.mark.parametrize('columns', ['prob', 'top5_probs', 'prob_2', 'label_prob'])
def test_probabilities_that_are_none(tmp_path, columns, value):
    row = {'path': 'a.png', 'class_id': '1', 'prob': '0.5', 'label': '1'}
    row.update({'top5_probs': {'top5_class_ids': '1 2', 'top5_probs': f'0.5 {value}'},
                'prob_2': {'class_id_2': '2', 'prob_2': value}}.get(columns, {columns: value}))
    (tmp_path / 'p.csv').write_text(','.join(row) + '\n' + ','.join(row.values()) + '\n')
    with pytest.raises(InputError, match=f'p.csv: not a file of predictions .*probability {value}, expected 0 to 1'):
        predictions.read(tmp_path / 'p.csv')


def test_a_table_that_a_spreadsheet_wrote(tmp_path):
    (tmp_path / 'p.csv').write_text('\ufeffpath,class_id,prob,label\r\na.png,1,0.5,1\r\n', encoding='utf-8')
    assert predictions.read(tmp_path / 'p.csv').paths == ['a.png']


def test_predictions_of_several_classes_are_refused(tmp_path):
    (tmp_path / 'p.csv').write_text('path,class_id,class_name,prob,class_ids,labels\na.png,1,,0.5,1 2,1\n')
    with pytest.raises(InputError, match='found the column class_ids, of images with several classes, .* by -eval'):
        predictions.read(tmp_path / 'p.csv')
