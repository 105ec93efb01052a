# SPDX-License-Identifier: Apache-2.0
"""Being told to stop: by a scheduler (SIGTERM), by Ctrl-C or a notebook's stop button (SIGINT), or because the terminal
was closed (SIGHUP). The signal is recorded and acted on between batches, where the training state can be saved."""
from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any, Dict, Iterable, Iterator, Optional

from CaiT.training import distributed

SIGNALS = [getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGHUP') if hasattr(signal, name)]

# Several processes agree on whether to stop once in this many seconds, but not more seldom than in this many steps.
AGREE_SECONDS, AGREE_STEPS = 1.0, 50


class Preempted(Exception):
    """Raised to abort an evaluation after a signal."""


class PreemptionSignal:
    """Context manager that replaces the process's handlers of SIGTERM, SIGINT and SIGHUP: a signal sets ``received``.

    A second SIGINT raises KeyboardInterrupt at once. A signal that the process ignores stays ignored (nohup). The
    previous handlers are restored when the block ends. Outside the main thread, where Python allows no handlers, it
    does nothing.
    """

    def __init__(self) -> None:
        self.received: Optional[int] = None  # number of the first signal
        self._interrupts = 0
        self._previous: Dict[int, Any] = {}
        self._steps = self._steps_left = 1  # between two agreements of several processes, and until the next
        self._agreed = time.monotonic()

    def __enter__(self) -> PreemptionSignal:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: set by something that is not Python
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: Any) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if number == signal.SIGINT:  # a step can take seconds: who waits at a terminal presses again
            with contextlib.suppress(OSError):
                os.write(2, b'SIGINT: saving after this step (a second one ends at once, without saving)\n')
        self.received = self.received or number

    @property
    def name(self) -> str:
        return signal.Signals(self.received or signal.SIGTERM).name

    def leave(self, line: str) -> None:
        """End the job after its state is saved: KeyboardInterrupt with ``line`` after SIGINT, else SystemExit with
        128 + the signal's number, the status that a shell reports."""
        number = self.received or signal.SIGTERM  # another process's, when this one got none
        if number == signal.SIGINT:
            raise KeyboardInterrupt(line)
        raise SystemExit(128 + number)

    def any_rank(self) -> bool:
        """Whether any process has received a signal. All must stop at the same step, or collectives deadlock."""
        return distributed.all_reduce_sum([self.received is not None])[0] > 0

    def any_rank_at_intervals(self) -> bool:
        """``any_rank`` of a step: processes that have to agree do so about once in AGREE_SECONDS, for they wait for
        each other then. The number of steps until the next time follows from all processes' times, the same in each.
        """
        if distributed.world_size() == 1:
            return self.received is not None
        self._steps_left -= 1
        if self._steps_left > 0:
            return False
        seconds = (time.monotonic() - self._agreed) / self._steps
        stopped, of_all = distributed.all_reduce_sum([self.received is not None, seconds])
        mean = max(of_all / distributed.world_size(), 1e-3)
        self._steps = self._steps_left = min(max(round(AGREE_SECONDS / mean), 1), AGREE_STEPS)
        self._agreed = time.monotonic()
        return stopped > 0

    def guard(self, loader: Iterable[Any]) -> Iterable[Any]:
        """``loader``, raising Preempted between batches once a signal is received.

        With several processes ``loader`` is returned as it is: they have different numbers of batches, so there is no
        step at which all could stop together.
        """
        return _GuardedLoader(loader, self) if distributed.world_size() == 1 else loader


class _GuardedLoader:
    def __init__(self, loader: Iterable[Any], preemption: PreemptionSignal) -> None:
        self.loader, self.preemption = loader, preemption

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if self.preemption.received is not None:
                raise Preempted
            yield batch
