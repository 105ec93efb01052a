# SPDX-License-Identifier: Apache-2.0
"""Checks of the commands in the documents, without running them.

A document's fenced ``bash`` blocks are taken apart into commands, and each goes to what knows it: the real parser of
the script it calls, the real configuration, the launcher's own parser, ``make -n``, ``bash -n``, the packaging file. A
command that nothing here knows is a fault as well, so that no command stays unchecked by accident.
"""
from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple
from unittest import mock

from CaiT import config
from CaiT.__main__ import COMMANDS
from CaiT.cli import Parser
from CaiT.config_layers import find_file
from CaiT.errors import InputError
from CaiT.settings import FLAGS

ROOT = Path(__file__).resolve().parents[1]
# Paths of the user's files, which are not in the repository.
NOT_OURS = ('output/', 'dataset/', 'weights/', '/')
ORDINARY = {'cat', 'cd', 'cp', 'df', 'export', 'git', 'ls', 'mkdir', 'mv', 'npm', 'ruff', 'source', 'tar', 'unzip'}


class Fault(Exception):
    """What is wrong with a command, in one line."""


class Parsed(Exception):
    """A script got as far as its parsed arguments, the first argument of this."""


def blocks(text: str, language: str) -> Iterator[Tuple[int, str]]:
    """(number of its first line, content) of each fenced block of a Markdown text in that language."""
    for match in re.finditer(rf'^```{language}\n(.*?)^```$', text, re.M | re.S):
        yield text[:match.start(1)].count('\n') + 1, match.group(1)


def commands(script: str) -> Iterator[Tuple[int, List[str]]]:
    """(line, words) of each command of a shell script: no comments, assignments before it or redirections.

    Supports what the documents use: continued lines, quotes, ``&&``, ``;`` and ``|``.
    """
    number = 0
    for line in re.sub(r'\\\n\s*', lambda match: ' ' + '\0' * match.group().count('\n'), script).split('\n'):
        number += 1
        first, number = number, number + line.count('\0')
        lexer = shlex.shlex(line.replace('\0', ''), posix=True, punctuation_chars=';<>|&')
        lexer.whitespace_split = True
        words: List[str] = []
        for word in [*lexer, ';']:
            if set(word) <= set(';|&'):
                yield from [(first, _bare(words))] if words else []
                words = []
            else:
                words.append(word)


def _bare(words: List[str]) -> List[str]:
    bare = [word for before, word in zip(['', *words], words) if not {word, before} & {'>', '>>', '<'}]
    while len(bare) > 1 and re.match(r'[A-Z_]+=', bare[0]):
        bare = bare[1:]
    return bare


def check(words: List[str]) -> None:
    """Raise Fault when the command would not be understood."""
    head, rest = words[0], words[1:]
    if re.match(r'[A-Z_]+=', head) or head in ORDINARY:
        return
    if head not in KNOWN:
        raise Fault(f'{head}: nothing in tests/commands.py knows this command')
    KNOWN[head](rest)


def _python(words: List[str]) -> None:
    if not words:
        raise Fault('python: nothing to run')
    if words[0] == '-c':
        compile(words[1], '<document>', 'exec')
    elif words[:2] == ['-m', 'paddle.distributed.launch']:
        _launch(words[2:])
    elif words[:2] == ['-m', 'CaiT']:
        _cait(words[2:])
    elif words[0] == '-m' and words[1].startswith('CaiT.'):
        _script(words[1], words[2:])
    elif words[0] == '-m' and words[1] in KNOWN:
        KNOWN[words[1]](words[2:])
    elif words[0].endswith('.py'):
        _exists(words[0])
        package_script = Path('CaiT') / words[0]  # export_model.py and infer.py stand for the ones in CaiT/
        path = package_script if (ROOT / package_script).is_file() else Path(words[0])
        _script('.'.join(path.with_suffix('').parts), words[1:])
    else:
        raise Fault(f'python {words[0]}: expected a script, or -m with a module of this project')


def _mpi(words: List[str]) -> None:
    """mpirun or srun, with options of their own before the program."""
    if 'python' not in words:
        raise Fault('mpirun, srun: expected them to start python')
    _python(words[words.index('python') + 1:])


def _cait(words: List[str]) -> None:
    if words and words[0] not in COMMANDS and not words[0].startswith('-'):
        raise Fault(f'cait: has no command {words[0]}')
    if words and words[0] in COMMANDS:
        command = COMMANDS[words[0]]
        _script(command.module, [*command.flags, *words[1:]])


