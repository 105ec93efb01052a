# SPDX-License-Identifier: Apache-2.0
"""The one exception a user can cause, and the one place that turns it into a line on the screen."""
from __future__ import annotations

import os
import sys
from typing import Any, Callable, Optional


class InputError(Exception):
    """Bad input: the message is one line naming the file, key or flag, what was found and what was expected."""


def shown(text: Any, limit: int = 80) -> str:
    """A text from a file, fit for one line: printable and short. Of anything else, its type only."""
    if not isinstance(text, str):
        return f'({type(text).__name__})'
    text = ''.join(character if character.isprintable() else '?' for character in text[:limit + 1])
    return text if len(text) <= limit else text[:limit] + '…'


def run(main: Callable[[], Optional[int]], at_once: bool = False) -> None:
    """Call ``main`` and leave the process with its return value; an InputError becomes one line and status 2.

    ``at_once`` leaves without taking apart what was loaded: an inference engine needs tens of milliseconds to give back
    what the system takes anyway. For programs that have closed their files and ended their workers by then.
    """
    try:
        status = main()
        sys.stdout.flush()
        if at_once:
            sys.stderr.flush()
            os._exit(status or 0)
    except InputError as error:
        print('error: ' + ' '.join(str(error).split('\n')), file=sys.stderr)
        status = 2
    except BrokenPipeError:  # `… | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        status = 130
    sys.exit(status)
