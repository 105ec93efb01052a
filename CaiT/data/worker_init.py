# SPDX-License-Identifier: Apache-2.0
"""How a data worker process begins: which signals it heeds, and when it ends."""
from __future__ import annotations

import atexit
import ctypes
import functools
import mmap
import os
import signal
import sys
import threading

import cv2


class WorkerInit:
    """Initializes a worker process: OpenCV threads off; SIGINT and SIGHUP ignored, SIGTERM blocked until
    ``exiting[0]`` is set.

    Schedulers send SIGTERM to every process of a job, a terminal SIGINT and SIGHUP. A worker that died of it would take
    the trainer down before the trainer has saved its state, so workers ignore it until the trainer exits and terminates
    them. A thread waits for the signal: a Python handler may not run while the main thread waits for work. If the
    trainer is killed, the kernel kills them (PR_SET_PDEATHSIG): Paddle's own check of the parent does not run while a
    worker waits for work.
    """

    def __init__(self, exiting: mmap.mmap) -> None:
        self.exiting = exiting

    def __call__(self, worker_id: int) -> None:
        cv2.setNumThreads(0)
        if sys.platform == 'linux':
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        for name in ('SIGINT', 'SIGHUP'):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._exit_on_sigterm, daemon=True).start()

    def _exit_on_sigterm(self) -> None:
        while signal.sigwait({signal.SIGTERM}) and not self.exiting[0]:
            pass
        os._exit(0)


@functools.lru_cache(maxsize=None)
def exit_flag() -> mmap.mmap:
    """One byte shared with all workers of this process, which an exit handler sets to 1.

    It belongs to the process, not to a Loader: the handler must not keep loaders alive, and Paddle's threads can keep
    workers running after their loader is gone.
    """
    # Exit handlers run in reverse order: this one must run before multiprocessing's, which terminates the workers.
    import multiprocessing.util  # noqa: F401
    flag = mmap.mmap(-1, 1)
    atexit.register(flag.__setitem__, 0, 1)
    return flag
