# SPDX-License-Identifier: Apache-2.0
"""Makes the load of a model take a second: loaded by Python itself in a process whose PYTHONPATH has this folder."""
from __future__ import annotations

import time

from CaiT.deploy import metadata

read = metadata.read


def slowly(folder: str) -> metadata.Metadata:
    time.sleep(1)
    return read(folder)


metadata.read = slowly
