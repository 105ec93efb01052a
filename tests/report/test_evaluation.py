# SPDX-License-Identifier: Apache-2.0
"""The evaluation report: its files, its page, predictions read from every layout, comparisons."""
from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from CaiT.errors import InputError
from CaiT.report import evaluation, predictions
from CaiT.report.comparison import compare, verdict


def rows(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize('classes, count, pairs', [(10, 40, 'all 2'), (1000, 60, 'all 12'),
                                                   (1000, 200, 'the first 30 of 40')])
def test_report(tmp_path, made, check_page, classes, count, pairs):
    found = evaluation.write(tmp_path / 'out', made(classes, count), facts={'model': 'a <b>'})
    saved = json.loads((tmp_path / 'out' / 'report.json').read_text())
    wrong = len(range(0, count, 5))
    assert saved['top1'] == found['top1'] == 1 - wrong / count and saved['images'] == count
    assert saved['facts'] == {'model': 'a <b>'} and sum(one['count'] for one in saved['reliability']) == count
    assert len(saved['most_confused']) == min(wrong, 2 if classes == 10 else wrong)
    table = rows(tmp_path / 'out' / 'per_class.csv')
    assert len(table) == classes and table[0]['count'] == str(4 if classes == 10 else 1)
    assert table[0]['recall'] == '0.000000' and table[0]['most_confused_with'] == '1'
    assert table[1]['class_name'] == 'name 1 <&>' and table[1]['recall'] == '1.000000'
    if classes == 1000:
        assert table[999]['count'] == '0' and table[999]['precision'] == table[999]['f1'] == ''
    text, images = check_page(tmp_path / 'out' / 'report.html')
    assert len(images) == min(wrong, 24) and images[0].size == (20, 20)
    for words in ('Confusion', 'name 0 <&>', 'Reliability', 'Surest', 'a <b>', f'{100 * found["top1"]:.2f}%',
                  f'Most confused pairs ({pairs})'):
        assert words in text
    assert ('Shown are the' in text) == (classes == 1000)


def test_surest_mistakes_come_first(made, tmp_path, check_page):
    one = made()
    evaluation.write(tmp_path / 'out', one)
    wrong = [i for i in range(40) if i % 5 == 0]
    surest = max(wrong, key=lambda i: one.probs[i, 0])
    _, images = check_page(tmp_path / 'out' / 'report.html')
    assert images[0].getpixel((3, 3)) == (surest, surest, surest)


def test_images_that_are_gone(made, tmp_path, check_page):
    one = made()
    one.paths[:] = [path + '.gone' for path in one.paths]
    evaluation.write(tmp_path / 'out', one)
    text, images = check_page(tmp_path / 'out' / 'report.html')
    assert 'image not found' in text and not images


def test_all_right_and_one_class(made, tmp_path, check_page):
    one = made()
    one.ids[:, 0] = one.labels
    assert evaluation.write(tmp_path / 'out', one)['top1'] == 1
    assert 'No image was classified wrongly' in check_page(tmp_path / 'out' / 'report.html')[0]


def test_written_and_read_again(made, tmp_path):
    one = made()
    one.write(tmp_path / 'report_predictions.csv')
    again = predictions.read(tmp_path, num_classes=10)
    assert again.paths == one.paths and again.name(3) == 'name 3 <&>'
    for name in ('labels', 'ids', 'probs', 'label_probs'):
        np.testing.assert_array_equal(getattr(again, name), getattr(one, name))


LAYOUTS = {
    'pred.csv': 'path,class_id,class_name,prob,top5_class_ids,top5_probs\n'
                '{0},2,two,0.5,2 1 0,0.5 0.3 0.2\n{1},1,one,0.75,1 2 0,0.75 0.2 0.05\n',
    'infer.csv': 'path,class_id,class_name,prob,class_id_2,class_name_2,prob_2\n'
                 '{0},2,two,0.5,1,one,0.3\n{1},1,one,0.75,2,two,0.2\n',
    'infer.jsonl': '{{"path": "{0}", "class_id": 2, "class_name": "two", "prob": 0.5}}\n'
                   '{{"path": "{1}", "class_id": 1, "class_name": "one", "prob": 0.75}}\n'}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('prefix', ['', './', '/elsewhere/data/', '{folder}/'])
def test_layouts_and_paths(tmp_path, layout, prefix):
    prefix = prefix.format(folder=tmp_path)
    file, labels = tmp_path / layout, tmp_path / 'val_list.txt'
    file.write_text(LAYOUTS[layout].format(f'{prefix}val/a/1.png', f'{prefix}val/b/1.png'))
    labels.write_text('val/b/1.png 2\nval/a/1.png 2\nval/a/2.png 0\n')
    found = predictions.read(file, labels)
    assert found.labels.tolist() == [2, 2] and found.ids[:, 0].tolist() == [2, 1] and found.name(2) == 'two'
    assert found.probs[1, 0] == 0.75 and found.num_classes == 3
    assert found.right_prob(0) == 0.5 and found.right_prob(1) == (None if layout == 'infer.jsonl' else 0.2)


def test_the_list_may_have_longer_paths(tmp_path):
    file, labels = tmp_path / 'p.csv', tmp_path / 'val_list.txt'
    file.write_text(LAYOUTS['pred.csv'].format('a/1.png', 'b/1.png'))
    labels.write_text('val/b/1.png 1\nval/a/1.png 2\n')
    assert predictions.read(file, labels).labels.tolist() == [2, 1]


@pytest.mark.parametrize('content, labels, match', [
    (None, 'a 1\n', 'no such file, expected predictions'), ('path,x\n1,2\n', 'a 1\n', 'expected columns'),
    ('path,class_id,prob\n', 'a 1\n', 'found no predictions'),
    ('path,class_id,prob\nz.png,1,0.5\n', 'a.png 1\n', 'image z.png is not in --labels'),
    ('path,class_id,prob\n"z\n.png",1,0.5\n', 'a.png 1\n', r"image \$'z\\x0a.png' is not in --labels"),
    ('path,class_id,prob\n1.png,1,0.5\n', 'a/1.png 1\nb/1.png 2\n', 'several of its classes'),
    ('path,class_id,prob\na.png,1,0.5\n', 'a.png\n', 'line 1: found no class id'),
    ('path,class_id,prob\na.png,1,0.5\n', None, '--labels: found nothing'),
    ('path,class_id,prob\na.png,-1,0.5\n', 'a.png 1\n', 'class ids from -1'),
    ('path,class_id,prob\na.png,9223372036854775808,0.5\n', 'a.png 1\n', 'class id 9223372036854775808'),
    ('path,class_id,prob,label\na.png,1,0.5,99999999\n', None, 'class id 99999999'),
    ('path,class_id,prob,top5_class_ids,top5_probs\na.png,1,0.5,1 2,0.5\n', 'a.png 1\n',
     '2 classes with 1 probabilities'),
    ('path,class_id,prob,top5_class_ids\na.png,1,0.5,1 2\n', 'a.png 1\n', 'AttributeError|KeyError')])
def test_faults(tmp_path, content, labels, match):
    file, list_file = tmp_path / 'p.csv', tmp_path / 'l.txt'
    if content is not None:
        file.write_text(content)
    if labels is not None:
        list_file.write_text(labels)
    with pytest.raises(InputError, match=match):
        predictions.read(file, list_file if labels is not None else None)


@pytest.mark.parametrize('line', ['[1]', '3', '{"path": ["a"], "class_id": 1, "prob": 1}', '[' * 10_000,
                                  '{"path": "a", "class_id": ' + '9' * 5000 + ', "prob": 1}',
                                  '{"path": "a", "class_id": 1e300, "prob": 1}'], ids=range(6))
def test_lines_that_are_no_predictions(tmp_path, line):
    (tmp_path / 'p.jsonl').write_text(line + '\n')
    with pytest.raises(InputError, match='p.jsonl: (not a file of|cannot be read as) predictions') as error:
        predictions.read(tmp_path / 'p.jsonl', [('a', 1)])
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_comparison(made, tmp_path, check_page):
    """Of 40 images the earlier predictions had 8 wrong: two of them become right, one right becomes wrong, one changes
    between two wrong classes."""
    before, now = made(), made()
    for index, class_id in ((0, now.labels[0]), (5, now.labels[5]), (1, 9), (10, 7)):
        now.ids[index, 0] = class_id
    now.paths[:] = ['/moved' + path for path in reversed(now.paths)]
    for name in ('labels', 'ids', 'probs', 'label_probs'):
        setattr(now, name, getattr(now, name)[::-1])
    found = compare(now, before)
    assert (found.images, found.lost, found.gained, found.both_wrong, found.both_right) == (40, 1, 2, 6, 31)
    assert sorted((one.other, one.kind) for one in found.changed) == [
        (0, 'gained'), (1, 'lost'), (5, 'gained'), (10, 'other')]
    assert all(now.paths[one.index].endswith(before.paths[one.other]) for one in found.changed)
    assert found.p_value == 1.0 and 'may be chance' in verdict(found)
    before.write(tmp_path / 'earlier.csv')
    now.paths[:] = [path[len('/moved'):] for path in now.paths]
    saved = evaluation.write(tmp_path / 'out', now, earlier=tmp_path / 'earlier.csv')
    assert saved['compare']['changed'] == 4 and saved['compare']['top1_before'] == 0.8
    text, images = check_page(tmp_path / 'out' / 'report.html')
    assert 'Images that changed (4 of 4)' in text and "McNemar's test" in text and '+2.50 points' in text
    assert len(images) == 4 + 7


class Samples(list):
    """Has attributes."""


@pytest.mark.parametrize('in_memory', [False, True, 'in shards'])
def test_report_of_a_job(made, tmp_path, check_page, in_memory):
    from types import SimpleNamespace

    from CaiT.config import get_config
    one = made()
    dataset = SimpleNamespace(samples=list(zip(one.paths, one.labels)), class_names=None)
    if in_memory:  # as of an archive: nothing lies at the paths
        dataset.pixels = np.full((40, 32, 32, 3), 7, np.uint8)
        dataset.samples = [(f'{path}#gone', label) for path, label in dataset.samples]
    if in_memory == 'in shards':
        pixels = dataset.__dict__.pop('pixels')
        dataset.samples = Samples(dataset.samples)
        dataset.samples.image = lambda index: Image.fromarray(pixels[index])
    one.write(tmp_path / 'earlier.csv')
    config = get_config(opts=['MODEL.NUM_CLASSES', '10', 'DATA.DATA_PATH', str(tmp_path)])
    earlier = None if in_memory else tmp_path / 'earlier.csv'
    said = evaluation.write_for_job(tmp_path / 'out', one, dataset, config, earlier)
    assert said.startswith(f'report: {tmp_path / "out" / "report.html"}, ECE: 0.')
    assert ('0 of 40 decisions changed' in said) != bool(in_memory)
    text, images = check_page(tmp_path / 'out' / 'report.html')
    assert f'data path: {tmp_path} · dataset format: imagenet2012 · ' in text
    assert 'cait_xxs24_224' in text and images[0].size == ((32, 32) if in_memory else (20, 20))
    assert json.loads((tmp_path / 'out' / 'report.json').read_text())['loss'] == pytest.approx(
        -np.log(one.label_probs).mean())


def test_comparison_with_predictions_without_labels(made, tmp_path):
    one = made()
    lines = [f'{path},{ids[0]},,{prob[0]}\n' for path, ids, prob in zip(one.paths, one.ids, one.probs)]
    (tmp_path / 'bare.csv').write_text('path,class_id,class_name,prob\n' + ''.join(lines))
    found = evaluation.write(tmp_path / 'out', one, earlier=tmp_path / 'bare.csv')['compare']
    assert found['changed'] == 0 and found['images'] == 40 and found['p_value'] == 1


def test_comparison_of_models_with_other_numbers_of_classes(made, tmp_path):
    """The earlier model has a class that the present one never gives, with or without a number of classes."""
    one = made()
    one.write(tmp_path / 'now.csv')
    one.ids[0, 0], one.num_classes = 673, 674
    one.write(tmp_path / 'earlier.csv')
    for num_classes in (0, 10):
        found = evaluation.from_file(tmp_path / 'now.csv', None, tmp_path / 'out', tmp_path / 'earlier.csv',
                                     num_classes=num_classes)
        assert found['classes'] == 10 and found['compare']['changed'] == 1
    with pytest.raises(InputError, match=r'earlier.csv: found class id 673, expected 0 to 9 \(--num-classes\)'):
        evaluation.from_file(tmp_path / 'earlier.csv', None, tmp_path / 'out', num_classes=10)


def test_what_to_compare_with_is_checked_first(made, tmp_path):
    with pytest.raises(InputError, match='found no report_predictions.csv there'):
        evaluation.check_earlier(tmp_path)
    made().write(tmp_path / 'report_predictions.csv')
    for path in (tmp_path, tmp_path / 'report_predictions.csv', None):
        evaluation.check_earlier(path)


def test_comparison_of_different_images(made):
    one, other = made(), made()
    other.labels[3] = 9
    with pytest.raises(InputError, match='has label 3 here and 9 there'):
        compare(one, other)
    other.paths[:] = [f'/x/{i}.png' for i in range(40)]
    with pytest.raises(InputError, match='no image in common'):
        compare(one, other)
