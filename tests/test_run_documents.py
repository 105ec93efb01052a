# SPDX-License-Identifier: Apache-2.0
"""The commands of the documents run in a fresh copy of the repository, or are listed with the reason why not."""
from __future__ import annotations

import re

import pytest

from tests import document_stand_ins, run_documents
from tests.run_documents import PAGES, is_expected, lines, reason, uses_digits


@pytest.mark.slow
@pytest.mark.parametrize('page', PAGES)
def test_the_commands_of_a_page_run(page):
    said = []
    outcomes = run_documents.run_page(page, 2, said.append)
    assert not any(one.result.startswith('STATUS') for one in outcomes), '\n'.join(said)


@pytest.mark.parametrize('line, expected', [
    ('python CaiT/main_single_gpu.py -dataset=tar -data_path=dataset/wds', 'shards of ImageNet'),
    ('python -m paddle.distributed.launch --devices 0,1 CaiT/main_multi_gpu.py', 'GPU'),
    ('python -m CaiT.tools.weights get cait_s24_224', 'network'), ('make demo', 'target'),
    ('python app.py --model-dir=output/digits/infer', 'Gradio'),
    ('python export_model.py --pretrained=weights/S24_224.pth', None),
    ('cait serve --model-dir=output/digits/infer', None),
    ('python infer.py --model-dir=output/digits/infer --img-path=dataset/digits/valid', None),
    ('python CaiT/main_single_gpu.py -cfg=CaiT/configs/cait_digits.yaml -output_dir=output/digits', None)])
def test_what_is_not_run_has_a_reason(line, expected):
    assert reason(line) is None if expected is None else expected in reason(line)


def test_the_five_commands_are_run():
    assert [line.split()[1] for _, line in lines('README.md') if 'digits' in line and not reason(line)] == [
        '-m', 'CaiT/main_single_gpu.py', 'CaiT/main_single_gpu.py', 'export_model.py', 'infer.py']


def test_lines_statuses_and_preparation(tmp_path, monkeypatch):
    (tmp_path / 'a.md').write_text('```bash\n# comment\npython a.py \\\n    -x  # why\n\nls\n```\n', encoding='utf-8')
    monkeypatch.setattr(run_documents, 'ROOT', tmp_path)
    assert list(lines('a.md')) == [(3, 'python a.py  -x'), (6, 'ls')]
    assert is_expected('python -m CaiT.tools.align -perturb a', 1) and not is_expected('python infer.py', 1)
    assert uses_digits(['python infer.py --model-dir=output/digits/infer'])
    assert not uses_digits(['python CaiT/main_single_gpu.py -output_dir=output/digits', 'x output/digits/best'])


