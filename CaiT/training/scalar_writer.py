# SPDX-License-Identifier: Apache-2.0
"""What the writers of scalars for dashboards share."""
from __future__ import annotations

from typing import Any, Mapping


class ScalarWriter:
    """Writes scalars, indexed by the number of micro-batches, to ``writer``; a no-op when there is none."""
    writer: Any = None  # has add_scalar(name, value, step) and close()

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
