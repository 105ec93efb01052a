# SPDX-License-Identifier: Apache-2.0
"""Every setting with its default, its values, its flag and its meaning, for docs/configuration.md.

    python -m CaiT.tools.settings_page            print the tables
    python -m CaiT.tools.settings_page --write    write them between the markers of docs/configuration.md
    python -m CaiT.tools.settings_page --check    exit 1 when the page has others

Meanings are the comments of ``DEFAULTS`` in CaiT/settings.py: behind a key, or above it as ``KEY, KEY: meaning; …``
where several share a line; those of a model's shape are in the docstring of ``CaiT.models.cait.CaiT``.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CaiT import checks, errors, settings
from CaiT.cli import Parser
from CaiT.errors import InputError
from CaiT.tools.model_table import ROOT, embed, update

PAGE = ROOT / 'docs/configuration.md'
START, END = '<!-- settings:start -->', '<!-- settings:end -->'
SECTIONS = {'DATA': 'Data', 'MODEL': 'Model', 'AUG': 'Augmentation in training', 'TRAIN': 'Training',
            'SAVE': 'Checkpoints that stay', '': 'The run'}
OF_THE_MODEL = 'of the model'
MORE_CHOICES = {'AUG.ERASE_MODE': checks.ERASE_MODES}
FLAG_TEXTS = {'DATA.BATCH_SIZE_EVAL': '`-batch_size` with `-eval` or `-pred`'}


def comments() -> Dict[str, str]:
    """{full name of a setting: its comment} from the source of CaiT/settings.py."""
    source = Path(settings.__file__).read_text(encoding='utf-8')
    lines = source[source.index('DEFAULTS: Dict'):source.index('\nCHOICES = ')].splitlines()
    found: Dict[str, str] = {}
    section, above = '', ''
    for line in lines:
        opened = re.match(r"    '([A-Z]+)': \{", line)
        behind = re.match(r"\s+'([A-Z_0-9]+)': (.*?)  # (.*)$", line)
        several = re.match(r"\s+'([A-Z]+)': \{'", line)
        if opened:
            section = opened.group(1) + '.'
        elif line.startswith('    }'):
            found.update(_several(above, section))  # those of the model's variant, which have no line of their own
            section = ''
        elif several:
            found.update(_several(above, f'{section}{several.group(1)}.'))
        elif behind:
            found[section + behind.group(1)] = behind.group(3)
        comment = re.match(r'\s+# (.*)$', line)
        above = f'{above} {comment.group(1)}'.strip() if comment else ''
    return found


def _several(text: str, section: str) -> Dict[str, str]:
    """The meanings of a comment ``KEY, KEY: meaning; KEY: meaning``."""
    found = {}
    for part in text.split('; '):
        match = re.match(r'([A-Z_]+(?:, [A-Z_]+)*): (.*)$', part)
        for key in match.group(1).split(', ') if match else ():
            found[section + key] = match.group(2)
    return found


def shape() -> Dict[str, str]:
    """{MODEL.…: meaning} of the arguments of the models' constructors."""
    from CaiT.models.cait import CaiT
    text = re.sub(r'\n {8,}', ' ', CaiT.__doc__)
    return {f'MODEL.{name.upper()}': meaning for name, meaning in re.findall(r'^    (\w+): (.*)$', text, re.M)}


def defaults() -> Iterator[Tuple[str, Any]]:
    """(full name, default) of every setting, in the order of CaiT/settings.py."""
    from CaiT.models.registry import get_variant
    variant = get_variant(settings.DEFAULTS['MODEL']['NAME'])
    more = {'DATA': {name.upper(): OF_THE_MODEL for name in variant.data},
            'MODEL': {name.upper(): OF_THE_MODEL for name in variant.arch}}

    def walk(values: Mapping[str, Any], prefix: str) -> Iterator[Tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, Mapping):
                yield from walk({**value, **more.get(prefix + key, {})}, f'{prefix}{key}.')
            else:
                yield prefix + key, value
    return walk(settings.DEFAULTS, '')


def values(name: str, default: Any) -> str:
    """What a setting may be, in a table's cell."""
    choices = {**settings.CHOICES, **MORE_CHOICES}.get(name)
    if choices:
        return ', '.join(f'`{choice}`' for choice in choices)
    if name in settings.FRACTIONS:
        return 'from 0 to 1'
    if name in settings.AT_LEAST:
        return f'{settings.AT_LEAST[name]} or more'
    return '`True`, `False`' if isinstance(default, bool) else ''


def printed(value: Any) -> str:
    if value == OF_THE_MODEL:
        return value
    if isinstance(value, (list, tuple)):
        return f'`{[round(one, 4) for one in value]}`'
    return "`''`" if value == '' else f'`{value:g}`' if isinstance(value, float) else f'`{value}`'


def tables() -> List[str]:
    """The page's lines. InputError when a setting has no meaning."""
    meanings, flags = {**comments(), **shape()}, {key: flag for flag, key in settings.FLAGS.items()}
    rows: Dict[str, List[str]] = {section: [] for section in SECTIONS}
    for name, default in defaults():
        if name not in meanings:
            raise InputError(f'CaiT/settings.py: {name} has no comment, expected its meaning')
        section = name.split('.')[0] if '.' in name else ''
        flag = FLAG_TEXTS.get(name) or (f'`-{flags[name]}`' if name in flags else '')
        rows[section].append(f'| `{name}` | {printed(default)} | {values(name, default)} | {flag} | '
                             f'{meanings[name].replace("|", "or")} |')
    lines = []
    for section, title in SECTIONS.items():
        lines += ['', f'## {title}', '', '| setting | default | values | flag | meaning |', '|---|---|---|---|---|',
                  *rows[section]]
    return [*lines, '']


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.switch('write', help='write the tables between the markers of docs/configuration.md')
    parser.switch('check', help='compare the page with the tables')
    options = parser.parse_args(arguments)
    if options.write and options.check:
        raise InputError('--write and --check: found both, expected one')
    if not (options.write or options.check):
        print('\n'.join(tables()))
        return 0
    new = embed(PAGE.read_text(encoding='utf-8'), tables(), PAGE, START, END)
    return update({PAGE: new}, options.write, 'settings_page', 'other tables')


if __name__ == '__main__':
    errors.run(main)
