# SPDX-License-Identifier: Apache-2.0
"""What can be known of the Dockerfiles without Docker; `make docker-steps` executes the steps of one."""
from __future__ import annotations

import fnmatch
import re
import shlex

import pytest

from tests import docker_steps
from tests.docker_steps import ROOT, steps

FILES = ['Dockerfile', 'Dockerfile.gpu']


@pytest.mark.parametrize('name', FILES)
def test_what_is_copied_exists_and_is_sent_to_docker(name):
    allowed = [line[1:] for line in (ROOT / '.dockerignore').read_text().splitlines() if line.startswith('!')]
    for word, arguments in steps((ROOT / name).read_text()):
        for source in shlex.split(arguments)[:-1] if word == 'COPY' else ():
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


@pytest.mark.parametrize('name', FILES)
def test_the_image_has_the_paddle_that_was_tested(name):
    listed = dict(steps((ROOT / name).read_text()))
    version = re.search(r'^paddlepaddle==(.*)$', (ROOT / 'constraints.txt').read_text(), re.M).group(1)
    tag = listed.get('ARG', listed['FROM']).split('=')[-1].split(':')[-1]
    assert tag.split('-')[0] == version and ('-gpu-cuda' in tag) is (name == 'Dockerfile.gpu')


def test_both_have_the_same_steps():
    """But for the golden values, which gpu_check needs."""
    cpu, gpu = ([step for step in steps((ROOT / name).read_text()) if step[0] in ('WORKDIR', 'COPY', 'RUN', 'CMD')]
                for name in FILES)
    assert [step for step in gpu if 'goldens' not in step[1]] == cpu and len(gpu) == len(cpu) + 1


@pytest.mark.parametrize('text, expected', [
    ('FROM a\nRUN x \\\n  && y\n', [('FROM', 'a'), ('RUN', 'x    && y')]),
    ('# a comment\n\nCOPY a b ./\nCMD ["bash"]\n', [('COPY', 'a b ./'), ('CMD', '["bash"]')])])
def test_a_file_is_parsed(text, expected):
    assert steps(text) == expected


@pytest.mark.parametrize('word', ['ADD', 'VOLUME', 'run'])
def test_an_instruction_that_would_be_left_out_is_refused(word):
    with pytest.raises(ValueError, match=f'^{word}: expected one of ARG, FROM'):
        steps(f'FROM a\n{word} b c\n')


@pytest.mark.parametrize('command, status', [
    ('true', 0), ('exit 3', 3), ('false | true', 1), ('test -f pyproject.toml', 0)])
def test_the_status_is_that_of_the_step(monkeypatch, tmp_path, command, status):
    """Without the environment, which takes a minute to make."""
    text = f'FROM paddlepaddle/paddle:3.3.1\nCOPY pyproject.toml ./\nRUN {command}\n'
    monkeypatch.setattr(docker_steps, 'steps', lambda _: steps(text))
    monkeypatch.setattr(docker_steps.venv, 'create', lambda *_, **__: None)
    run = docker_steps.subprocess.run
    monkeypatch.setattr(docker_steps.subprocess, 'run', lambda words, **options: run(
        [*words[:-1], 'true' if 'pip install' in words[-1] else words[-1]], **options))
    assert docker_steps.main([]) == status
