# SPDX-License-Identifier: Apache-2.0
"""Preemption: schedulers send SIGTERM before they kill a job. The signal is recorded and acted on between batches,
where the training state can be saved."""
from __future__ import annotations

import signal
from typing import Any, Iterable, Iterator

from CaiT.training import distributed


class Preempted(Exception):
    """Raised to abort an evaluation after SIGTERM."""


class PreemptionSignal:
    """Context manager that replaces the process's SIGTERM handler: the signal only sets ``received``.

    The previous handler is restored when the block ends.
    """

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> PreemptionSignal:
        self._previous_handler = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, self._previous_handler)

    def _handle(self, *_: Any) -> None:
        self.received = True

    def any_rank(self) -> bool:
        """Whether any process has received the signal. All must stop at the same step, or collectives deadlock."""
        return distributed.all_reduce_sum([self.received])[0] > 0

    def guard(self, loader: Iterable[Any]) -> Iterable[Any]:
        """``loader``, raising Preempted between batches once the signal is received.

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
            if self.preemption.received:
                raise Preempted
            yield batch
