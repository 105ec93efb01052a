# SPDX-License-Identifier: Apache-2.0
"""Checkpoints written in a thread while training goes on."""
from __future__ import annotations

import threading
from typing import Any, Callable, Optional

Task = Callable[[], Any]


class Background:
    """Runs tasks one after the other in a thread, or at once when it is not ``enabled``.

    What a task raises is raised by the next ``check``, ``run`` or ``wait``, or when the block ends: a context manager,
    which waits for the last task. When the block ends by another exception, ``say`` gets a line about the failure.
    """

    def __init__(self, enabled: bool, say: Callable[[str], Any] = print) -> None:
        self.enabled, self._say = enabled, say
        self._thread: Optional[threading.Thread] = None
        self._failure: Optional[BaseException] = None

    def run(self, task: Task) -> None:
        """Start ``task``, once the one before it has ended."""
        if not self.enabled:
            task()
            return
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(task,), name='checkpoint')
        self._thread.start()

    def check(self) -> None:
        """Raise what a task has raised; does not wait."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Until the task has ended; raises what it has raised."""
        self._join()
        self.check()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.wait()
            return
        self._join()
        if self._failure is not None:
            self._say(f'error: the checkpoint that was being written in the background failed: {self._failure}')

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, task: Task) -> None:
        try:
            task()
        except BaseException as error:  # for the thread that trains, whatever it is
            self._failure = error
