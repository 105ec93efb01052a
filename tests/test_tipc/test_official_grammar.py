# SPDX-License-Identifier: Apache-2.0
"""Paddle's official scripts read the same files more simply than ours: by line numbers, a value up to the second colon,
``mode=value`` only in the lines of epochs and batch size. What they would run, our programs understand.
"""
from __future__ import annotations

import importlib.util
import shlex

import pytest
from trees import LITE, ROOT

from CaiT import export_model, infer, main_single_gpu
from CaiT.errors import InputError

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('test_tipc/configs/*/train*.txt')
               if 'ptq' not in path.name)
MODES = (LITE, 'lite_train_whole_infer', 'whole_train_whole_infer', 'whole_infer')
PARSERS = {'main_single_gpu.py': main_single_gpu.parse, 'main_multi_gpu.py': main_single_gpu.parse,
           'export_model.py': lambda words: vars(export_model.parser().parse_args(words)),
           'infer.py': lambda words: vars(infer.parser().parse_args(words))}


class Official:
    """A file as the official scripts see it; lines are counted from 1."""

    def __init__(self, path: str, mode: str) -> None:
        self.lines, self.mode = (ROOT / path).read_text(encoding='utf-8').split('\n'), mode
        self.long = 'eval_params' in self.lines[22]

    def key(self, number: int) -> str:
        return self.lines[number - 1].split(':')[0]

    def value(self, number: int) -> str:
        return (self.lines[number - 1].split(':') + [''])[1]

    def by_mode(self, number: int) -> str:
        pairs = (item.partition('=') for item in self.value(number).split('|'))
        return next((value for mode, _, value in pairs if mode == self.mode), '')

    def set(self, number: int, value: str) -> str:
        return '' if 'null' in (self.key(number), value) or not value.strip() else f' {self.key(number)}={value}'

    def commands(self):
        """{step: command}, of everything that is no combination of lists."""
        weights, folder = 'log/best.pdparams', 'log'
        if self.mode == 'whole_infer':
            model, export, images = (37, 38, 48) if self.long else (24, 25, 31)
            yield self.value(export) + self.set(29 if self.long else 21, self.value(model)) + self.set(
                28 if self.long else 20, './out')
            yield from self.inference(folder, self.value(images))
        elif self.long:
            for device in self.value(5).split('|'):
                for amp in self.value(6).split('|'):
                    yield (self.value(16) + self.set(5, device) + self.set(8, folder) + self.set(7, self.by_mode(7))
                           + self.set(10, self.value(10)) + self.set(6, amp) + self.set(9, self.by_mode(9))
                           + self.set(13, self.value(13)))
            yield self.value(24) + self.set(10, weights) + self.set(5, device) + self.set(25, self.value(25))
            yield self.value(30) + self.set(29, weights) + self.set(28, folder)
            yield from self.inference(folder, self.value(12))
        else:
            yield (self.value(14) + self.set(7, folder) + self.set(6, self.by_mode(6)) + self.set(9, self.value(9))
                   + self.set(8, self.by_mode(8)))
            yield self.value(17) + self.set(9, weights)
            yield self.value(22) + self.set(21, weights) + self.set(20, folder)
            yield from self.inference(folder, '')

    def inference(self, folder: str, images: str):
        script, model, where, benchmark = (40, 47, 48, 50) if self.long else (27, 30, 31, 32)
        lists = (41, 42, 43, 44, 46) if self.long else (28, 29)
        first = ''.join(self.set(number, self.value(number).split('|')[0]) for number in lists)
        yield (self.value(script) + first + self.set(model, folder) + self.set(where, images)
               + self.set(benchmark, self.value(benchmark)))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('path', FILES)
def test_every_command_is_understood(path, mode):
    official = Official(path, mode)
    prepared = ('./dataset/lite_data', './dataset/digits', './dataset/LSVRC2012')
    steps = [shlex.split(command) for command in official.commands()]
    assert len(steps) >= (2 if mode == 'whole_infer' else 4)
    for script, *words in steps:
        given = PARSERS[script.rpartition('/')[2]](words)
        assert not [word for word in words if 'infer=' in word or '|' in word]
        if 'img_path' in given:
            assert given['img_path'][0].startswith(prepared) and given['precision'] == 'fp32'
            assert given['use_gpu'] is False
        elif 'data_path' in given and 'epochs' in given:
            assert given['data_path'] == './dataset/lite_data'
            assert bool(given['epochs']) == (not given['eval'])


@pytest.mark.parametrize('path', FILES)
def test_prepared_data_are_where_the_lines_look(path):
    """prepare.sh makes the lite data in every mode; section data_params names the rest for our scripts."""
    lines = (ROOT / path).read_text(encoding='utf-8').splitlines()
    start = next(index for index, line in enumerate(lines) if 'data_params' in line)
    assert [line.split(':')[0] for line in lines[start + 1:]] == [
        'lite_data', 'lite_images', 'whole_data', 'whole_images']
    assert not [line for line in lines if not line or line.count(':') > 1]


def paddleclas():
    """test_tipc/paddleclas_train.py; the folder is no package."""
    spec = importlib.util.spec_from_file_location('paddleclas_train', ROOT / 'test_tipc/paddleclas_train.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('words, expected', [
    ('-output_dir=out --model-name=M -epochs=2 -o Global.print_mem_info=True', ['-output_dir=out/M', '-epochs=2']),
    ('--model_name=M -o AMP.use_amp=True -o AMP.level=O1 --output-dir=o/p -opts TRAIN.TO_STATIC True -o A.b=c',
     ['-output_dir=o/p/M', '-amp=True', '-opts', 'TRAIN.TO_STATIC', 'True']),
    ('-o AMP.use_amp=False --model-name=M -output_dir=o', ['-output_dir=o/M'])])
def test_what_paddleclas_adds(words, expected, capsys):
    assert paddleclas().arguments_of(words.split()) == expected
    others = [word for word in words.split() if word.startswith(('Global.', 'AMP.level', 'A.b'))]
    assert capsys.readouterr().out == (f'left out, of PaddleClas: {", ".join(others)}\n' if others else '')


def test_paddleclas_needs_a_name():
    with pytest.raises(InputError, match='-model_name: missing, expected -model_name=…'):
        paddleclas().arguments_of(['-output_dir=o'])


def test_the_file_for_paddleclas():
    """Its script reads lines 1 to 52, passes line 9 as it is, and says ``-o`` to training."""
    lines = (ROOT / 'test_tipc/paddleclas/CaiT_train_infer_python.txt').read_text(encoding='utf-8').splitlines()
    assert len(lines) == 52 and lines[8] == '-batch_size:4' and lines[22].startswith('===')
    script, *words = shlex.split(lines[15].split(':')[1])
    assert (ROOT / script).is_file()
    words = paddleclas().arguments_of([*words, '-output_dir=o', '-o', 'AMP.use_amp=False', lines[12].replace(':', '=')])
    given = main_single_gpu.parse(words)
    assert given['output_dir'] == 'o/CaiT_paddleclas' and given['data_path'] == './dataset/lite_data'
