# SPDX-License-Identifier: Apache-2.0
"""The command ``cait``, also ``python -m CaiT``: every script and tool by one word, from any folder.

The scripts stay as they are; a command is a script with its own flags. A new one is one line of COMMANDS.
"""
from __future__ import annotations

import difflib
import importlib
import re
import sys
from pathlib import Path
from typing import List, NamedTuple, Optional

import CaiT
from CaiT import errors
from CaiT.errors import InputError


class Command(NamedTuple):
    """``module`` has a function ``main`` that parses sys.argv; ``flags`` are given to it before the user's."""
    module: str
    help: str
    flags: tuple = ()


COMMANDS = {
    'train': Command('CaiT.main_single_gpu', 'train a model, or fine-tune one'),
    'eval': Command('CaiT.main_single_gpu', 'accuracy of weights on a validation list', ('-eval',)),
    'pred': Command('CaiT.main_single_gpu', 'predict images with weights', ('-pred',)),
    'export': Command('CaiT.export_model', 'export weights for an inference engine, with a check'),
    'infer': Command('CaiT.infer', 'predict images with an exported model'),
    'serve': Command('CaiT.serve.command', 'answer requests over HTTP with an exported model'),
    'attention': Command('CaiT.tools.attention_map', 'attention maps laid over images'),
    'report': Command('CaiT.tools.report', 'HTML pages about runs and predictions'),
    'benchmark': Command('CaiT.tools.benchmark', 'images per second on every engine and precision'),
    'weights': Command('CaiT.tools.weights', 'published weights: list, get, verify'),
    'convert': Command('CaiT.tools.convert_weights', "a checkpoint to this project's format, or to timm's"),
    'lists': Command('CaiT.tools.make_lists', 'list files of a folder of images'),
    'digits': Command('CaiT.tools.make_digits', 'write the embedded dataset of digits'),
}
USAGE = """usage: {prog} COMMAND [FLAGS]

{commands}

{prog} COMMAND --help lists the flags of a command. -cfg takes a YAML file or the name of a configuration that comes
with the package: -cfg=cait_xxs24_224, -cfg=recipes/finetune_cifar. On several devices:
python -m paddle.distributed.launch --devices 0,1 {launched} train …"""


def program() -> str:
    """How this program was started: 'cait', or 'python -m CaiT'."""
    return 'python -m CaiT' if Path(sys.argv[0]).name == '__main__.py' else 'cait'


def usage(prog: str) -> str:
    lines = '\n'.join(f'  {name:<11}{command.help}' for name, command in COMMANDS.items())
    launched = 'cait' if prog == 'cait' else '$(which cait)'
    return USAGE.format(prog=prog, commands=lines, launched=launched)


def as_commands(text: str, prog: str) -> str:
    """``text`` with the scripts' command lines, which need a clone, turned into those of this program."""
    text = re.sub(r'python CaiT/main_single_gpu\.py(.*) -(eval|pred)$', rf'{prog} \2\1', text, flags=re.M)
    for script, name in (('CaiT/main_single_gpu.py', 'train'), ('export_model.py', 'export'), ('infer.py', 'infer')):
        text = text.replace(f'python {script}', f'{prog} {name}')
    for name, command in COMMANDS.items():
        text = re.sub(rf'python -m {re.escape(command.module)}\b', f'{prog} {name}', text)
    return text


def main(arguments: Optional[List[str]] = None) -> Optional[int]:
    """Run one command; returns its exit status. Raises InputError for an unknown one, and what the command raises."""
    words, prog = (sys.argv[1:] if arguments is None else arguments), program()
    name = words[0] if words else '--help'
    if name in ('-h', '--help', 'help'):
        print(usage(prog))
        return 0
    if name in ('-V', '--version', 'version'):
        print(f'cait {CaiT.__version__}')
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise InputError(f'{prog}: found {name!r}, expected one of {", ".join(COMMANDS)}'
                         + (f'; did you mean {near[0]}?' if near else ''))
    command = COMMANDS[name]
    sys.argv = [f'{prog} {name}', *command.flags, *words[1:]]
    module = importlib.import_module(command.module)
    # The module's docstring is the beginning of its --help.
    module.__doc__ = re.sub(r"'?CaiT/configs/([\w/]+)\.yaml'?", r'\1', as_commands(module.__doc__, prog))
    try:
        return module.main()
    except InputError as error:
        raise InputError(as_commands(str(error), prog)) from None


def run() -> None:
    """The entry point: leaves the process. Inference leaves as infer.py does, without the interpreter's shutdown."""
    errors.run(main, fast_exit=sys.argv[1:2] in (['infer'], ['serve']))


if __name__ == '__main__':
    run()
