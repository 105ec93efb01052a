# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, which schedulers send before they kill: noted here, obeyed where the state can be saved."""
from __future__ import annotations

import signal
from typing import Any, Iterable, Iterator

from CaiT.training import distributed


class Stopping(Exception):
    """Raised out of an evaluation that is cut short."""


class StopSignal:
    """Within the block SIGTERM only sets ``seen``; after it, the handler of before is back."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> StopSignal:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: Any) -> None:
        self.seen = True

    def agreed(self) -> bool:
        """Whether any process was told to stop: all must leave at the same step, or the others wait for ever."""
        return distributed.total([self.seen])[0] > 0

    def watch(self, loader: Iterable[Any]) -> Iterable[Any]:
        """The loader, raising Stopping between batches. With many processes it runs to its end: they have different
        numbers of batches, so there is no step at which to agree."""
        return _Watched(loader, self) if distributed.world() == 1 else loader


class _Watched:
    def __init__(self, loader: Iterable[Any], stop: StopSignal) -> None:
        self.loader, self.stop = loader, stop

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if self.stop.seen:
                raise Stopping
            yield batch
