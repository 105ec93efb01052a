# SPDX-License-Identifier: Apache-2.0
"""The checkouts that a benchmark with --before compares."""
from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional

from CaiT.errors import InputError


def sides(before: Optional[str], root: Path) -> Dict[str, Path]:
    """'before' (where it is given) and 'now', in this order; InputError when ``before`` is no checkout: an installed
    package would be measured in its place."""
    if not before:
        return {'now': root}
    folder = Path(before).resolve()
    if not (folder / 'CaiT' / '__init__.py').is_file():
        raise InputError(f'--before {before}: no checkout of this project, found no CaiT/__init__.py in it')
    return {'before': folder, 'now': root}
