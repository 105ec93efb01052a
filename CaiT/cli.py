# SPDX-License-Identifier: Apache-2.0
"""Command-line flags in all spellings: one dash or two, underscores or hyphens, ``-eval`` or ``-eval=True``."""
from __future__ import annotations

import argparse
import math
import re
import sys
from typing import Any, Dict, Optional, Sequence

from CaiT.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors and without abbreviations of flags."""

    def __init__(self, doc: str) -> None:
        self.spellings = {'-h', '--help'}
        super().__init__(description=doc, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def flag(self, name: str, *aliases: str, **options: Any) -> None:
        """Declare ``name`` (written with underscores) under every spelling; ``aliases`` are further names for it."""
        spellings = []
        for word in (name, *aliases):
            for spelling in (word, word.replace('_', '-')):
                for dash in ('-', '--'):
                    if dash + spelling not in spellings:
                        spellings.append(dash + spelling)
        self.spellings.update(spellings)
        if options.get('type') is float:
            options['type'] = finite
        self.add_argument(*spellings, dest=name, metavar=options.pop('metavar', name.upper()), **options)

    def switch(self, name: str, *aliases: str, default: bool = False, **options: Any) -> None:
        """Declare a boolean flag: without a value, or followed by True/False (``--use-gpu=True`` in TIPC files)."""
        self.flag(name, *aliases, nargs='?', const=True, default=default, type=boolean, **options)

    def takes_value(self) -> Dict[str, bool]:
        """The declared flags, and whether each needs a value behind it."""
        return {action.dest: action.nargs != '?' for action in self._actions if action.dest != 'help'}

    def parse_known_args(self, args: Optional[Sequence[str]] = None, namespace: Any = None) -> Any:
        """As argparse's, without the single-dash abbreviations that allow_abbrev=False still accepts."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            name = word.split('=')[0]
            if re.match('--?[A-Za-z]', name) and name not in self.spellings:
                import difflib  # rarely needed
                near = difflib.get_close_matches(name, sorted(self.spellings), n=1)
                self.error(f'unknown flag {name}' + (f', did you mean {near[0]}?' if near else ''))
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> None:
        raise InputError(f'{message} (see {self.prog} --help)')


def finite(text: str) -> float:
    """Parse a number that is neither NaN nor infinite."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f'expected a finite number, found {text[:40]!r}')
    return number


def boolean(text: str) -> bool:
    """Parse 'True', 'yes', '1', 'on' and their negatives, in any case."""
    word = str(text).strip().lower()
    if word in ('true', 't', 'yes', 'y', '1', 'on'):
        return True
    if word in ('false', 'f', 'no', 'n', '0', 'off'):
        return False
    raise argparse.ArgumentTypeError(f'expected True or False, found {text!r}')
