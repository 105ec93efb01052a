# SPDX-License-Identifier: Apache-2.0
"""The exception for errors in the user's input, and the entry point that prints it as one line."""
from __future__ import annotations

import os
import sys
from typing import Callable, Optional


class InputError(Exception):
    """An error in the user's input. The message is one line: file, key or flag, what was found, what was expected."""


def run(main: Callable[[], Optional[int]], fast_exit: bool = False) -> None:
    """Call ``main`` and exit with its return value as status; an InputError becomes one line and status 2.

    ``fast_exit`` exits with ``os._exit``, without interpreter shutdown and exit handlers: freeing an inference engine
    takes tens of milliseconds. For programs that have closed their files and ended their workers.
    """
    try:
        status = main()
        sys.stdout.flush()
        if fast_exit:
            sys.stderr.flush()
            os._exit(status or 0)
    except InputError as error:
        print('error: ' + ' '.join(str(error).split('\n')), file=sys.stderr)
        status = 2
    except BrokenPipeError:  # as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        status = 130
    sys.exit(status)
