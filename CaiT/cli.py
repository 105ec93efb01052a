# SPDX-License-Identifier: Apache-2.0
"""Flags as this project's users type them: one dash or two, underscores or hyphens, ``-eval`` or ``-eval=True``."""
from __future__ import annotations

import argparse
from typing import Any

from CaiT.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without abbreviations that could change meaning later."""

    def __init__(self, doc: str) -> None:
        super().__init__(description=doc, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def flag(self, name: str, *also: str, **options: Any) -> None:
        """Declare ``name`` (written with underscores) under every spelling; ``also`` are further names for it."""
        spellings = []
        for word in (name, *also):
            for spelling in (word, word.replace('_', '-')):
                for dash in ('-', '--'):
                    if dash + spelling not in spellings:
                        spellings.append(dash + spelling)
        self.add_argument(*spellings, dest=name, metavar=options.pop('metavar', name.upper()), **options)

    def switch(self, name: str, *also: str, default: bool = False, **options: Any) -> None:
        """Declare a yes/no flag: bare, or with True/False behind it (``--use-gpu=True`` in certification files)."""
        self.flag(name, *also, nargs='?', const=True, default=default, type=boolean, **options)

    def error(self, message: str) -> None:
        raise InputError(f'{message} (see {self.prog} --help)')


def boolean(text: str) -> bool:
    """'True'/'False' and the usual relatives."""
    word = str(text).strip().lower()
    if word in ('true', 't', 'yes', 'y', '1', 'on'):
        return True
    if word in ('false', 'f', 'no', 'n', '0', 'off'):
        return False
    raise argparse.ArgumentTypeError(f'expected True or False, found {text!r}')
