# SPDX-License-Identifier: Apache-2.0
"""The errors that a user sees as one line, and the one place that prints them."""
from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
from typing import Any, Callable, Iterator, List, Optional

# Errors of the system that say something about the user's disk or paths, not about this code.
OUTPUT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM,
                 errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ESTALE, errno.ELOOP,
                 errno.ENXIO, errno.ENODEV, errno.EBUSY, errno.ETXTBSY, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE,
                 errno.ENFILE}
# Of starting a process: the system has no more of something.
PROCESS_ERRNOS = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
# Control characters, Unicode's line ends and marks of direction, bytes that are not UTF-8.
_ODD = re.compile('[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')


class InputError(ValueError):
    """Bad input: the message is one line naming the file, key or flag, what was found and what was expected."""


class NonFiniteError(ArithmeticError):
    """Training has diverged: a loss, a gradient, a weight or an optimizer array is NaN or infinite.

    The message says where, and which checkpoint to go on from.
    """


class WorkerError(RuntimeError):
    """A data worker process died."""


def shown(text: Any, limit: int = 80) -> str:
    """A text from a file, fit for one line: printable and short. Of anything else, its type only."""
    if not isinstance(text, str):
        return f'({type(text).__name__})'
    text = ''.join(character if character.isprintable() else '?' for character in text[:limit + 1])
    return text if len(text) <= limit else text[:limit] + '…'


def run(main: Callable[[], Optional[int]], fast_exit: bool = False) -> None:
    """Call ``main`` and leave the process with its return value; an error of a user becomes one line and status 2.

    Such are the exceptions above, and an OSError that says that something cannot be written (a full disk, a read-only
    folder). Opens the null device for standard streams that are closed: a file that is opened later would take their
    place, and what is printed would land in it.

    ``fast_exit`` exits with ``os._exit``, without interpreter shutdown and exit handlers: freeing an inference engine
    takes tens of milliseconds. For programs that have closed their files and ended their workers.
    """
    _escape_unprintable()
    try:
        _open_closed_streams()
        with _second_interrupt_ends() as interrupts:
            try:
                status = main()
            except Exception:
                if interrupts:  # what a library has made of it, an ImportError of Paddle for one
                    raise KeyboardInterrupt from None
                raise
        sys.stdout.flush()
        if fast_exit:
            sys.stderr.flush()
            os._exit(status or 0)
    except (InputError, NonFiniteError, WorkerError) as error:
        status = _fail(str(error))
    except BrokenPipeError:  # `… | head`: the reader has what it wanted
        discard_stdout()
        status = 141
    except OSError as error:
        if error.errno not in OUTPUT_ERRNOS:
            raise
        status = _fail(f'{error.filename or "output"}: {error.strerror}')
    except KeyboardInterrupt as interrupt:
        _say(' '.join(['interrupted', *map(str, interrupt.args)]))
        status = 130
    _flush_or_discard_stdout()
    sys.exit(status)


@contextlib.contextmanager
def _second_interrupt_ends() -> Iterator[List[int]]:
    """The first Ctrl-C raises KeyboardInterrupt; another, while workers and files are put in order, ends the process
    at once. Data workers end with it, and the next run removes what it left. Yields the list of those that came."""
    interrupts: List[int] = []
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler \
            or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def end(*_: Any) -> None:
        os.write(2, b'interrupted\n')
        os._exit(130)

    def interrupt(number: int, _: Any) -> None:
        interrupts.append(number)
        signal.signal(signal.SIGINT, end)
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def discard_stdout() -> None:
    """Send standard output to the null device from now on, for when its reader is gone or its disk is full."""
    _discard(sys.stdout)


def _discard(stream: Any) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _fail(message: str) -> int:
    _say('error: ' + _one_line(message))
    return 2


def _say(line: str) -> None:
    """Print to standard error, which may be as full or closed as what the error is about."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)  # or Python fails to flush it at exit, and changes the status


def _one_line(message: str) -> str:
    """``message`` without what ends a line or steers a terminal: names in it come from files and folders."""
    return _ODD.sub(lambda odd: odd[0].encode('unicode_escape').decode('ascii'), ' '.join(message.split('\n')))


def _flush_or_discard_stdout() -> None:
    """Python flushes standard output at exit: if that fails again, it prints a traceback and changes the status."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_stdout()


def _open_closed_streams() -> None:
    """After ``>&-`` or ``2>&-`` Python's stream is None and its descriptor is free for the next file."""
    for descriptor, name in enumerate(('stdin', 'stdout', 'stderr')):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, 'w' if descriptor else 'r', closefd=False, encoding='utf-8'))


def _escape_unprintable() -> None:
    """What the terminal's encoding lacks, in a path for one, is printed as an escape (\\u4e2d) and not an error."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, 'errors', '') == 'strict' and hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