def _launch(words: List[str]) -> None:
    from paddle.distributed.launch.context import args_envs
    with mock.patch.object(sys, 'argv', ['launch', *words]):
        arguments, unknown = _quietly(args_envs.parse_args)
    if unknown:
        raise Fault(f'paddle.distributed.launch: does not know {unknown[0]}')
    program = [arguments.training_script, *arguments.training_script_args]
    check(program) if program[0] == 'cait' else _python(program)


def _script(module: str, words: List[str]) -> None:
    """Run a script up to its parsed flags, then build the configuration that they make."""
    def stop(parser: Parser, *_: Any) -> None:
        raise Parsed(argparse.ArgumentParser.parse_args(parser, words))
    path = ROOT / (module.replace('.', '/') + '.py')
    _exists(path.relative_to(ROOT).as_posix())
    if module.startswith('CaiT.'):
        program = importlib.import_module(module)
    else:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        program = importlib.util.module_from_spec(spec)
        with mock.patch.object(sys, 'path', list(sys.path)):
            spec.loader.exec_module(program)
    try:
        with mock.patch.object(Parser, 'parse_args', stop), mock.patch.object(sys, 'argv', [str(path), *words]):
            program.main()
    except Parsed as parsed:
        _configuration(vars(parsed.args[0]))
    except (InputError, SystemExit) as error:
        raise Fault(f'{module}: {error}') from None
    else:
        raise Fault(f'{module}: never parsed its flags')


def _configuration(flags: Dict[str, Any]) -> None:
    path = flags.get('cfg') or flags.get('config_dir')
    file = find_file(path, ROOT) if path else None
    if file and not file.is_file():
        _exists(path)
    if 'opts' not in flags or (file and not file.is_file()):
        return
    try:
        config.get_config(str(file) if file else None, flags['opts'],
                          **{name: str(value) if isinstance(value, Path) else value
                             for name, value in flags.items() if name in FLAGS})
    except InputError as error:
        raise Fault(str(error)) from None


def _quietly(parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except SystemExit:
        raise Fault(f'{" ".join(sys.argv)}: refused') from None


def _bash(words: List[str]) -> None:
    _exists(words[0])
    done = subprocess.run(['bash', '-n', words[0]], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Fault(done.stderr.strip())
    if words[0].startswith('test_tipc/'):
        _chain(words[0], words[1:])


def _chain(script: str, words: List[str]) -> None:
    """``bash test_tipc/….sh CONFIG [MODE …]``."""
    if not words:
        raise Fault(f'{script}: expected a configuration file')
    _exists(words[0])
    modes = re.findall(r'^MODES=\((.*)\)', (ROOT / 'test_tipc/common_func.sh').read_text(encoding='utf-8'), re.M)
    if len(words) > 1 and words[1] not in modes[0].split():
        raise Fault(f'{script}: mode {words[1]} is none of {modes[0]}')


def _make(words: List[str]) -> None:
    done = subprocess.run(['make', '-n', *words], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, 'LC_ALL': 'C'})
    if done.returncode or 'Nothing to be done' in done.stdout:  # a target that is declared but has no rule
        raise Fault(done.stderr.strip() or done.stdout.strip())


def _pip(words: List[str]) -> None:
    """Files of requirements exist, extras are declared."""
    packaging = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    for option, word in zip(['', *words], words):
        if option in ('-r', '-c'):
            _exists(word)
        for extra in re.findall(r'\[(.*)\]', word):
            for name in extra.split(','):
                if not re.search(rf'^{re.escape(name)} = \[', packaging, re.M):
                    raise Fault(f'pip: pyproject.toml has no extra {name!r}')


def _pytest(words: List[str]) -> None:
    for word in words:
        if '/' in word:
            _exists(word.split('::')[0])


def _exists(path: str) -> None:
    if not path.startswith(NOT_OURS) and not (ROOT / path).exists():
        raise Fault(f'{path}: is not in the repository')


KNOWN: Dict[str, Callable[[List[str]], None]] = {
    'mpirun': _mpi, 'srun': _mpi,
    'python': _python, 'python3': _python, 'bash': _bash, 'make': _make, 'pip': _pip, 'pytest': _pytest,
    'cait': _cait,
    'venv': lambda words: None, 'http.server': lambda words: None}
