# SPDX-License-Identifier: Apache-2.0
"""The one exception a user can cause, and the one place that turns it into a line on the screen."""
from __future__ import annotations

import os
import sys
from typing import Callable, Optional


class InputError(Exception):
    """Bad input: the message is one line naming the file, key or flag, what was found and what was expected."""


def run(main: Callable[[], Optional[int]], at_once: bool = False) -> None:
    """Call ``main`` and leave the process with its return value; an InputError becomes one line and status 2.

    ``at_once`` leaves without taking apart what was loaded: an inference engine needs tens of milliseconds to give back
    what the system takes anyway. For programs that have closed their files and ended their workers by then.
    """
    _escape_unprintable()
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


def _escape_unprintable() -> None:
    """What the terminal's encoding lacks, in a path for one, is printed as an escape (\\u4e2d) and not an error."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, 'errors', '') == 'strict' and hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
