# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON from strangers: read as ever, or one short line, soon."""
from __future__ import annotations

import time

import pytest

from CaiT import safe_json, safe_yaml
from CaiT.config import get_config
from CaiT.errors import InputError


def test_ordinary_texts():
    assert safe_yaml.loads('a: {b: [1, 2.5, x]}\nc: &n {d: 1}\ne: *n\nf: {<<: *n, g: 2}\n') == {
        'a': {'b': [1, 2.5, 'x']}, 'c': {'d': 1}, 'e': {'d': 1}, 'f': {'d': 1, 'g': 2}}
    assert safe_yaml.loads('') is None and safe_yaml.loads('# nothing') is None
    assert safe_json.loads('{"a": [1, -2.5e3, "[[[{\\"", null, true]}') == {'a': [1, -2500.0, '[[[{"', None, True]}


BOMB = 'a: &a0 [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{"abcdefghij"[i]}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 10))
MERGES = 'a: &a0 {x: 1}\n' + ''.join(f'b{i}: &a{i} {{<<: [{", ".join([f"*a{i - 1}"] * 10)}]}}\n' for i in range(1, 10))
DIAMOND = 'TRAIN:\n  EPOCHS:\n    - &a0 [x, y]\n' + ''.join(
    f'    - &a{i} [*a{i - 1}, *a{i - 1}]\n' for i in range(1, 60))
YAML = {
    'aliases': (BOMB, 'aliases expand'), 'merges': (MERGES, 'aliases expand'), 'diamond': (DIAMOND, 'aliases expand'),
    'alias to itself': ('&a [*a]', 'itself'), 'mapping of itself': ('a: &a {b: *a}', 'itself'),
    'brackets': ('a: ' + '[' * 5000, 'nested'), 'braces': ('{a: ' * 5000, 'nested'), 'dashes': ('- ' * 2000, 'nested'),
    'digits': ('a: ' + '9' * 5000, 'bits|digits'), 'hexadecimal': ('a: 0x' + 'f' * 5000, 'bits'),
    'sexagesimal': ('a: ' + ':'.join(['59'] * 2000), 'bits'), 'above 64 bits': (f'a: {2 ** 63}', '64 bits'),
    'NUL': ('a: \0', 'not YAML'), 'python': ('a: !!python/object/apply:os.system [true]', 'not YAML'),
    'date': ('a: 2026-99-99', 'not YAML'), 'size': ('a: ' + 'x' * 300_000, 'expected at most'),
    'values': ('[' + '1,' * 30_000 + ']', 'more than'), 'key': ('? [a, b]\n: 1', 'not YAML'),
}


@pytest.mark.parametrize('case', YAML)
def test_hostile_yaml_is_one_line(tmp_path, case):
    content, reason = YAML[case]
    path = tmp_path / 'c.yaml'
    path.write_text(content)
    begun = time.process_time()
    for read in (safe_yaml.load_yaml, lambda path: get_config(str(path))):
        with pytest.raises(InputError, match=reason) as caught:
            read(path)
        assert str(caught.value).startswith(str(path)) and '\n' not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert time.process_time() - begun < 5  # of this process: a busy machine counts for nothing


@pytest.mark.parametrize('content, reason', [
    ('BASE: "a\\0b"', 'no such file'), ('BASE: [1, [2]]', 'BASE: found'), ('[1]', 'found list'),
    ('TRAIN: {BASE_LR: .nan}', 'TRAIN.BASE_LR: found nan, expected a finite number'),
    ('DATA: {MEAN: [.inf, 0, 0]}', 'DATA.MEAN: found inf'),
    ('TRAIN: {EPOCHS: [[[[[[[1]]]]]]]}', 'TRAIN.EPOCHS: found '),
    ('TRAIN: {EPOCHS: "' + '9' * 900 + '"}', 'TRAIN.EPOCHS: found'), ('DATA: {STD: [1e999, 1, 1]}', 'DATA.STD')])
def test_values_that_are_no_settings(tmp_path, content, reason):
    path = tmp_path / 'c.yaml'
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        get_config(str(path))
    assert reason in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize('value', ['(' * 5000, '[' * 150, '9' * 5000, '-' * 900 + '1', '1e999', 'x' * 10 ** 5, '\0'])
def test_values_of_opts(value):
    with pytest.raises(InputError, match='TRAIN.BASE_LR') as caught:
        get_config(opts=['TRAIN.BASE_LR', value])
    assert len(str(caught.value)) < 300


def test_many_bases(tmp_path):
    for i in range(30):
        (tmp_path / f'{i}.yaml').write_text(f'BASE: {i + 1}.yaml\n')
    with pytest.raises(InputError, match='more than 20 BASE files'):
        get_config(str(tmp_path / '0.yaml'))


@pytest.mark.parametrize('content, reason', [
    ('[' * 200_000, 'nested 200000 deep'), ('{"a":' * 5000 + '1' + '}' * 5000, 'nested 5000 deep'),
    ('9' * 5000, 'digits'), ('[1e999]', 'too large'), ('[NaN]', 'NaN'), ('{"a": -Infinity}', 'Infinity'),
    ('{"a"', 'not JSON'), ('', 'not JSON'), ('"\x01"', 'not JSON')])
def test_hostile_json_is_one_line(tmp_path, content, reason):
    path = tmp_path / 'c.json'
    path.write_text(content)
    with pytest.raises(InputError, match=reason) as caught:
        safe_json.load_json(path)
    assert str(caught.value).startswith(str(path)) and '\n' not in str(caught.value)