def test_a_failing_line_is_reported(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(run_documents, 'lines', lambda page: [(1, 'echo found; exit 3'), (2, 'true'), (3, 'git push')])
    outcomes = run_documents.run_page('README.md', 0, said.append)
    assert [one.result for one in outcomes] == ['STATUS 3', 'ran', 'not run: sets up an environment: .ci/run does it']
    assert said[0].startswith('README.md:1: STATUS 3') and said[1] == 'found' and said[2].startswith('README.md:2: ran')
    assert said[3] == 'README.md:3: not run, sets up an environment: .ci/run does it: git push'


def test_what_a_page_needs_is_made(tmp_path):
    found = document_stand_ins.make(tmp_path, [
        'python -m CaiT.tools.make_lists dataset/flowers', 'python CaiT/main_single_gpu.py -output_dir=output/xxs24',
        'python CaiT/main_single_gpu.py -pretrained=output/xxs24/best -eval', 'python infer.py --check-images=images',
        'python infer.py --model-dir=output/my.jpg.d'])
    assert found == ['dataset/flowers', 'images']  # the run is made by a line of the page
    assert document_stand_ins.needed(['x -pretrained=output/xxs24/best']) == ['output/xxs24/best']
    assert document_stand_ins.needed(['x -output_dir=output/eval', 'report output/RUN']) == ['output/RUN']
    assert len(list(tmp_path.glob('dataset/flowers/*/*.jpg'))) == 18 and len(list(tmp_path.glob('images/*.jpg'))) == 3


def test_a_server_is_waited_for_and_stopped(tmp_path, monkeypatch):
    said = []
    server = 'python -m http.server 0 --bind 127.0.0.1'
    monkeypatch.setattr(run_documents, 'lines', lambda page: [(1, server), (2, 'cait serve --no-such-flag')])
    outcomes = run_documents.run_page('README.md', 0, said.append)
    assert [one.result for one in outcomes] == ['ran', 'STATUS 2'] and 'no-such-flag' in said[-1]


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """Writes pages of the lines given, in the place of the repository's; their table is empty."""
    def write(**texts):
        names = [f'{name}.md' for name in texts]
        for name, text in zip(names, texts.values()):
            (tmp_path / name).write_text(f'```bash\n{text}\n```\n', encoding='utf-8')
        monkeypatch.setattr(run_documents, 'PAGES', names)
    monkeypatch.setattr(run_documents, 'ROOT', tmp_path)
    monkeypatch.setattr(run_documents, 'TABLE', tmp_path / 't.tsv')
    return write


def results():
    return [(one.page, one.line, one.result) for one in run_documents.recorded()]


def test_outcomes_of_a_page_replace_its_rows(pages):
    pages(a='ls\nls -l', b='ls -a')
    row = run_documents.Outcome('a.md', 'ran', '2026-01-02', '3', 'ls')
    run_documents.record([row, row._replace(line='ls -l', result='STATUS 2')])
    run_documents.record([row._replace(page='b.md', line='ls -a', result='ran on stand-ins')])
    assert results() == [('a.md', 'ls', 'ran'), ('a.md', 'ls -l', 'STATUS 2'), ('b.md', 'ls -a', 'ran on stand-ins')]
    run_documents.record([row._replace(line='ls -l'), row._replace(result='STATUS 1')])
    assert results() == [('a.md', 'ls', 'STATUS 1'), ('a.md', 'ls -l', 'ran'), ('b.md', 'ls -a', 'ran on stand-ins')]
    assert run_documents.recorded()[0] == row._replace(result='STATUS 1')


def test_the_table_follows_the_pages(pages):
    pages(a='ls\ngit push\nls -l', b='ls\nls\nls -x')
    row = run_documents.Outcome('b.md', 'ran on stand-ins', '2026-01-02', '3', 'ls')
    run_documents.record([row, row._replace(seconds='4'), row._replace(line='ls -x', result='STATUS 1')])
    assert results() == [
        ('a.md', 'ls', 'ran on stand-ins, on b.md'), ('a.md', 'git push', 'not run: ' + reason('git push')),
        ('a.md', 'ls -l', 'not run yet'), ('b.md', 'ls', 'ran on stand-ins'), ('b.md', 'ls', 'ran on stand-ins'),
        ('b.md', 'ls -x', 'STATUS 1')]
    assert [one.seconds for one in run_documents.recorded()] == ['3', '', '', '3', '4', '3']
    pages(a='ls', b='ls -x\nls -l')  # a line moved, one is new, and the one that ran elsewhere ran nowhere now
    assert run_documents.main(['--sync']) == 0
    assert results() == [('a.md', 'ls', 'not run yet'), ('b.md', 'ls -x', 'STATUS 1'), ('b.md', 'ls -l', 'not run yet')]


def test_the_table_has_the_lines_of_the_pages():
    found = run_documents.recorded()
    assert run_documents.rows_of_the_pages(found) == found, 'python tests/run_documents.py --sync'


def test_the_five_commands_run_once(tmp_path, monkeypatch):
    ran = []

    def run(line, folder, epochs):
        ran.append(line)
        (folder / 'output').mkdir(exist_ok=True)
        (folder / 'output' / 'made').write_text(line, encoding='utf-8')
        return 0, ''
    monkeypatch.setattr(run_documents, 'run', run)
    run_documents.five_commands.cache_clear()
    for name in ('a', 'b'):
        run_documents.prepare(tmp_path / name, ['python infer.py --model-dir=output/digits/infer'], 7)
        assert 'infer.py' in (tmp_path / name / 'output' / 'made').read_text(encoding='utf-8')
    run_documents.five_commands.cache_clear()
    assert len(ran) == 5


def test_each_recorded_line_ran_or_has_a_reason():
    found = run_documents.recorded()
    assert {one.page for one in found} <= set(PAGES) and len(found) > 200
    for one in found:
        assert re.fullmatch(r'ran( on stand-ins)?(, on \S+\.md)?|not run: .+|not run yet', one.result), one
        assert bool(one.day) is one.result.startswith('ran'), one
