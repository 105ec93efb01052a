# SPDX-License-Identifier: Apache-2.0
"""List files, label maps and paths of images."""
from __future__ import annotations

import json
import tracemalloc

import pytest

from CaiT.data.lists import list_images, read_label_map, read_list
from CaiT.errors import InputError


def write(path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
    return path


def test_lines_are_split_at_the_last_blank(tmp_path):
    text = '\ufefftrain/a b/c d.jpg 3\n\ntrain/é.png\t0\r\n  /elsewhere/x.jpg 2  \n'
    samples = read_list(write(tmp_path / 'list.txt', text), 'data', 4)
    assert list(samples) == [('data/train/a b/c d.jpg', 3), ('data/train/é.png', 0), ('/elsewhere/x.jpg', 2)]
    assert len(samples) == 3 and samples[-1] == samples[2] and samples[:1] == [samples[0]]
    assert samples.lines.tolist() == [1, 3, 4] and samples.labels.tolist() == [3, 0, 2]
    with pytest.raises(IndexError):
        samples[3]


@pytest.mark.parametrize('text,message', [
    ('a.jpg 0\na.jpg\n', 'list.txt, line 2: found .a.jpg., expected "path class_id"'),
    ('a.jpg x\n', 'line 1'), ('a.jpg -1\n', 'line 1'), ('a.jpg 1.5\n', 'line 1'), ('7\n', 'line 1'), ('', 'no lines'),
    ('\n\na.jpg 4\n', r'line 3: found class id 4, expected 0 to 3 \(the head has 4 classes\)'),
])
def test_malformed_lists_name_file_and_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_list(write(tmp_path / 'list.txt', text), 'data', 4)


def test_missing_and_binary_lists(tmp_path):
    with pytest.raises(InputError, match='none.txt: no such file'):
        read_list(tmp_path / 'none.txt', '', 4)
    (tmp_path / 'bytes.txt').write_bytes(b'\xff\xfe\x00\x81 1\n')
    with pytest.raises(InputError, match='bytes.txt: cannot be read as UTF-8'):
        read_list(tmp_path / 'bytes.txt', '', 4)


def test_test_lists_may_have_no_class_ids(tmp_path):
    samples = read_list(write(tmp_path / 'list.txt', 'a b.jpg\nc.jpg 2000\n'), '', None)
    assert list(samples) == [('a b.jpg', -1), ('c.jpg', 2000)]


@pytest.mark.parametrize('name,text', [
    ('a.json', json.dumps({'1': ['n01443537', 'gold_fish'], '0': ['n01440764', 'tench, Tinca']})),
    ('b.json', json.dumps({'0': 'tench, Tinca', '1': 'gold_fish'})),
    ('c.json', json.dumps(['tench, Tinca', 'gold_fish'])),
    ('synset_words.txt', 'n01440764 tench, Tinca\nn01443537 gold_fish\n'),
    ('numbered.txt', '0 tench, Tinca\n1 gold_fish\n'),
    ('plain.txt', 'tench, Tinca\n\ngold_fish\n'),
])
def test_label_maps(tmp_path, name, text):
    path = write(tmp_path / name, text)
    assert read_label_map(path, 2) == ['tench, Tinca', 'gold_fish']
    with pytest.raises(InputError, match='found 2 names, expected 10'):
        read_label_map(path, 10)


def test_names_that_begin_with_a_number_may_be_ids(tmp_path):
    """Refused, with what to write instead: as ids these would put one class in the other's place."""
    with pytest.raises(InputError, match='found ids from 0 to 5 for 2 classes and no 1'):
        read_label_map(write(tmp_path / 'a.txt', '0 degrees\n5 o clock\n'), 2)
    assert read_label_map(write(tmp_path / 'b.txt', '0 0 degrees\n1 5 o clock\n'), 2) == ['0 degrees', '5 o clock']


def test_numbers_before_one_name_are_the_names(tmp_path):
    assert read_label_map(write(tmp_path / 'a.txt', '0 degrees\n90 degrees\n'), 2) == ['0 degrees', '90 degrees']


@pytest.mark.parametrize('name,text', [('a.json', '{'), ('b.json', '{"1": "x"}'), ('c.json', '3')])
def test_broken_label_maps_are_one_line(tmp_path, name, text):
    with pytest.raises(InputError, match=name) as error:
        read_label_map(write(tmp_path / name, text), 1)
    assert '\n' not in str(error.value)
    with pytest.raises(InputError, match='no such file'):
        read_label_map(tmp_path / 'none.json', 1)


@pytest.mark.parametrize('name, text, found', [
    ('a.json', r'["\ud800"]', r"'\ud800'"), ('a.json', r'{"0": "a\nb"}', r"'a\nb'"),
    ('a.txt', '\x1b[2Jcat\n', r"'\x1b[2Jcat'"),
    ('a.json', r'{"a\u2028b": 0}', r"'a\u2028b'"), ('a.json', r'{"n01440764": "a\u0085"}', r"'a\x85'")])
def test_names_that_are_no_line_are_refused(tmp_path, name, text, found):
    with pytest.raises(InputError) as caught:
        read_label_map(write(tmp_path / name, text), 1)
    assert str(caught.value) == f'label map {tmp_path / name}: found the name {found}, expected one line of text'


def test_tabs_and_marks_in_names_stay(tmp_path):
    assert read_label_map(write(tmp_path / 'a.json', r'["a\tb", "\u200bc"]'), 2) == ['a\tb', '\u200bc']


def test_real_label_maps(real_data):
    for name, third in (('synset_words.txt', 'great white shark, white shark, man-eater, man-eating shark, '
                         'Carcharodon carcharias'), ('imagenet_class_index.json', 'great_white_shark')):
        assert read_label_map(real_data / 'meta' / name, 1000)[2] == third


def test_images_in_file_folder_and_list(tmp_path):
    for name in ('b/2.JPG', 'b/1.png', 'a.webp', 'notes.md'):
        write(tmp_path / 'images' / name, 'x')
    folder = tmp_path / 'images'
    assert list_images(folder) == [str(folder / name) for name in ('a.webp', 'b/1.png', 'b/2.JPG')]
    assert list_images(folder / 'a.webp') == [str(folder / 'a.webp')]
    assert list_images(write(folder / 'list.txt', 'b/1.png 4\na.webp\n')) == [
        str(folder / 'b/1.png'), str(folder / 'a.webp')]
    (tmp_path / 'empty').mkdir()
    for path, message in ((tmp_path / 'empty', 'found no images'), (tmp_path / 'none', 'no such image')):
        with pytest.raises(InputError, match=message):
            list_images(path)


def test_a_list_is_read_line_by_line(tmp_path):
    """At most 70 bytes a line at the peak; as Python strings and integers it was 380 (1.28 M lines: 466 MB, now 65)."""
    lines = [f'train/n{index % 1000:08d}/n{index % 1000:08d}_{index}.JPEG {index % 7}\n' for index in range(20_000)]
    path = write(tmp_path / 'list.txt', ''.join(lines))
    del lines
    tracemalloc.start()
    samples = read_list(path, 'data', 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / 20_000 < 70
    assert samples[-1] == ('data/train/n00000999/n00000999_19999.JPEG', 0) and len(samples.labels) == 20_000
