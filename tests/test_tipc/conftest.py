# SPDX-License-Identifier: Apache-2.0
"""For the tests of the certification scripts."""
from __future__ import annotations

from pathlib import Path

import pytest
from trees import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A checkout of its own, with a stub in the interpreter's place."""
    return Tree(tmp_path)
