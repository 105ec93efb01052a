# SPDX-License-Identifier: Apache-2.0
"""The commands of the documents run in a fresh copy of the repository, or are listed with the reason why not."""
from __future__ import annotations

import pytest

from tests import run_documents
from tests.run_documents import PAGES, is_expected, lines, reason, uses_digits


@pytest.mark.slow
@pytest.mark.parametrize('page', PAGES)
def test_the_commands_of_a_page_run(page):
    said = []
    assert run_documents.run_page(page, 1, said.append) == 0, '\n'.join(said)


@pytest.mark.parametrize('line, expected', [
    ('python CaiT/main_single_gpu.py -data_path=dataset/LSVRC2012 -eval', 'ImageNet'),
    ('python -m paddle.distributed.launch --devices 0,1 CaiT/main_multi_gpu.py', 'GPU'),
    ('python export_model.py --pretrained=weights/S24_224.pth', 'published weights'),
    ('python infer.py --img-path=photos', "user's images"),
    ('cait serve --model-dir=output/digits/infer', 'until it is stopped'),
    ('python infer.py --model-dir=output/digits/infer --img-path=dataset/digits/valid', None),
    ('python CaiT/main_single_gpu.py -cfg=CaiT/configs/cait_digits.yaml -output_dir=output/digits', None)])
def test_what_is_not_run_has_a_reason(line, expected):
    assert reason(line) is None if expected is None else expected in reason(line)


def test_the_five_commands_are_run():
    assert [line.split()[1] for _, line in lines('README.md') if not reason(line)] == [
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
    assert run_documents.run_page('README.md', 0, said.append) == 1
    assert said[0].startswith('README.md:1: STATUS 3') and said[1] == 'found' and said[2].startswith('README.md:2: ran')
    assert said[3] == 'README.md:3: not run, sets up an environment: .ci/run does it: git push'
