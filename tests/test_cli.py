# SPDX-License-Identifier: Apache-2.0
"""Command-line flags in all spellings."""
from __future__ import annotations

import argparse

import pytest

from CaiT.cli import Parser, boolean
from CaiT.errors import InputError
from CaiT.main_single_gpu import parse


def parser() -> Parser:
    made = Parser('what it does')
    made.flag('data_path', 'data_dir', help='folder')
    made.flag('epochs', type=int, default=3)
    made.switch('use_gpu')
    return made


@pytest.mark.parametrize('spelling', ['-data_path', '--data_path', '-data-path', '--data-path', '-data_dir',
                                      '--data-dir'])
def test_spellings(spelling):
    assert parser().parse_args([spelling, 'x']).data_path == 'x'
    assert parser().parse_args([f'{spelling}=x']).data_path == 'x'


@pytest.mark.parametrize('words, expected', [
    ([], False), (['-use_gpu'], True), (['--use-gpu=True'], True), (['--use-gpu', 'False'], False),
    (['-use_gpu', '-epochs', '4'], True)])
def test_switch(words, expected):
    assert parser().parse_args(words).use_gpu is expected


@pytest.mark.parametrize('words, match', [
    (['-epoch', '3'], 'unknown flag -epoch, did you mean -epochs?'),  # an abbreviation could mean another flag tomorrow
    (['--data-pth=x'], 'unknown flag --data-pth, did you mean --data-path?'),
    (['-q'], 'unknown flag -q '), (['x'], 'unrecognized arguments: x'),
    (['-epochs', 'three'], "argument .*epochs.*: invalid int value: 'three'"),
    (['-epochs'], 'argument .*epochs.*: expected one argument'),
    (['--use-gpu=maybe'], "argument .*use.gpu.*: expected True or False, found 'maybe'")])
def test_errors_are_one_line(words, match):
    with pytest.raises(InputError, match=match) as caught:
        parser().parse_args(words)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('word', ['nan', 'inf', '-Infinity', '1e999', '1,5'])
def test_numbers_are_finite(word):
    flags = Parser('')
    flags.flag('scale', type=float, default=0.5)
    assert flags.parse_args([]).scale == 0.5 and flags.parse_args(['--scale', '1e-3']).scale == 1e-3
    with pytest.raises(InputError, match=f'argument .*scale.*: expected a finite number, found {word!r}'):
        flags.parse_args([f'--scale={word}'])


@pytest.mark.parametrize('text, expected', [('True', True), ('yes', True), ('1', True), ('ON', True),
                                            ('False', False), ('no', False), ('0', False), (' off ', False)])
def test_boolean(text, expected):
    assert boolean(text) is expected


def test_not_boolean():
    with pytest.raises(argparse.ArgumentTypeError):
        boolean('2')


def test_flags_of_the_main_script():
    """Single dashes, quoted values after an equals sign, and nothing set that was not given."""
    found = parse(['-cfg=CaiT/configs/cait_xxs24_224.yaml', '-dataset=imagenet2012', '-batch_size=64',
                   '-pretrained=CaiT/cait_xxs24_224', '-data_path=dataset/LSVRC2012', '-eval'])
    assert {key: value for key, value in found.items() if value is not None} == {
        'cfg': 'CaiT/configs/cait_xxs24_224.yaml', 'dataset': 'imagenet2012', 'batch_size': 64, 'eval': True,
        'pretrained': 'CaiT/cait_xxs24_224', 'data_path': 'dataset/LSVRC2012', 'pred': False, 'opts': []}
    assert parse(['-amp'])['amp'] is True and parse([])['amp'] is None
    assert parse(['-opts', 'A', '1', 'B', '-2'])['opts'] == ['A', '1', 'B', '-2']
